"""Why an item is recommended: what each rated item adds to its score or, where nobody can say, which are nearest."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from recommender.ranking.factors import Factors, similar_items
from recommender.ranking.fold_in import FoldIn, RatingLoss, SoftmaxLoss, blocks_of, check_kernel, targets_of
from recommender.ranking.user_kernel import UserKernel

if TYPE_CHECKING:
    import scipy.sparse as sp

KINDS: Final = {
    "shares": "what each rated item adds to the score, and its rating",
    "nearest": "the nearest rated items, which are no parts of the score, by the cosine of vectors, and their ratings",
    "none": "nothing, as the model has learned none of this user's ratings",
}
Parts = tuple[NDArray[np.float64], NDArray[np.float64]]  # of a vector and of a bias: (1 + n, size) and (1 + n,)


@dataclass(frozen=True)
class Explanation:
    """The n rated items whose shares, with `base` and `rest`, add up to an item's score; or the nearest to the item."""

    kind: str  # of `KINDS`
    items: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))  # largest share or cosine first
    ratings: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # shares in the score, or cosines
    base: float = 0.0  # the score without ratings
    rest: float = 0.0  # rounding, and what a saved kernel approximates


def parts_of(factors: Factors, loss: FoldIn, ratings: "sp.csr_array") -> Parts | None:
    """Return what the vector and the bias of one new user are the sums of.

    The first row is what is left without ratings; each other belongs to one of the n stored in (1, num_items). None
    where there are no such sums: the minimum under a softmax is no linear function of what is rated.

    The solution of a ridge system is linear in its targets t_j = r_j - mean - b_j. With x_j an item's vector and a 1
    for the user's bias, and D the penalties, the score of item i is

        mean + b_i  +  sum_j t_j x_i · (sum_h x_h x_h^T + D)^-1 x_j

    whose term j is what the score would lose if r_j were what the mean and the item's bias expect. Features of a kernel
    are divided by `UserKernel.parts`; what they predict of r_j is subtracted from t_j.
    """
    if isinstance(loss, SoftmaxLoss):
        return None
    check_kernel(factors, loss)
    rated = ratings.indices
    features = loss.parts(ratings) if isinstance(loss, UserKernel) else np.zeros((1 + len(rated), 0))
    if not isinstance(loss, RatingLoss):
        return features, np.zeros(len(features))
    vectors, biases = [], []
    for own, rest in blocks_of(factors, loss.ensemble_size, features.shape[1]):
        targets = targets_of(factors, rated, ratings.data - rest[rated] @ features.sum(axis=0))
        solved = np.vstack([np.zeros(own.shape[1] + 1), loss.ridge(own[rated], np.diag(targets)).T])
        vectors += [solved[:, :-1], features]
        biases.append(solved[:, -1])
    return np.hstack(vectors) / len(biases) ** 0.5, np.mean(biases, axis=0)


def by_shares(factors: Factors, parts: Parts, ratings: "sp.csr_array", item: int, score: float) -> Explanation:
    """Return the shares of the (1, num_items) ratings in an item's score, from the `parts_of` them."""
    added = parts[0] @ factors.item_factors[item].astype(np.float64) + parts[1]
    base, shares = factors.global_mean + float(factors.item_bias[item]) + float(added[0]), added[1:]
    order = np.lexsort((ratings.indices, -np.abs(shares)))
    rest = score - base - float(shares.sum())
    return Explanation("shares", ratings.indices[order], ratings.data[order], shares[order], base, rest)


def by_nearest(factors: Factors, item_counts: NDArray[np.int64], ratings: "sp.csr_array", item: int) -> Explanation:
    """Return those of the (1, num_items) ratings whose items are most similar to one: see `similar_items`."""
    near, cosines = similar_items(factors, item_counts, item, len(item_counts))
    own = np.isin(near, ratings.indices)
    rated: NDArray[np.int32] = near[own].astype(np.int32)
    return Explanation("nearest", rated, ratings.toarray()[0][rated], cosines[own])
