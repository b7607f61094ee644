"""The held-out ratings, and how lists and models are measured on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.data.sampling import EVERYBODY, Sample
from recommender.errors import UserError
from recommender.evaluation.metrics import (
    Measured,
    accuracy,
    rating_errors,
    reduced,
    relevant_rows,
    user_errors,
)
from recommender.paths import GIVEN, TEST, TRAIN, VALIDATION
from recommender.ranking.factors import Factors
from recommender.ranking.learned import Learned, TopK

if TYPE_CHECKING:  # train does without SciPy where nothing is measured, and it is slow to import
    import scipy.sparse as sp


@dataclass(frozen=True)
class HeldOut:
    """Held-out ratings, the items that each user has rated otherwise, and what is relevant."""

    ratings: Interactions
    seen: "sp.csr_array"  # users x items, the ratings known
    relevant: NDArray[np.bool_]  # (n,) which of the ratings held out are relevant
    learned: Learned

    @classmethod
    def read(
        cls,
        quantile: float,
        learned_from: Sequence[str] = ("train",),
        sample: Sample = EVERYBODY,
        within: Sample = EVERYBODY,
    ) -> Self:
        """Read the test part, and as known all others; models learn from some of these; `quantile` as in `of`.

        Of the users with test ratings those in the `sample` are measured; nothing is read but the ratings of those
        `within` another.
        """
        learned = Learned.of(*Interactions.read_learned(learned_from, within))
        test = Interactions.read(TEST, sample=within)
        test = test.of(sample.has(test.users))
        check_sample(len(test), sample)
        return cls.of(test, Interactions.read(TRAIN, VALIDATION, GIVEN, sample=within), quantile, learned)

    @classmethod
    def of(cls, ratings: Interactions, known: Interactions, quantile: float, learned: Learned | None = None) -> Self:
        """Mark as relevant the held-out ratings at or above that quantile of their user's held-out ratings.

        Models have learned from what is known unless `learned` says otherwise.
        """
        relevant = relevant_rows(ratings.users, ratings.ratings, quantile)
        return cls(ratings, known.matrix(), relevant, learned or Learned.of(known, known))

    @cached_property
    def users(self) -> NDArray[np.int32]:
        """The users with held-out ratings, ascending: (users,) int32."""
        return np.flatnonzero(np.bincount(self.ratings.users)).astype(np.int32)

    @cached_property
    def cold(self) -> NDArray[np.bool_]:
        """Which of `users` a model knows nothing of: (users,)."""
        return ~self.learned.users[self.users]

    def lists(self, top_k: TopK, k: int) -> NDArray[np.int32]:
        """List k items for each of `users` as `Learned.lists` does: (users, k), -1 where there are no more."""
        return self.learned.lists(top_k, self.users, self.seen, k)[0]

    @cached_property
    def _relevant_pairs(self) -> NDArray[np.int64]:
        users, items = self.ratings.users[self.relevant], self.ratings.items[self.relevant]
        return np.sort(users.astype(np.int64) * self.ratings.num_items + items)

    @cached_property
    def relevant_counts(self) -> NDArray[np.int64]:
        """The number of relevant items of each of `users`: (users,)."""
        return np.bincount(self.ratings.users[self.relevant])[self.users]

    def hits(self, lists: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which items of (users, K) lists for each of `users` are relevant; -1 is none."""
        pairs = np.where(lists >= 0, self.users[:, None].astype(np.int64) * self.ratings.num_items + lists, -1)
        at = np.minimum(np.searchsorted(self._relevant_pairs, pairs), len(self._relevant_pairs) - 1)
        return np.asarray(self._relevant_pairs[at] == pairs)

    def measure(self, lists: NDArray[np.int32]) -> Measured:
        """Measure `RANKING` of (users, K) lists of item indices; -1 where there are no more candidates."""
        block = reduced(accuracy(self.hits(lists), self.relevant_counts))
        return Measured.of([block], lists, self.ratings.num_items)


def check_sample(ratings: int, sample: Sample) -> None:
    """Refuse a sample of users that have no test ratings."""
    if not ratings:
        share = f"params.yaml: evaluate.user_share: {sample.share:g}"
        raise UserError(f"{share} leaves no user with test ratings; raise it")


def evaluate(factors: Factors, held_out: HeldOut, k: int) -> tuple[Measured, dict[str, float]]:
    """Return a model's ranking metrics at every list length up to k, and its errors where its scores are ratings."""
    ranking = held_out.measure(held_out.lists(factors.top_k, k))
    if not factors.predicts_ratings:
        return ranking, {}
    test = held_out.ratings
    predicted = factors.predict(test.users, test.items)
    by_user = user_errors(np.searchsorted(held_out.users, test.users), predicted, test.ratings)
    return replace(ranking, users=ranking.users | by_user), rating_errors(predicted, test.ratings)
