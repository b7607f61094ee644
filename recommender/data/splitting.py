"""Number users and items, and divide the ratings into train, validation and test."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.util import hash_array

from recommender.data.filters import filter_ratings, number
from recommender.data.interactions import COLUMNS, with_scale
from recommender.data.sampling import splitmix
from recommender.errors import RERUN, UserError
from recommender.params import Params, Split
from recommender.paths import ITEMS, LISTED_ITEMS, PROCESSED, RATINGS, USERS
from recommender.storage import read_table, write_table

Rows = NDArray[np.int64]
TRAIN, VALIDATION, TEST = range(3)  # numbers of parts
Parts = dict[str, Rows]  # row numbers of train, validation and test; of fold_in too where users are held out whole


def split_at_once(params: Params) -> tuple[dict[str, Any], dict[str, int]]:
    """Divide all ratings, and write the parts, the users and the items.

    Returns:
        What `Described` says of the parts, and how many ratings each filter has removed.
    """
    ratings = read_table(RATINGS, ["user_id", "item_id", "rating", "timestamp"])
    ratings, removed = filter_ratings(ratings, params.data)
    indexed, users, items = encode(ratings, listed_items())
    parts = METHODS[params.split.method](indexed, params.split)
    columns = indexed.select(COLUMNS.names)
    if params.data.dataset == "own":
        ends = pc.min_max(columns["rating"]).as_py()
        columns = with_scale(columns, params.data.own.scale or (ends["min"], ends["max"]))
    for name, rows in parts.items():
        write_table(PROCESSED / f"{name}.parquet", columns.take(pa.array(rows)))
    write_table(USERS, users)
    write_table(ITEMS, items)
    return describe(indexed, parts, len(users), len(items)), removed


def listed_items() -> pa.Table:
    """Read the list of all items, rated or not: item_id, title, categories, and what else own files have."""
    return read_table(LISTED_ITEMS, ["item_id", "title", "categories"], others=True)


def encode(ratings: pa.Table, items: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Replace ids by indices that count up from 0 in order of first appearance in the ratings.

    Returns:
        ``ratings`` as user, item (int32 indices), rating, timestamp, user_id, item_id; ``users`` as user (index),
        user_id; and the rated ``items`` as item (index), item_id, title, categories: row number and index are the same.
    """
    user, user_ids = number(ratings["user_id"])
    item, item_ids = number(ratings["item_id"])
    kept = {name: ratings[name] for name in ("rating", "timestamp", "user_id", "item_id")}
    indexed = pa.table({"user": user, "item": item, **kept})
    users = pa.table({"user": np.arange(len(user_ids), dtype=np.int32), "user_id": user_ids})
    return indexed, users, rated_items(items, item_ids)


def rated_items(items: pa.Table, item_ids: pa.Array) -> pa.Table:
    """Return the items of these ids in their order, with their index as the first column."""
    rows = pc.index_in(item_ids, items["item_id"].combine_chunks())
    if rows.null_count:
        raise UserError(f"{LISTED_ITEMS}: lacks items that are rated in {RATINGS}; {RERUN}")
    return items.take(rows).add_column(0, "item", pa.array(np.arange(len(item_ids), dtype=np.int32)))


def random(ratings: pa.Table, split: Split) -> Parts:
    """Hold out any ratings, in scikit-learn's shuffled order.

    Validation is taken out of train with a seed of its own, so that test is the same with and without it.
    """
    return _draw(np.arange(len(ratings)), split, "ratings")


def per_user(ratings: pa.Table, split: Split) -> Parts:
    """Hold out a share of each user's ratings, rounded down, so that everybody has ratings in train."""
    drawn = np.random.default_rng(split.seed).permutation(len(ratings))
    place, count = _places(ratings["user"].to_numpy(), drawn)
    test = _share(count, split.test_size)
    validation = _share(count - test, split.validation_size)
    return _parts(split, place < test, place < test + validation)


def leave_last(ratings: pa.Table, split: Split) -> Parts:
    """Hold out each user's last `n` ratings in time for test and the n before them for validation.

    Of ratings at the same time, those further down in the file are later. Users with too few have none in train.
    """
    place, count = _places(ratings["user"].to_numpy(), np.argsort(_times(ratings, split), kind="stable"))
    place -= count  # -1 for the last
    validation = split.n if split.validation_size else 0
    return _parts(split, place >= -split.n, place >= -split.n - validation)


def temporal(ratings: pa.Table, split: Split) -> Parts:
    """Hold out whatever was rated after one instant for test, and after an earlier one for validation.

    The instant is that of the last of the first `1 - test_size` of all ratings; those of the same time stay in train,
    so that test is at most its share. Validation is taken from the rest in the same way.
    """
    times = _times(ratings, split)
    test = _later(times, split.test_size)
    held_out = test.copy()
    if split.validation_size:
        held_out[~test] = _later(times[~test], split.validation_size)
    return _parts(split, test, held_out)


def user_fold(ratings: pa.Table, split: Split) -> Parts:
    """Hold out a share of the users, for strong generalisation: Liang et al. (WWW 2018), section 4.2.

    Of each one's ratings, `fold_in_share`, rounded down, are given at test time; the rest is measured.
    """
    users = ratings["user"].to_numpy()
    people = _draw(np.arange(users.max(initial=-1) + 1), split, "users")
    drawn = np.random.default_rng([split.seed, 2]).permutation(len(users))
    place, count = _places(users, drawn)
    given = place < _share(count, split.fold_in_share)
    rows = {name: np.isin(users, own) for name, own in people.items()}
    fold_in = {"fold_in": np.flatnonzero(given & ~rows["train"])}
    return {name: np.flatnonzero(own & (~given | (name == "train"))) for name, own in rows.items()} | fold_in


def by_hash(ratings: pa.Table, split: Split) -> Parts:
    """Hold out any ratings, about `test_size` of all; whatever other ratings there are, each stays in its part."""
    part = hashed_part(ratings["user_id"], ratings["item_id"], split)
    return _parts(split, part == TEST, part != TRAIN)


def hashed_part(user_ids: pa.ChunkedArray, item_ids: pa.ChunkedArray, split: Split) -> NDArray[np.int8]:
    """Return the part of each rating by the method `hash`: `TRAIN`, `VALIDATION` or `TEST`, (n,) int8.

    It depends on a rating's own ids, whole numbers or text, and on seed and sizes alone.
    """
    users, items = _hashes(user_ids), _hashes(item_ids)

    def uniform(part: int) -> NDArray[np.floating]:
        start = splitmix(np.array([split.seed | part << 32], dtype=np.uint64))
        return (splitmix(splitmix(start ^ users) ^ items) >> np.uint64(11)) * 2.0**-53

    test = uniform(TEST) < split.test_size
    validation = ~test & (uniform(VALIDATION) < split.validation_size)
    return np.where(test, TEST, np.where(validation, VALIDATION, TRAIN)).astype(np.int8)


def _hashes(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return a hash of each id; a whole number has the same in any type of integers, and text in any type of text."""
    coded = ids.combine_chunks().dictionary_encode()  # or as it is, where it is coded already
    values = coded.dictionary
    plain = values.cast(pa.int64()) if pa.types.is_integer(values.type) else values
    hashes: NDArray[np.uint64] = hash_array(plain.to_numpy(zero_copy_only=False))[coded.indices.to_numpy()]
    return hashes


# Each takes the indexed ratings in the file's order, and what params.yaml says about the split. What is drawn depends
# on that order; a division by hash does not, nor one by time, but for ratings of a user at the same time.
METHODS: Final[dict[str, Callable[[pa.Table, Split], Parts]]] = {
    "random": random,
    "per_user": per_user,
    "leave_last": leave_last,
    "temporal": temporal,
    "user_fold": user_fold,
    "hash": by_hash,
}


def _draw(rows: Rows, split: Split, things: str) -> Parts:
    """Divide numbers of ratings or of users, as the method `random` says."""
    train, test = _divide(rows, "test_size", split.test_size, split.seed, things)
    validation = train[:0]
    if split.validation_size > 0:
        seed = int(np.random.SeedSequence([split.seed, 1]).generate_state(1)[0])
        train, validation = _divide(train, "validation_size", split.validation_size, seed, things)
    return {"train": train, "validation": validation, "test": test}


def _divide(rows: Rows, name: str, share: float, seed: int, things: str) -> tuple[Rows, Rows]:
    from sklearn.model_selection import train_test_split  # slow to import

    try:
        kept, held_out = train_test_split(rows, test_size=share, random_state=seed)
    except ValueError:
        problem = f"{share} of {len(rows)} {things} leaves one of the parts empty"
        raise UserError(f"split.{name}: {problem}; choose another share") from None
    return kept, held_out


def _parts(split: Split, test: NDArray[np.bool_], held_out: NDArray[np.bool_]) -> Parts:
    """Return the rows of each part, in the file's order; those held out beyond test are for validation."""
    masks = {"train": ~held_out, "validation": held_out & ~test, "test": test}
    parts = {name: np.flatnonzero(mask) for name, mask in masks.items()}
    check_parts(split, {name: len(rows) for name, rows in parts.items()})
    return parts


def check_parts(split: Split, counts: Mapping[str, int]) -> None:
    """Refuse a split that leaves a part without ratings, of which it has so many."""
    empty = [name for name, count in counts.items() if not count and (name != "validation" or split.validation_size)]
    if empty:
        used = "n" if split.method == "leave_last" else "validation_size" if empty == ["validation"] else "test_size"
        value = getattr(split, used)
        problem = f"{value} with split.method: {split.method} leaves {' and '.join(empty)} empty"
        raise UserError(f"split.{used}: {problem}; choose another value or method")


def _places(users: NDArray[np.int32], order: Rows) -> tuple[Rows, Rows]:
    """Return each row's place, from 0, among its user's rows in some order of all rows; and how many the user has."""
    by_user = order[np.argsort(users[order], kind="stable")]
    counts = np.bincount(users)
    place = np.empty(len(users), dtype=np.int64)
    place[by_user] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place, counts[users]


def _share(count: Rows, share: float) -> Rows:
    """Return shares of counts, rounded down, as they are written in decimals: 0.29 of 100 is 29, and not 28.99."""
    return np.asarray(np.floor(count * share + 1e-9), dtype=np.int64)


def _times(ratings: pa.Table, split: Split) -> Rows:
    times = ratings["timestamp"]
    if times.null_count:
        raise UserError(
            f"split.method: {split.method} needs the times of ratings, and the data have none; "
            "set it to one that needs none, such as random"
        )
    return np.asarray(times.to_numpy(), dtype=np.int64)


def _later(times: Rows, share: float) -> NDArray[np.bool_]:
    """Return which ratings are later than the last of the earliest, which are all but the share."""
    kept = len(times) - math.ceil(len(times) * share)
    return np.asarray(times > np.sort(times)[kept - 1]) if kept else np.ones(len(times), dtype=bool)


def describe(indexed: pa.Table, parts: Parts, num_users: int, num_items: int) -> dict[str, Any]:
    """Return what `Described` says of parts of the indexed ratings."""
    ends = pc.min_max(indexed["rating"]).as_py()
    counts = {name: len(rows) for name, rows in parts.items()}
    described = Described(num_users, num_items, counts, (ends["min"], ends["max"]))
    for name, rows in parts.items():
        described.count(name, indexed.select(["user", "item"]).take(pa.array(rows)))
    return described.as_json()


class Described:
    """What the split stage says of the parts that it wrote."""

    def __init__(self, num_users: int, num_items: int, counts: Mapping[str, int], scale: tuple[float, float]) -> None:
        """Start with no ratings counted; `counts` are those of each part, `scale` the lowest and highest rating."""
        self.counts, self.scale, self.num_items = counts, scale, num_items
        self.users = {name: np.zeros(num_users, dtype=bool) for name in ("train", "test")}  # who has ratings there
        self.items = np.zeros(num_items, dtype=bool)  # with ratings in train

    def count(self, name: str, part: pa.Table) -> None:
        """Count some ratings of a part."""
        if name in self.users:
            self.users[name][part["user"].to_numpy()] = True
        if name == "train":
            self.items[part["item"].to_numpy()] = True

    def as_json(self) -> dict[str, Any]:
        """Return counts, the lowest and highest rating, and the density of all ratings: ratings / (users x items)."""
        ratings, num_users = sum(self.counts.values()), len(self.users["train"])
        return {
            "users": num_users,
            "items": self.num_items,
            "ratings": ratings,
            **{f"{name}_ratings": count for name, count in self.counts.items() if count},
            "min_rating": self.scale[0],
            "max_rating": self.scale[1],
            "density": ratings / (num_users * self.num_items),
            **{f"users_without_{name}": np.count_nonzero(~own) for name, own in self.users.items()},
            "items_without_train": np.count_nonzero(~self.items),
        }
