"""The models that any model must beat: popularity, the damped item mean, and EASE."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from recommender.data.interactions import Interactions, stars
from recommender.errors import UserError
from recommender.ranking.topk import Lists, Users, top_k

GRAM_ROWS: Final = 1024  # rows of EASE's matrix computed as one sparse product


@dataclass(frozen=True)
class ItemSums:
    """The numbers and the sums of ratings.

    Ratings are float32 and their sums float64, so that those of ratings on one scale are exact, and the same in
    whatever order they are added, as long as they need no more than 29 bits beyond those of a rating.
    """

    counts: NDArray[np.int64]  # (num_items,)
    sums: NDArray[np.float64]  # (num_items,)
    total: float  # of all items

    @classmethod
    def of(cls, train: Interactions) -> Self:
        """Count and add up ratings."""
        ratings = train.ratings.astype(np.float64)
        sums = np.bincount(train.items, weights=ratings, minlength=train.num_items).astype(np.float64)
        return cls(train.item_counts(), sums, float(ratings.sum()))


def item_means(train: ItemSums, damping: float) -> NDArray[np.float64]:
    """Return each item's mean rating, taken together with `damping` ratings at the global mean: (num_items,).

    An item without any rating gets the global mean.
    """
    mean, count = train.total / train.counts.sum(), train.counts
    means = np.full(len(count), mean)
    np.divide(train.sums + damping * mean, count + damping, out=means, where=count + damping > 0)
    return means


def liked(train: Interactions, min_rating: float) -> sp.csr_array:
    """Return a users x items matrix with 1 where the rating is at least `min_rating` stars, float64."""
    kept = stars(train.ratings, train.scale) >= min_rating
    ones = np.ones(np.count_nonzero(kept))
    return sp.csr_array((ones, (train.users[kept], train.items[kept])), shape=train.shape)


def ease_weights(interactions: sp.csr_array, l2: float) -> NDArray[np.float64]:
    """Return the weights of `solve_ease` for a users x items matrix."""
    return solve_ease(item_pairs([interactions], interactions.shape[1]), l2)


def item_pairs(parts: Iterable[sp.csr_array], num_items: int) -> NDArray[np.float64]:
    """Return how many users have both of two items: (num_items, num_items) float64.

    The `parts` are users x items matrices of 1 that have all users together; counts are exact in any order.
    """
    pairs = np.zeros((num_items, num_items))
    for interactions in parts:
        by_item = sp.csr_array(interactions.T)
        for start in range(0, num_items, GRAM_ROWS):
            pairs[start : start + GRAM_ROWS] += (by_item[start : start + GRAM_ROWS] @ interactions).toarray()
    return pairs


def solve_ease(gram: NDArray[np.float64], l2: float) -> NDArray[np.float64]:
    """Solve EASE (Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019, equation 8).

    `gram` are `item_pairs`, which are overwritten.

    Returns:
        (num_items, num_items) float64 with a zero diagonal: the weight of an item that a user has, by row, for another.
    """
    gram[np.diag_indices_from(gram)] += l2
    try:
        with warnings.catch_warnings(action="error", category=scipy.linalg.LinAlgWarning):
            inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False, assume_a="pos")
    except (scipy.linalg.LinAlgError, scipy.linalg.LinAlgWarning):
        raise UserError(
            f"params.yaml: baselines.ease_lambda: {l2:g} is too small to invert EASE's matrix; choose 1 or more"
        ) from None
    weights: NDArray[np.float64] = np.asarray(inverse, dtype=np.float64)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0)
    return weights


def ease_top_k(
    interactions: sp.csr_array,
    weights: NDArray[np.float64],
    users: Users,
    seen: sp.csr_array,
    k: int,
    candidates: NDArray[np.bool_] | None = None,
) -> Lists:
    """List the k unseen items that EASE scores highest for some users: see `recommender.ranking.topk.top_k`."""

    def scores(batch: Users) -> NDArray[np.float64]:
        # Rounded: items liked by the same users have equal scores but for the last bits, which differ from one machine
        # to the next and must not decide their order.
        rounded: NDArray[np.float64] = np.round(interactions[batch] @ weights, 9)
        return rounded

    return top_k(users, seen, k, scores, candidates=candidates)
