"""The indexed ratings that split writes and every later stage reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from numpy.typing import NDArray

from stages.lib.errors import UserError
from stages.lib.storage import CURE, read_table

if TYPE_CHECKING:
    import scipy.sparse as sp

PROCESSED: Final = Path("data/processed")
TRAIN: Final = PROCESSED / "train.parquet"
TEST: Final = PROCESSED / "test.parquet"
USERS: Final = PROCESSED / "users.parquet"
MOVIES: Final = PROCESSED / "movies.parquet"


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
    def read(cls, path: Path) -> Self:
        """Read one part of the split.

        Args:
            path: `TRAIN` or `TEST`.

        Returns:
            The ratings in the file's order.

        Raises:
            UserError: a file is missing or damaged, or an index is out of range.
        """
        table = read_table(path, ["user", "movie", "rating"])
        shape = len(read_table(USERS, ["user_id"])), len(read_table(MOVIES, ["movie_id"]))
        users, movies, values = (table[name].to_numpy() for name in ("user", "movie", "rating"))
        for name, indices, count in (("user", users, shape[0]), ("movie", movies, shape[1])):
            if len(indices) and not 0 <= indices.min() <= indices.max() < count:
                raise UserError(f"{path}: a {name} index is outside 0 to {count - 1}; {CURE}")
        return cls(users, movies, values, shape)

    def matrix(self) -> "sp.csr_array":
        """Give the ratings as a sparse users x movies matrix, float32, with sorted indices."""
        import scipy.sparse as sp  # train does without it, and it is slow to import

        matrix = sp.csr_array((self.values, (self.users, self.movies)), shape=self.shape)
        matrix.sort_indices()
        return matrix
