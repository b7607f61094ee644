"""What a model has learned of users and items, and what the others get: decided here alone.

An item without ratings in what was learned is listed for nobody, so that it counts as a miss. A user without ratings
there is folded in from those given at test time, as `user_fold` splits; without any, the user gets what a new person
without history gets: the most rated items.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import FoldIn, fold_in
from recommender.ranking.topk import Lists, Users, top_k_of_all

if TYPE_CHECKING:
    import scipy.sparse as sp

DECIMALS: Final = 4  # of vectors folded in: their last bits differ from one machine to the next
TopK = Callable[[Users, "sp.csr_array", int, NDArray[np.bool_]], Lists]  # users, seen, k, which items may be listed


@dataclass(frozen=True)
class Learned:
    """The items that can be listed, by how often they were rated, and the users whom a model knows."""

    item_counts: NDArray[np.int64]  # (num_items,) ratings learned from
    users: NDArray[np.bool_]  # (num_users,) who has ratings there, or given to fold in

    @classmethod
    def of(cls, learned: Interactions, given: Interactions) -> Self:
        """Count the ratings learned from; further users have `given` ones."""
        users = np.zeros(learned.num_users, dtype=bool)
        users[learned.users] = users[given.users] = True
        return cls(learned.item_counts(), users)

    @property
    def candidates(self) -> NDArray[np.bool_]:
        """Which items may be listed: (num_items,)."""
        return self.item_counts > 0

    def lists(self, top_k: TopK, users: Users, seen: "sp.csr_array", k: int) -> Lists:
        """List k items for each user: those of `top_k`, or the most rated ones, whose scores are the counts."""
        known = self.users[users]
        if known.all():
            return top_k(users, seen, k, self.candidates)
        items, scores = np.empty((len(users), k), np.int32), np.empty((len(users), k))
        items[known], scores[known] = top_k(users[known], seen, k, self.candidates)
        popular = top_k_of_all(users[~known], seen, k, self.item_counts, self.candidates)
        items[~known], scores[~known] = popular, np.where(popular < 0, -np.inf, self.item_counts[popular])
        return items, scores


def with_new_users(factors: Factors, loss: FoldIn, learned: Interactions, given: Interactions) -> Factors:
    """Return factors in which users without ratings learned from are folded in from those given, or else 0."""
    new = np.ones(learned.num_users, dtype=bool)
    new[learned.users] = False
    if not new.any():
        return factors
    vectors, biases = factors.user_factors.copy(), factors.user_bias.copy()
    vectors[new], biases[new] = 0, 0
    people = np.unique(given.users)
    if len(people):
        found = fold_in(factors, loss, given.matrix()[people])
        vectors[people], biases[people] = (np.round(part, DECIMALS) for part in (found.user_factors, found.user_bias))
    return dataclasses.replace(factors, user_factors=vectors, user_bias=biases)
