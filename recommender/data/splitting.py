"""Number users and items, and divide the ratings into train, validation and test."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recommender.data.filters import number
from recommender.errors import RERUN, UserError
from recommender.params import Split
from recommender.paths import LISTED_ITEMS, RATINGS

Rows = NDArray[np.int64]
Parts = dict[str, Rows]  # row numbers of train, validation and test


def encode(ratings: pa.Table, items: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Replace ids by indices that count up from 0 in order of first appearance in the ratings.

    Returns:
        ``ratings`` as user, item (int32 indices), rating, timestamp; ``users`` as user (index), user_id; and the rated
        ``items`` as item (index), item_id, title, categories: row number and index are the same.
    """
    user, user_ids = number(ratings["user_id"])
    item, item_ids = number(ratings["item_id"])
    indexed = pa.table({"user": user, "item": item, "rating": ratings["rating"], "timestamp": ratings["timestamp"]})
    users = pa.table({"user": np.arange(len(user_ids), dtype=np.int32), "user_id": user_ids})
    rows = pc.index_in(item_ids, items["item_id"].combine_chunks())
    if rows.null_count:
        raise UserError(f"{LISTED_ITEMS}: lacks items that are rated in {RATINGS}; {RERUN}")
    rated = items.take(rows).add_column(0, "item", pa.array(np.arange(len(item_ids), dtype=np.int32)))
    return indexed, users, rated


def random(ratings: pa.Table, split: Split) -> Parts:
    """Hold out any ratings, in scikit-learn's shuffled order.

    Validation is taken out of train with a seed of its own, so that test is the same with and without it.
    """
    train, test = _divide(np.arange(len(ratings)), "test_size", split.test_size, split.seed)
    validation = train[:0]
    if split.validation_size > 0:
        seed = int(np.random.SeedSequence([split.seed, 1]).generate_state(1)[0])
        train, validation = _divide(train, "validation_size", split.validation_size, seed)
    return {"train": train, "validation": validation, "test": test}


# Each takes the indexed ratings in the file's order, and what params.yaml says about the split.
METHODS: Final[dict[str, Callable[[pa.Table, Split], Parts]]] = {"random": random}


def _divide(rows: Rows, name: str, share: float, seed: int) -> tuple[Rows, Rows]:
    from sklearn.model_selection import train_test_split  # slow to import

    try:
        kept, held_out = train_test_split(rows, test_size=share, random_state=seed)
    except ValueError:
        problem = f"{share} of {len(rows)} ratings leaves one of the parts empty"
        raise UserError(f"split.{name}: {problem}; choose another share") from None
    return kept, held_out


def describe(indexed: pa.Table, parts: Parts, num_users: int, num_items: int) -> dict[str, Any]:
    """Return counts, the lowest and highest rating, and the density of all ratings: ratings / (users x items)."""
    user, rating = indexed["user"].to_numpy(), indexed["rating"].to_numpy()
    return {
        "users": num_users,
        "items": num_items,
        "ratings": len(indexed),
        **{f"{name}_ratings": len(rows) for name, rows in parts.items() if len(rows)},
        "min_rating": rating.min(),
        "max_rating": rating.max(),
        "density": len(indexed) / (num_users * num_items),
        **{f"users_without_{name}": num_users - len(np.unique(user[parts[name]])) for name in ("train", "test")},
    }
