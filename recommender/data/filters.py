"""Leave out low ratings, and users and items with few."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recommender.errors import UserError
from recommender.params import Data


def filter_ratings(ratings: pa.Table, data: Data) -> tuple[pa.Table, dict[str, int]]:
    """Return the ratings that are kept, and how many each filter that is set has removed."""
    removed = {}
    if data.min_rating_value is not None:
        kept = at_least(ratings, data.min_rating_value)
        removed["min_rating_value"] = len(ratings) - len(kept)
        ratings = kept
    least = {"user_id": data.min_ratings.user, "item_id": data.min_ratings.item}
    if max(least.values()):
        rows, left = np.arange(len(ratings)), -1
        codes = {name: number(ratings[name])[0] for name in least}
        while left != len(rows):
            left = len(rows)
            for name, minimum in least.items():
                own = codes[name][rows]
                rows = rows[np.bincount(own, minlength=1)[own] >= minimum]
        removed["min_ratings"] = len(ratings) - len(rows)
        ratings = ratings.take(pa.array(rows))
    check_left(len(ratings), removed)
    return ratings, removed


def check_left(left: int, removed: dict[str, int]) -> None:
    """Refuse filters that leave no rating; `removed` is what each has."""
    if removed and not left:
        shown = " and ".join(f"data.{name} removes {count}" for name, count in removed.items())
        raise UserError(f"params.yaml: no rating is left: {shown}; choose less")


def at_least(ratings: pa.Table, lowest: float | None) -> pa.Table:
    """Return the ratings that are not below a value, or all where there is none."""
    if lowest is None:
        return ratings
    return ratings.filter(pc.greater_equal(ratings["rating"], pa.scalar(lowest, pa.float32())))


def number(ids: pa.ChunkedArray) -> tuple[np.ndarray[tuple[int], np.dtype[np.int32]], pa.Array]:
    """Return numbers that count up from 0 in order of first appearance, and the id of each."""
    coded = ids.combine_chunks().dictionary_encode()
    numbers, codes = pd.factorize(coded.indices.to_numpy())
    return numbers.astype(np.int32), coded.dictionary.take(pa.array(codes))
