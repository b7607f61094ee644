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
        kept = ratings.filter(pc.greater_equal(ratings["rating"], pa.scalar(data.min_rating_value, pa.float32())))
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
    if removed and not len(ratings):
        shown = " and ".join(f"data.{name} removes {count}" for name, count in removed.items())
        raise UserError(f"params.yaml: no rating is left: {shown}; choose less")
    return ratings, removed


def number(ids: pa.ChunkedArray) -> tuple[np.ndarray[tuple[int], np.dtype[np.int32]], pa.Array]:
    """Return numbers that count up from 0 in order of first appearance, and the id of each."""
    coded = ids.combine_chunks().dictionary_encode()
    numbers, codes = pd.factorize(coded.indices.to_numpy())
    return numbers.astype(np.int32), coded.dictionary.take(pa.array(codes))
