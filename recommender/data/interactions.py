"""The indexed ratings that split writes and every later stage reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recommender.errors import RERUN, UserError
from recommender.paths import ITEMS, USERS, VALIDATION
from recommender.storage import read_table

if TYPE_CHECKING:
    import scipy.sparse as sp


@dataclass(frozen=True)
class Interactions:
    """Ratings of items by users, both as indices."""

    users: NDArray[np.int32]  # (n,)
    items: NDArray[np.int32]  # (n,)
    ratings: NDArray[np.float32]  # (n,)
    shape: tuple[int, int]  # number of users and items, with and without ratings here

    @classmethod
    def read(cls, *paths: Path) -> Self:
        """Read one part of the split, or several as one, in the files' order, and refuse what split never writes."""
        shape = len(read_table(USERS, ["user_id"])), len(read_table(ITEMS, ["item_id"]))
        parts = []
        for path in paths:
            table = read_table(path, ["user", "item", "rating"])
            if table.schema.types != [pa.int32(), pa.int32(), pa.float32()]:
                raise UserError(f"{path}: the types of its columns user, item and rating are wrong; {RERUN}")
            if path != VALIDATION and not len(table):
                raise UserError(f"{path}: contains no ratings; {RERUN}")
            if not np.isfinite(table["rating"].to_numpy()).all():
                raise UserError(f"{path}: contains a rating that is not a finite number; {RERUN}")
            for name, count in (("user", shape[0]), ("item", shape[1])):
                indices = table[name].to_numpy()
                if len(indices) and not 0 <= indices.min() <= indices.max() < count:
                    raise UserError(f"{path}: {name} index outside 0 to {count - 1}; {RERUN}")
            parts.append(table)
        users, items, ratings = (column.to_numpy() for column in pa.concat_tables(parts).itercolumns())
        return cls(users, items, ratings, shape)

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
        return Interactions(
            np.concatenate([part.users for part in parts]),
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.ratings for part in parts]),
            self.shape,
        )

    def item_counts(self) -> NDArray[np.int64]:
        """Return the number of ratings of each item: (num_items,) int64."""
        return np.bincount(self.items, minlength=self.num_items)

    def matrix(self) -> "sp.csr_array":
        """Return the ratings as a sparse users x items matrix, float32, with sorted indices."""
        import scipy.sparse as sp  # the default training does without it, and it is slow to import

        matrix = sp.csr_array((self.ratings, (self.users, self.items)), shape=self.shape)
        matrix.sort_indices()
        return matrix
