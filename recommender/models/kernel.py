"""Ranking in closed form: leading features of a kernel between the users' profiles, and a ridge for the items."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.algebra import gram, inverse_root, product
from recommender.models.core.kernels import ROUNDS, user_features
from recommender.params import Kernel
from recommender.ranking.factors import Factors
from recommender.ranking.user_kernel import UserKernel

if TYPE_CHECKING:
    import scipy.sparse as sp

LANDMARK_ROUNDS: Final = 2  # of subspace iteration: features of all users are computed from those of some
TARGET_BASE: Final = 2.0  # a rating of r stars is predicted as base^(r - 4), what is not rated as 0


def solve(known: Interactions, item_order: NDArray[np.int32], section: Kernel, seed: int) -> tuple[Factors, UserKernel]:
    """Return the vectors of all users and items, and what makes the vector of a new user."""
    bounds = section.max_users, section.max_items
    for name, count, most in zip(("users", "items"), known.shape, bounds, strict=True):
        if count > most:
            found = f"kernel: {most:,} of {count:,} {name} stand for all (train.kernel.max_{name})"
            print(f"{found}; with less than a twentieth, softmax_mf ranks better", file=sys.stderr)
    rounds = ROUNDS if known.num_users <= section.max_users else LANDMARK_ROUNDS
    vectors, kernel = user_features(known, section, section.embedding_size, seed, rounds)
    targets = dataclasses.replace(kernel, rating_base=TARGET_BASE).inputs(known.matrix())
    user_bias, item_bias = (np.zeros(count, np.float32) for count in known.shape)
    items = ridge(vectors, targets, section.ridge)
    return Factors(vectors, items, user_bias, item_bias, item_order, scores=section.scores), kernel


def ridge(vectors: NDArray[np.float32], targets: "sp.csr_array", penalty: float) -> NDArray[np.float32]:
    """Return the item vectors V that minimise |targets - U Vᵀ|² + penalty |V|²: (num_items, size) float32."""
    root = inverse_root(gram(vectors.astype(np.float64)) + penalty * np.eye(vectors.shape[1]))
    right = np.ascontiguousarray((targets.T.tocsr() @ vectors).T)
    return np.array(product(right, gram(root).astype(np.float32)))
