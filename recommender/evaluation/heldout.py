"""The held-out ratings, and how lists and models are measured on them."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.evaluation.metrics import RankingMetrics, ranking_metrics, rating_errors, relevant_rows
from recommender.paths import TEST, TRAIN, VALIDATION
from recommender.ranking.factors import Factors

if TYPE_CHECKING:  # train does without SciPy where nothing is measured, and it is slow to import
    import scipy.sparse as sp


@dataclass(frozen=True)
class HeldOut:
    """Held-out ratings, the items that each user has rated otherwise, and what is relevant."""

    ratings: Interactions
    seen: "sp.csr_array"  # users x items, the ratings known
    relevant: NDArray[np.bool_]  # (n,) which of the ratings held out are relevant

    @classmethod
    def read(cls, quantile: float) -> Self:
        """Read the test part, with train and validation as known; `quantile` as in `of`."""
        return cls.of(Interactions.read(TEST), Interactions.read(TRAIN, VALIDATION), quantile)

    @classmethod
    def of(cls, ratings: Interactions, known: Interactions, quantile: float) -> Self:
        """Mark as relevant the held-out ratings at or above that quantile of their user's held-out ratings."""
        return cls(ratings, known.matrix(), relevant_rows(ratings.users, ratings.ratings, quantile))

    @cached_property
    def users(self) -> NDArray[np.int32]:
        """The users with held-out ratings, ascending: (users,) int32."""
        return np.flatnonzero(np.bincount(self.ratings.users)).astype(np.int32)

    @cached_property
    def _relevant_pairs(self) -> NDArray[np.int64]:
        users, items = self.ratings.users[self.relevant], self.ratings.items[self.relevant]
        return np.sort(users.astype(np.int64) * self.ratings.num_items + items)

    def measure(self, lists: NDArray[np.int32]) -> RankingMetrics:
        """Measure (users, K) lists of item indices for each of `users`; -1 where there are no more candidates."""
        pairs = np.where(lists >= 0, self.users[:, None].astype(np.int64) * self.ratings.num_items + lists, -1)
        at = np.minimum(np.searchsorted(self._relevant_pairs, pairs), len(self._relevant_pairs) - 1)
        hits = self._relevant_pairs[at] == pairs
        counts = np.bincount(self.ratings.users[self.relevant])[self.users]
        return ranking_metrics(lists, hits, counts, self.ratings.num_items)


def evaluate(factors: Factors, held_out: HeldOut, k: int) -> tuple[RankingMetrics, dict[str, float]]:
    """Return a model's ranking metrics at every list length up to k, and its errors where its scores are ratings."""
    ranking = held_out.measure(factors.top_k(held_out.users, held_out.seen, k)[0])
    if not factors.predicts_ratings:
        return ranking, {}
    test = held_out.ratings
    return ranking, rating_errors(factors.predict(test.users, test.items), test.ratings)
