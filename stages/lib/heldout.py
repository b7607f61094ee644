"""The held-out part of the ratings and how lists are measured against it."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from stages.lib.errors import UserError
from stages.lib.factors import Factors
from stages.lib.metrics import RankingMetrics, ranking_metrics, rating_errors, relevant_rows
from stages.lib.ratings import TEST, TRAIN, VALIDATION, Ratings

if TYPE_CHECKING:  # train does without SciPy where nothing is measured, and it is slow to import
    import scipy.sparse as sp


@dataclass(frozen=True)
class HeldOut:
    """Ratings held out, the movies that each user has rated otherwise, and what is relevant.

    Attributes:
        ratings: the ratings held out.
        seen: users x movies, the ratings known.
        relevant: (n,) which of the ratings held out are relevant.
    """

    ratings: Ratings
    seen: "sp.csr_array"
    relevant: NDArray[np.bool_]

    @classmethod
    def read(cls, quantile: float) -> Self:
        """Read the test part, and as known what is left.

        Args:
            quantile: of a user's test ratings, at or above which a movie is relevant.

        Returns:
            The held-out part.

        Raises:
            UserError: a file is missing or damaged.
        """
        return cls.of(Ratings.read(TEST), Ratings.read(TRAIN, VALIDATION), quantile)

    @classmethod
    def of(cls, ratings: Ratings, known: Ratings, quantile: float) -> Self:
        """Mark the relevant ones of some ratings.

        Args:
            ratings: the ratings held out.
            known: those that models have learned from.
            quantile: of a user's ratings, at or above which a movie is relevant.

        Returns:
            The held-out part.
        """
        return cls(ratings, known.matrix(), relevant_rows(ratings.users, ratings.values, quantile))

    @cached_property
    def users(self) -> NDArray[np.int32]:
        """The users with ratings held out, ascending: (users,) int32."""
        return np.unique(self.ratings.users)

    @cached_property
    def _relevant_pairs(self) -> NDArray[np.int64]:
        users, movies = self.ratings.users[self.relevant], self.ratings.movies[self.relevant]
        return np.sort(users.astype(np.int64) * self.ratings.shape[1] + movies)

    def measure(self, lists: NDArray[np.int32]) -> RankingMetrics:
        """Measure ranked lists.

        Args:
            lists: (users, K) movie indices for each of `users`; -1 where there are no more candidates.

        Returns:
            The metrics at every k from 1 to K.
        """
        pairs = np.where(lists >= 0, self.users[:, None].astype(np.int64) * self.ratings.shape[1] + lists, -1)
        at = np.minimum(np.searchsorted(self._relevant_pairs, pairs), len(self._relevant_pairs) - 1)
        hits = self._relevant_pairs[at] == pairs
        counts = np.bincount(self.ratings.users[self.relevant], minlength=self.ratings.shape[0])[self.users]
        return ranking_metrics(lists, hits, counts, self.ratings.shape[1])


def evaluate(factors: Factors, held_out: HeldOut, k: int) -> tuple[RankingMetrics, dict[str, float]]:
    """Measure a model.

    Args:
        factors: the model.
        held_out: ratings held out and what each user has seen.
        k: the length of the lists.

    Returns:
        The ranking metrics at every k up to that, and ``rmse`` and ``mae`` over the ratings held out.
    """
    lists, _ = factors.top_k(held_out.users, held_out.seen, k)
    ratings = held_out.ratings
    return held_out.measure(lists), rating_errors(factors.predict(ratings.users, ratings.movies), ratings.values)


def summary(metrics: RankingMetrics, errors: dict[str, float] | None) -> dict[str, Any]:
    """Give the metrics at K as they are written to JSON.

    Args:
        metrics: of the lists.
        errors: ``rmse`` and ``mae``, or None for a model that predicts no ratings.

    Returns:
        One number a metric, None for those that the model does not have.
    """
    return {
        "users": len(metrics.average_precision),
        "precision": metrics.precision[-1],
        "recall": metrics.recall[-1],
        "map": metrics.map[-1],
        "ndcg": metrics.ndcg[-1],
        "mrr": metrics.mrr,
        "hit_rate": metrics.hit_rate,
        "coverage": metrics.coverage,
        **(errors or {"rmse": None, "mae": None}),
    }


def check_k(name: str, k: int, movies: int) -> None:
    """Refuse lists longer than the catalogue.

    Args:
        name: the parameter, as the message names it.
        k: its value.
        movies: the size of the catalogue.

    Raises:
        UserError: k is greater than the number of movies.
    """
    if k > movies:
        raise UserError(f"{name}: must be at most {movies}, the number of rated movies; found {k}")
