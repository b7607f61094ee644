"""The parts of the split cut into blocks: user part i with item part j is row group i * parts + j of each file.

An index belongs to the part of its remainder by the number of parts.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recommender.data.interactions import COLUMNS, Interactions, check_ratings, check_some, read_scale
from recommender.errors import RERUN, UserError
from recommender.paths import ITEMS, USERS
from recommender.storage import read_row_groups, row_count, row_group_sizes


def block_sizes(path: Path, parts: int) -> NDArray[np.int64]:
    """Return the number of ratings of each block of a file, (user parts, item parts), or refuse other blocks."""
    sizes = row_group_sizes(path)
    if len(sizes) != parts**2:
        raise UserError(f"{path}: has {len(sizes)} row groups where engine.parts: {parts} makes {parts**2}; {RERUN}")
    check_some(path, sum(sizes))
    return np.array(sizes).reshape(parts, parts)


def read_block(path: Path, parts: int, user_part: int, item_part: int) -> tuple[NDArray[Any], ...]:
    """Read the users, items and ratings of a block: (n,) int32, int32, float32."""
    return _read(path, [user_part * parts + item_part])


def read_user_part(path: Path, parts: int, user_part: int) -> tuple[NDArray[Any], ...]:
    """Read the users, items and ratings of all blocks of some users: (n,) int32, int32, float32."""
    return _read(path, range(user_part * parts, (user_part + 1) * parts))


def _read(path: Path, groups: Sequence[int]) -> tuple[NDArray[Any], ...]:
    ratings = read_row_groups(path, groups, COLUMNS.names)
    check_ratings(path, ratings, (row_count(USERS), row_count(ITEMS)))
    return tuple(column.to_numpy() for column in ratings.itercolumns())


def read_part(paths: Sequence[Path], parts: int, user_part: int, shape: tuple[int, int]) -> Interactions:
    """Read the ratings of some users as one, in the files' order; users are numbered within the part: index // parts.

    `shape` is the number of all users and items.
    """
    columns = [read_user_part(path, parts, user_part) for path in paths]
    users, items, ratings = (np.concatenate(column) for column in zip(*columns, strict=True))
    count = len(range(user_part, shape[0], parts))
    return Interactions(users // np.int32(parts), items, ratings, (count, shape[1]), read_scale(paths[0]))


def read_user_ids(parts: int, user_part: int) -> NDArray[Any]:
    """Read the ids of some users."""
    first, chosen = 0, []
    for group, size in enumerate(row_group_sizes(USERS)):
        rows = np.arange((user_part - first) % parts, size, parts)
        chosen.append(read_row_groups(USERS, [group], ["user_id"]).take(pa.array(rows)))
        first += size
    ids: NDArray[Any] = pa.concat_tables(chosen)["user_id"].to_numpy()
    return ids


def cut(table: pa.Table, column: str, parts: int) -> Sequence[pa.Table]:
    """Return the rows of each part of an index, in their order."""
    part = (table[column].to_numpy() % parts).astype(np.uint8)  # at most 200; a byte is sorted many times as fast
    rows = np.argsort(part, kind="stable")
    ordered, bounds = table.take(pa.array(rows)), np.searchsorted(part[rows], np.arange(parts + 1))
    return [ordered.slice(start, end - start) for start, end in pairwise(bounds)]
