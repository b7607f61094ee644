"""Ratings in blocks, as the split stage writes them."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from recommender.data.blocks import cut
from recommender.data.interactions import COLUMNS, Interactions
from recommender.paths import ITEMS, PARTS, USERS
from recommender.storage import write_table, writing_row_groups


def table(ratings: Interactions) -> pa.Table:
    """Return ratings as a table."""
    return pa.table({"user": ratings.users, "item": ratings.items, "rating": ratings.ratings}, COLUMNS)


def write_blocks(path: Path, ratings: pa.Table, parts: int) -> None:
    """Write one part of the split."""
    with writing_row_groups(path, ratings.schema) as add:
        for own in cut(ratings, "user", parts):
            for block in cut(own, "item", parts):
                add(block)


def write_split(train: Interactions, validation: Interactions, test: Interactions, parts: int) -> None:
    """Write data/processed in the current folder."""
    for path, ratings in zip(PARTS.values(), (train, validation, test), strict=True):
        write_blocks(path, table(ratings), parts)
    for path, count, kind in zip((USERS, ITEMS), train.shape, ("user", "item"), strict=True):
        indices, ids = np.arange(count, dtype=np.int32), np.arange(1, count + 1, dtype=np.int32)
        columns = {kind: indices, f"{kind}_id": ids}
        texts = {} if kind == "user" else {"title": ids.astype(str), "categories": [""] * count}
        write_table(path, pa.table({**columns, **texts}))


def some_ratings(users: int, items: int, count: int, seed: int) -> Interactions:
    """Draw different pairs of users and items, and whole stars."""
    random = np.random.default_rng(seed)
    pairs = random.permutation(users * items)[:count]
    ratings = random.integers(1, 6, count).astype(np.float32)
    return Interactions((pairs // items).astype(np.int32), (pairs % items).astype(np.int32), ratings, (users, items))
