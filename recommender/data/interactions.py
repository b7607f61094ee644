"""The indexed ratings that split writes and every later stage reads."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recommender.data.sampling import EVERYBODY, Sample
from recommender.errors import RERUN, UserError
from recommender.paths import GIVEN, ITEMS, PARTS, USERS, VALIDATION
from recommender.storage import read_row_groups, read_schema, read_table, row_count, row_group_sizes

if TYPE_CHECKING:
    import scipy.sparse as sp


Scale = tuple[float, float]
STARS: Final = (1.0, 5.0)
COLUMNS: Final = pa.schema({"user": pa.int32(), "item": pa.int32(), "rating": pa.float32()})
SCALE: Final = b"scale"  # of ratings other than stars, in the metadata of each part's file


def stars(ratings: NDArray[np.floating], scale: Scale) -> NDArray[np.floating]:
    """Return ratings moved from their scale to 1 to 5; 4, which counts once, where the scale has one value."""
    low, high = scale
    if scale == STARS:
        return ratings
    return np.full_like(ratings, 4) if low == high else 1 + 4 * (ratings - low) / (high - low)


def with_scale(part: pa.Table, scale: Scale) -> pa.Table:
    """Return a part of the split whose file will say the scale of the ratings."""
    return part.replace_schema_metadata({SCALE: json.dumps(scale)})


def read_scale(path: Path) -> Scale:
    """Return the scale that the file of a part of the split says."""
    return _scale(read_schema(path))


def _scale(schema: pa.Schema) -> Scale:
    low, high = json.loads((schema.metadata or {}).get(SCALE, json.dumps(STARS)))
    return float(low), float(high)


def _read_groups(path: Path) -> Iterator[pa.Table]:
    groups = range(len(row_group_sizes(path)))
    yield from (read_row_groups(path, [number], COLUMNS.names) for number in groups)
    if not groups:
        yield read_table(path, COLUMNS.names)


def _read_sample(path: Path, sample: Sample) -> pa.Table:
    kept = [table.filter(pa.array(sample.has(table["user"].to_numpy()))) for table in _read_groups(path)]
    return pa.concat_tables(kept)


def check_some(path: Path, count: int) -> None:
    """Refuse a part of the split without ratings that must have some."""
    if path not in (VALIDATION, GIVEN) and not count:
        raise UserError(f"{path}: contains no ratings; {RERUN}")


def check_ratings(path: Path, ratings: pa.Table, shape: tuple[int, int]) -> None:
    """Refuse what split never writes."""
    if ratings.schema.types != COLUMNS.types:
        raise UserError(f"{path}: the types of its columns user, item and rating are wrong; {RERUN}")
    if not np.isfinite(ratings["rating"].to_numpy()).all():
        raise UserError(f"{path}: contains a rating that is not a finite number; {RERUN}")
    for name, count in (("user", shape[0]), ("item", shape[1])):
        indices = ratings[name].to_numpy()
        if len(indices) and not 0 <= indices.min() <= indices.max() < count:
            raise UserError(f"{path}: {name} index outside 0 to {count - 1}; {RERUN}")


def read_shape() -> tuple[int, int]:
    """Return how many users and items there are."""
    return len(read_table(USERS, ["user_id"])), len(read_table(ITEMS, ["item_id"]))


def read_matrix(*paths: Path) -> "sp.csr_array":
    """Return what `Interactions.read(*paths).matrix()` does, with no more than a row group beside it in memory."""
    import scipy.sparse as sp

    shape, here = read_shape(), [path for path in paths if path != GIVEN or path.exists()]
    starts = np.zeros(shape[0] + 1, np.int64)
    for path in here:
        check_some(path, row_count(path))
        for table in _read_groups(path):
            check_ratings(path, table, shape)
            starts[1:] += np.bincount(table["user"].to_numpy(), minlength=shape[0])
    starts = np.cumsum(starts, dtype=sp.get_index_dtype(maxval=int(starts.sum())))
    free, items, ratings = starts[:-1].copy(), np.empty(starts[-1], starts.dtype), np.empty(starts[-1], np.float32)
    for table in chain.from_iterable(map(_read_groups, here)):
        order = np.argsort(table["user"].to_numpy(), kind="stable")
        users, first, counts = np.unique(table["user"].to_numpy()[order], return_index=True, return_counts=True)
        place = np.arange(len(order)) + np.repeat(free[users] - first, counts)
        free[users] += counts
        items[place], ratings[place] = (table[name].to_numpy()[order] for name in ("item", "rating"))
    matrix = sp.csr_array((ratings, items, starts), shape=shape)
    matrix.sort_indices()
    return matrix


@dataclass(frozen=True)
class Interactions:
    """Ratings of items by users, both as indices."""

    users: NDArray[np.int32]  # (n,)
    items: NDArray[np.int32]  # (n,)
    ratings: NDArray[np.float32]  # (n,)
    shape: tuple[int, int]  # number of users and items, with and without ratings here
    scale: Scale = STARS  # the lowest and the highest rating; those of MovieLens, of whatever release, are stars

    @classmethod
    def read(cls, *paths: Path, sample: Sample = EVERYBODY) -> Self:
        """Read one part of the split, or several as one, in the files' order, and refuse what split never writes.

        Ratings to fold in are empty where the split has none. With a `sample` only the ratings of its users are read,
        and others are in memory no more than a row group at a time.
        """
        shape = read_shape()
        parts = []
        for path in paths:
            if path == GIVEN and not path.exists():
                continue
            table = read_table(path, COLUMNS.names) if sample == EVERYBODY else _read_sample(path, sample)
            check_some(path, len(table))
            check_ratings(path, table, shape)
            parts.append(table)
        found = pa.concat_tables(parts or [COLUMNS.empty_table()])
        users, items, ratings = (column.to_numpy() for column in found.itercolumns())
        return cls(users, items, ratings, shape, _scale(found.schema))

    @classmethod
    def read_learned(cls, names: Sequence[str], sample: Sample = EVERYBODY) -> tuple["Interactions", "Interactions"]:
        """Read the parts of these names that models learn from, and the ratings of further users to fold in."""
        learned = cls.read(*(PARTS[name] for name in names), sample=sample)
        return learned.with_given(cls.read(GIVEN, sample=sample))

    def __len__(self) -> int:
        """Return the number of ratings."""
        return len(self.ratings)

    @property
    def num_users(self) -> int:
        """The number of users."""
        return self.shape[0]

    @property
    def num_items(self) -> int:
        """The number of items."""
        return self.shape[1]

    def joined(self, *others: "Interactions") -> "Interactions":
        """Return these ratings followed by those of others."""
        parts = (self, *others)
        names = ("users", "items", "ratings")
        users, items, ratings = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return Interactions(users, items, ratings, self.shape, self.scale)

    def of(self, rows: NDArray[np.bool_]) -> "Interactions":
        """Return some of the ratings."""
        return dataclasses.replace(self, users=self.users[rows], items=self.items[rows], ratings=self.ratings[rows])

    def with_given(self, given: "Interactions") -> tuple["Interactions", "Interactions"]:
        """Add the ratings given of users who have ratings here; return these, and the given ones of further users."""
        own = np.isin(given.users, self.users)
        return (self.joined(given.of(own)), given.of(~own)) if own.any() else (self, given)

    @property
    def implicit(self) -> bool:
        """Whether all ratings are the same, and so say no more than that a user and an item belong together."""
        return self.scale[0] == self.scale[1]

    def as_stars(self) -> "Interactions":
        """Return the same with ratings in stars, 1 to 5, as the weights of ratings expect them."""
        return dataclasses.replace(self, ratings=stars(self.ratings, self.scale), scale=STARS)

    def item_counts(self) -> NDArray[np.int64]:
        """Return the number of ratings of each item: (num_items,) int64."""
        return np.bincount(self.items, minlength=self.num_items)

    def matrix(self) -> "sp.csr_array":
        """Return the ratings as a sparse users x items matrix, float32, with sorted indices."""
        import scipy.sparse as sp  # the default training does without it, and it is slow to import

        matrix = sp.csr_array((self.ratings, (self.users, self.items)), shape=self.shape)
        matrix.sort_indices()
        return matrix
