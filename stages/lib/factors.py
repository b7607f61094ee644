"""Trained factors as plain arrays: saved, loaded and scored without TensorFlow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from stages.lib.errors import UserError
from stages.lib.storage import CURE, read_arrays, write_arrays
from stages.lib.topk import Movies, Users, top_k

if TYPE_CHECKING:  # train does without SciPy, which is slow to import
    import scipy.sparse as sp

PATH: Final = Path("models/factors.npz")
PREDICT_BATCH: Final = 32  # rows in a batch of Keras' `predict`, over which batch_sum adds
LARGEST: Final = float(np.finfo(np.float32).max) / 8  # score, with room for what bounds its rounding error
INTERACTIONS: Final = ("dot", "batch_sum")


@dataclass(frozen=True)
class Factors:
    """A trained model: score = global mean + user bias + movie bias + interaction of the two vectors.

    Attributes:
        users: (users, size) float32.
        movies: (movies, size) float32.
        user_bias: (users,) float32.
        movie_bias: (movies,) float32.
        movie_ids: (movies,) int32, the catalogue's ids, whose order decides the batches of `batch_sum`.
        global_mean: in stars; 0 where the model has none.
        interaction: ``dot``, a dot product for each pair, or ``batch_sum``, the sum of them over a batch of pairs.
    """

    users: NDArray[np.float32]
    movies: NDArray[np.float32]
    user_bias: NDArray[np.float32]
    movie_bias: NDArray[np.float32]
    movie_ids: NDArray[np.int32]
    global_mean: float = 0.0
    interaction: str = "dot"

    def save(self, path: Path = PATH) -> None:
        """Write the factors, with the same bytes for the same numbers."""
        write_arrays(
            path,
            {
                "users": self.users,
                "movies": self.movies,
                "user_bias": self.user_bias,
                "movie_bias": self.movie_bias,
                "movie_ids": self.movie_ids,
                "global_mean": np.array(self.global_mean, dtype=np.float32),
                "interaction": np.array(self.interaction),
            },
        )

    @classmethod
    def load(cls, path: Path = PATH) -> Self:
        """Read the factors.

        Raises:
            UserError: the file is missing or damaged, or its arrays do not fit together, are not finite or too large.
        """
        arrays = read_arrays(path)
        vectors = {name: arrays.get(name, np.empty(0)) for name in ("users", "movies", "user_bias", "movie_bias")}
        users, movies, user_bias, movie_bias = vectors.values()
        ids, interaction = arrays.get("movie_ids", np.empty(0)), str(arrays.get("interaction"))
        mean = arrays.get("global_mean", np.empty(0))
        fits = (
            users.ndim == movies.ndim == 2
            and users.shape[1] == movies.shape[1]
            and user_bias.shape == users.shape[:1]
            and movie_bias.shape == ids.shape == movies.shape[:1]
            and mean.shape == ()
            and all(vector.dtype == np.float32 for vector in (*vectors.values(), mean))
            and ids.dtype == np.int32
            and interaction in INTERACTIONS
        )
        if not fits:
            raise UserError(f"{path}: is not a file of factors: arrays are missing or do not fit together; {CURE}")
        if not all(np.isfinite(vector).all() for vector in (*vectors.values(), mean)):
            raise UserError(f"{path}: holds NaN or infinite numbers: training diverged; lower train.learning_rate")
        lengths = (np.linalg.norm(part.astype(np.float64), axis=1).max(initial=0) for part in (users, movies))
        if math.prod(lengths) + np.abs(movie_bias).max(initial=0) > LARGEST:
            raise UserError(f"{path}: holds numbers so large that scores overflow; lower train.learning_rate")
        return cls(users, movies, user_bias, movie_bias, ids, float(mean), interaction)

    @classmethod
    def mean(cls, models: "Sequence[Factors]") -> "Factors":
        """Make one model whose scores are the mean of the scores of several.

        Args:
            models: at least one, all of one split, with the ``dot`` interaction and the same global mean.

        Returns:
            The vectors of all models side by side, each divided by the root of their number, and the mean biases.
        """
        if len(models) == 1:
            return models[0]
        root, first = np.float32(len(models) ** 0.5), models[0]

        def side_by_side(name: str) -> NDArray[np.float32]:
            return np.concatenate([getattr(model, name) / root for model in models], axis=1)

        def average(name: str) -> NDArray[np.float32]:
            mean = np.mean([getattr(model, name) for model in models], axis=0, dtype=np.float64)
            return np.asarray(mean, dtype=np.float32)

        return cls(
            side_by_side("users"),
            side_by_side("movies"),
            average("user_bias"),
            average("movie_bias"),
            first.movie_ids,
            first.global_mean,
        )

    def check_shape(self, shape: tuple[int, int]) -> None:
        """Refuse to be used on another split than the one trained on.

        Args:
            shape: how many users and movies the split has.

        Raises:
            UserError: this model has not as many.
        """
        trained = len(self.users), len(self.movies)
        if trained != shape:
            raise UserError(
                f"{PATH}: was trained on {trained[0]} users and {trained[1]} movies, but data/processed holds "
                f"{shape[0]} and {shape[1]}; {CURE}"
            )

    @cached_property
    def _wide(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Vectors as float64, one row a dimension: the product of two float32 numbers is exact in float64."""
        return (
            np.ascontiguousarray(self.users.T, dtype=np.float64),
            np.ascontiguousarray(self.movies.T, dtype=np.float64),
        )

    def _biases(self, users: Users, movies: Movies) -> NDArray[np.float64]:
        return self.global_mean + self.user_bias[users].astype(np.float64) + self.movie_bias[movies].astype(np.float64)

    def _dots(self, users: Users, movies: Movies) -> NDArray[np.float64]:
        """Dot products of pairs, added dimension by dimension: the same bits on every machine."""
        wide_users, wide_movies = self._wide
        dots = np.zeros(np.broadcast_shapes(users.shape, movies.shape))
        for user_row, movie_row in zip(wide_users, wide_movies, strict=True):
            dots += user_row[users] * movie_row[movies]
        return dots

    def scores(self, users: Users, movies: Movies) -> NDArray[np.float64]:
        """Score pairs with a dot product each, in the same bits on every machine.

        Args:
            users: (n,) user indices.
            movies: (n,) movie indices.

        Returns:
            (n,) float64.
        """
        return self._dots(users, movies) + self._biases(users, movies)

    def predict(self, users: Users, movies: Movies) -> NDArray[np.float64]:
        """Predict the ratings of pairs, as the model's `predict` does.

        Args:
            users: (n,) user indices.
            movies: (n,) movie indices.

        Returns:
            (n,) float64, in stars. With ``batch_sum`` every 32 pairs in succession share the sum of their dot products.
        """
        dots = self._dots(users, movies)
        if self.interaction == "batch_sum":
            starts = np.arange(0, len(dots), PREDICT_BATCH)
            dots = np.repeat(np.add.reduceat(dots, starts), PREDICT_BATCH)[: len(dots)] if len(dots) else dots
        return dots + self._biases(users, movies)

    def top_k(self, users: Users, seen: "sp.csr_array", k: int) -> tuple[Movies, NDArray[np.float64]]:
        """List each user's k best movies not seen, the same on every machine: see `stages.lib.topk.top_k`.

        Args:
            users: (n,) user indices.
            seen: users x movies; stored entries are left out.
            k: the length of the lists.

        Returns:
            movies: (n, k) int32, -1 where there are no more candidates; scores: (n, k) float64.
        """
        if self.interaction == "batch_sum":
            return top_k(users, seen, k, self._batch_sum_scores)
        return top_k(users, seen, k, self._fast_scores, self._tolerance, self.scores)

    def _fast_scores(self, users: Users, _seen: NDArray[np.bool_]) -> NDArray[np.float32]:
        # A user's bias and the global mean move all of the user's scores alike; the exact scores add them.
        table: NDArray[np.float32] = self.users[users] @ self.movies.T
        table += self.movie_bias
        return table

    def _tolerance(self, users: Users) -> NDArray[np.float32]:
        """Bound the rounding error of `_fast_scores`, whatever the order of its additions.

        Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1: n operations in a row are off by
        at most n u / (1 - n u) times the sum of the absolute terms, u = 2^-24 here; Cauchy and Schwarz bound that sum.
        Products below 2^-126, the least normal number, may moreover be rounded to 0.
        """
        steps = self.users.shape[1] + 2
        relative = steps * 2.0**-24 / (1 - steps * 2.0**-24)
        longest = np.linalg.norm(self.movies.astype(np.float64), axis=1).max()
        length = np.linalg.norm(self.users[users].astype(np.float64), axis=1)
        bound = relative * (length * longest + np.abs(self.movie_bias).max()) + steps * 2.0**-126
        rounded_up: NDArray[np.float32] = np.nextafter((bound * 1.001).astype(np.float32), np.float32(np.inf))
        return rounded_up

    def _batch_sum_scores(self, users: Users, seen: NDArray[np.bool_]) -> NDArray[Any]:
        """Score candidates as the notebook's `predict` does: in ascending movie id, 32 to a batch."""
        order = np.argsort(self.movie_ids, kind="stable").astype(np.int32)
        table = self._dots(users[:, None], order[None, :])
        candidate = ~seen[:, order]
        batch = (np.cumsum(candidate, axis=1) - 1) // PREDICT_BATCH
        row = np.arange(len(users))[:, None]
        key = (row * (len(order) // PREDICT_BATCH + 1) + batch)[candidate]
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        if len(key):
            table[candidate] = np.repeat(np.add.reduceat(table[candidate], starts), np.diff(starts, append=len(key)))
        scores = np.empty_like(table)
        scores[:, order] = table + self._biases(users[:, None], order[None, :])
        return scores
