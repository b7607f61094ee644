"""What becomes of a user's further ratings of an item."""

from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recommender.data.own.rows import Rows

SHOWN: Final = 3  # pairs in a message
Coded = tuple[NDArray[np.int32], pa.Array]  # codes, and the ids that they number


def without_duplicates(
    rows: Rows,
    users: Coded,
    items: Coded,
    rating: pa.ChunkedArray,
    timestamp: pa.ChunkedArray,
    policy: Literal["error", "last", "mean", "max"],
) -> tuple[NDArray[np.bool_] | None, pa.ChunkedArray]:
    """Return which rows to keep, None for all, and the ratings; or refuse duplicates.

    Of each pair, the last in time is kept and, of the same time or without times, the last in the file: for ``max`` of
    those with the highest rating, and for ``mean`` with the mean as its rating.
    """
    pairs = _pairs(users, items)
    pairs.sort()  # in place, and computed again below: memory is short here
    repeated = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
    if not len(repeated):
        return None, rating
    pairs = _pairs(users, items)
    of_repeated = np.flatnonzero(pc.is_in(pa.array(pairs), value_set=pa.array(repeated)))
    pairs = pairs[of_repeated]
    if policy == "error":
        shown = []
        for pair in repeated[:SHOWN]:
            found = of_repeated[pairs == pair]
            user, item = (ids[int(codes[found[0]])].as_py() for codes, ids in (users, items))
            places = ", ".join(rows.places(found[:5].tolist()))
            shown.append(f"user {user!s:.40} and item {item!s:.40} on {places}")
        rows.file.refuse(
            f"{len(pairs) - len(repeated)} ratings repeat a user and item rated before: {'; '.join(shown)}",
            "keep one of each, or set data.own.duplicates to last, max or mean",
        )
    values, times = (column.take(pa.array(of_repeated)).to_numpy() for column in (rating, timestamp))
    keys = [values, pairs] if policy == "max" else [pairs]
    order = np.lexsort(keys if timestamp.null_count else [times, *keys])
    last = np.append(np.diff(pairs[order]) != 0, True)
    kept = np.ones(len(rating), dtype=bool)
    kept[of_repeated[order[~last]]] = False
    if policy == "mean":
        groups = np.searchsorted(repeated, pairs)
        means = np.bincount(groups, weights=values) / np.bincount(groups)
        new = rating.to_numpy().copy()
        new[of_repeated] = means[groups]
        rating = pa.chunked_array([new])
    return kept, rating


def _pairs(users: Coded, items: Coded) -> NDArray[np.int64]:
    """Return a number for each row's user and item."""
    pairs = users[0].astype(np.int64)
    pairs *= len(items[1])
    pairs += items[0]
    return pairs
