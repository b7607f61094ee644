"""The indexed ratings that split writes and every later stage reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.lib.errors import UserError
from stages.lib.storage import CURE, read_table

if TYPE_CHECKING:
    import scipy.sparse as sp

PROCESSED: Final = Path("data/processed")
TRAIN: Final = PROCESSED / "train.parquet"
VALIDATION: Final = PROCESSED / "validation.parquet"
TEST: Final = PROCESSED / "test.parquet"
USERS: Final = PROCESSED / "users.parquet"
MOVIES: Final = PROCESSED / "movies.parquet"
COLUMN_TYPES: Final = [pa.int32(), pa.int32(), pa.float32()]


@dataclass(frozen=True)
class Ratings:
    """Ratings of movies by users, both given as indices.

    Attributes:
        users: (n,) int32.
        movies: (n,) int32.
        values: (n,) float32, the ratings.
        shape: how many users and movies there are in all.
    """

    users: NDArray[np.int32]
    movies: NDArray[np.int32]
    values: NDArray[np.float32]
    shape: tuple[int, int]

    @classmethod
    def read(cls, *paths: Path) -> Self:
        """Read one part of the split, or several as one.

        Args:
            paths: of `TRAIN`, `VALIDATION` and `TEST`.

        Returns:
            The ratings in the files' order.

        Raises:
            UserError: a file is missing or damaged, has no ratings, or holds what split never writes.
        """
        shape = len(read_table(USERS, ["user_id"])), len(read_table(MOVIES, ["movie_id"]))
        parts = []
        for path in paths:
            table = read_table(path, ["user", "movie", "rating"])
            if table.schema.types != COLUMN_TYPES:
                raise UserError(f"{path}: its columns are of other types than user, movie and rating have; {CURE}")
            if path != VALIDATION and not len(table):
                raise UserError(f"{path}: holds no ratings; {CURE}")
            if not np.isfinite(table["rating"].to_numpy()).all():
                raise UserError(f"{path}: holds a rating that is not a finite number; {CURE}")
            for name, count in (("user", shape[0]), ("movie", shape[1])):
                indices = table[name].to_numpy()
                if len(indices) and not 0 <= indices.min() <= indices.max() < count:
                    raise UserError(f"{path}: a {name} index is outside 0 to {count - 1}; {CURE}")
            parts.append(table)
        whole = pa.concat_tables(parts)
        users, movies, values = (whole[name].to_numpy() for name in ("user", "movie", "rating"))
        return cls(users, movies, values, shape)

    def joined(self, other: "Ratings") -> "Ratings":
        """Give these ratings and then the other's."""
        return Ratings(
            np.concatenate([self.users, other.users]),
            np.concatenate([self.movies, other.movies]),
            np.concatenate([self.values, other.values]),
            self.shape,
        )

    def matrix(self) -> "sp.csr_array":
        """Give the ratings as a sparse users x movies matrix, float32, with sorted indices."""
        import scipy.sparse as sp  # train does without it, and it is slow to import

        matrix = sp.csr_array((self.values, (self.users, self.movies)), shape=self.shape)
        matrix.sort_indices()
        return matrix
