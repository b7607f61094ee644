"""A kernel between users: what makes a vector of anybody's ratings, of users trained on and of new ones alike."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recommender.data.interactions import STARS, stars

if TYPE_CHECKING:  # the default training does without SciPy, which is slow to import
    import scipy.sparse as sp


@dataclass(frozen=True, kw_only=True)
class UserKernel:
    """Vector = kernel between a user and the anchors, times a matrix (Nyström's extension of eigenvectors).

    A user's input x has base^(stars - 4) for items rated and 0 for others; the profile p = max(xB, 0) has what the
    weights B between items expect of all items. The kernel of two users is exp(gamma (cos - 1)) s s', with the cosine
    of their (x + c p^(3/4)) · item_scale, and s = (ratings / mean_count)^user_scale.

    Every operation on one number is rounded exactly (p^(3/4) is made of square roots), so that features have the same
    bits on every machine.
    """

    rating_base: float
    profile_weight: float  # c
    gamma: float
    user_scale: float
    mean_count: float  # ratings of a user, on average
    item_scale: NDArray[np.float32]  # (num_items,)
    landmarks: NDArray[np.int32]  # (m,) the items that weights are known from
    item_weights: NDArray[np.floating]  # (m, num_items) B
    anchors: NDArray[np.floating]  # (anchors, num_items) features of some users
    anchor_scale: NDArray[np.float32]  # (anchors,) their s
    mapping: NDArray[np.float32]  # (anchors, size)
    lowest: float = STARS[0]  # of the ratings' scale
    highest: float = STARS[1]

    @cached_property
    def _wide(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The item weights and the anchors, which are saved in half precision: it does not show in lists."""
        return self.item_weights.astype(np.float32, copy=False), self.anchors.astype(np.float32, copy=False)

    def inputs(self, ratings: "sp.csr_array") -> "sp.csr_array":
        """Return x for (n, num_items) ratings: of the same shape, float32."""
        weights = ratings.astype(np.float32)
        centred = stars(ratings.data.astype(np.float64), (self.lowest, self.highest)) - 4
        weights.data = np.power(self.rating_base, centred).astype(np.float32)
        return weights

    def features(self, inputs: "sp.csr_array") -> NDArray[np.float32]:
        """Return (x + c p^(3/4)) · item_scale at unit length: (n, num_items) float32, zeros without ratings."""
        found = np.sqrt(self.profiles(inputs))
        found *= np.sqrt(found)
        found *= np.float32(self.profile_weight)
        found[np.repeat(np.arange(len(found)), np.diff(inputs.indptr)), inputs.indices] += inputs.data
        found *= self.item_scale
        lengths = np.sqrt(np.square(found, dtype=np.float64).sum(axis=1))
        found /= np.where(lengths > 0, lengths, 1).astype(np.float32)[:, None]
        return found

    def profiles(self, inputs: "sp.csr_array") -> NDArray[np.float32]:
        """Return p = max(xB, 0): (n, num_items) float32."""
        known = inputs if len(self.landmarks) == inputs.shape[1] else inputs[:, self.landmarks]
        found: NDArray[np.float32] = np.maximum(known @ self._wide[0], 0, dtype=np.float32)
        return found

    def scale(self, counts: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return s for users with so many ratings."""
        share: NDArray[np.float64] = np.maximum(counts, 1) / self.mean_count
        return np.power(share, self.user_scale).astype(np.float32)

    def vectors(self, ratings: "sp.csr_array") -> NDArray[np.float32]:
        """Return the vectors of users with (n, num_items) ratings: (n, size) float32."""
        with threadpool_limits(1):  # for one user, threads take longer to start than to compute
            cosines = self.features(self.inputs(ratings)) @ self._wide[1].T
            kernel = np.exp(np.float32(self.gamma) * (cosines - 1)) * self.anchor_scale
            found: NDArray[np.float32] = self.scale(np.diff(ratings.indptr))[:, None] * (kernel @ self.mapping)
        return found

    def parts(self, ratings: "sp.csr_array") -> NDArray[np.float64]:
        """Return what one user's vector is the sum of: (1 + n, size) float64 for (1, num_items) with n ratings stored.

        The first row is the vector of nobody's ratings, the others belong to the ratings. A function g of a sum
        z = sum_j z_j is divided in proportion: z_j (g(z) - g(0)) / z belongs to rating j. That is the rescale rule of
        DeepLIFT (Shrikumar, Greenside and Kundaje, Learning important features through propagating activation
        differences, ICML 2017, section 3.5.1) with no ratings for the reference, and for one function the value of
        Aumann and Shapley, its gradient averaged from 0 to z, times z_j. With f the features before they are divided by
        their length, the part of rating j in feature l, and in the kernel with anchor a, are

            f_jl = item_scale_l (x_l [l = j]  +  c x_j B_jl p_l^(-1/4) [p_l > 0])
            cos_aj = sum_l anchor_al f_jl / |f|
            kernel_aj = s s_a exp(-gamma) (exp(gamma cos_a) - 1) / cos_a cos_aj

        and exp(-gamma) s s_a is left without ratings. The length |f| and s belong to all ratings together and stay.
        """
        inputs = self.inputs(ratings)
        items, weights = inputs.indices, inputs.data.astype(np.float64)
        place = np.minimum(np.searchsorted(self.landmarks, items), len(self.landmarks) - 1)
        weighed = np.where(self.landmarks[place] == items, weights, 0)
        found = weighed[:, None] * self.item_weights[place]
        profile = found.sum(axis=0)
        found *= self.profile_weight * np.power(profile, -0.25, out=np.zeros_like(profile), where=profile > 0)
        found[np.arange(len(items)), items] += weights
        found *= self.item_scale
        found /= np.linalg.norm(found.sum(axis=0)) or 1
        cosines = found @ self._wide[1].T
        total = self.gamma * cosines.sum(axis=0)
        slope = self.gamma * np.divide(np.expm1(total), total, out=np.ones_like(total), where=total != 0)
        kernel = np.exp(-self.gamma) * self.anchor_scale * np.vstack([np.ones_like(total), slope * cosines])
        parts: NDArray[np.float64] = self.scale(np.diff(ratings.indptr)) * (kernel @ self.mapping)
        return parts
