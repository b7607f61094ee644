"""The kernel between users' profiles, and its leading features: what `kernel` and `encoded_mf` share."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.algebra import (
    Matrix,
    gram,
    inner_products,
    inverse,
    inverse_root,
    product,
    symmetric_product,
)
from recommender.models.core.backend import tf
from recommender.params import Kernel
from recommender.ranking.topk import threads
from recommender.ranking.user_kernel import UserKernel

if TYPE_CHECKING:
    import scipy.sparse as sp

Tensor = Any  # TensorFlow ships no types
BLOCK: Final = 1024  # rows that a thread makes at a time
PRODUCTS: Final = 256  # rows of a symmetric product that a thread makes at a time, up to the diagonal
MOST: Final = 2048  # rows that are there at a time
ROUNDS: Final = 1  # of subspace iteration
KEPT: Final = 512  # users that new ones are compared with
KEPT_RIDGE: Final = 1e-4  # of the mean of the diagonal of what fits their vectors
SHIFT: Final = 1e-7  # of the trace of a matrix of features, added to its diagonal: it may be singular


def user_features(
    known: Interactions, section: Kernel, size: int, seed: int, rounds: int = ROUNDS
) -> tuple[NDArray[np.float32], UserKernel]:
    """Return leading features of the kernel, (num_users, size) or fewer numbers, and what makes those of new users."""
    ratings, users = known.matrix(), _landmarks(known, section, seed)
    kernel = user_kernel(ratings, known.scale, section, users)
    anchors = kernel.anchors, kernel.anchor_scale
    between = exponential(gram(kernel.anchors, axis=1), section.user_gamma, kernel.anchor_scale, kernel.anchor_scale)
    mapping, found = leading(between, min(size, len(users)), seed, rounds)
    vectors = np.empty((known.num_users, found.shape[1]), np.float32)
    vectors[users] = found
    others = np.setdiff1d(np.arange(known.num_users), users)
    inputs, scale = kernel.inputs(ratings), kernel.scale(np.diff(ratings.indptr))
    for rows in equal_slices(len(others), MOST):
        block = others[rows]
        features = dense_rows(kernel.features, inputs[block])
        vectors[block] = product(between_rows(*anchors, features, scale[block], section.user_gamma), mapping)
    return vectors, _compact(dataclasses.replace(kernel, mapping=mapping), between, found)


def user_kernel(
    ratings: "sp.csr_array", scale: tuple[float, float], section: Kernel, users: NDArray[np.int32]
) -> UserKernel:
    """Return the kernel of users with the anchors, as yet without the mapping to vectors."""
    counts = np.bincount(ratings.indices, minlength=ratings.shape[1])
    share = np.maximum(counts, 1) / np.maximum(counts, 1).mean()
    landmarks = np.sort(np.argsort(-counts, kind="stable")[: section.max_items]).astype(np.int32)
    of_users = np.maximum(np.diff(ratings.indptr), 1)
    kernel = UserKernel(
        rating_base=section.rating_base,
        profile_weight=section.profile_weight,
        gamma=section.user_gamma,
        user_scale=section.user_scale,
        mean_count=float(of_users.mean()),
        item_scale=np.power(share, -section.item_discount).astype(np.float32),
        landmarks=landmarks,
        item_weights=np.empty(0, np.float32),
        anchors=np.empty(0, np.float32),
        anchor_scale=np.empty(0, np.float32),
        mapping=np.empty(0, np.float32),
        lowest=scale[0],
        highest=scale[1],
    )
    inputs = kernel.inputs(ratings)
    kernel = dataclasses.replace(kernel, item_weights=item_weights(inputs, landmarks, section))
    anchors = dense_rows(kernel.features, inputs[users])
    return dataclasses.replace(kernel, anchors=anchors, anchor_scale=kernel.scale(of_users[users]))


def item_weights(inputs: "sp.csr_array", landmarks: NDArray[np.int32], section: Kernel) -> NDArray[np.float32]:
    """Return the weights of the landmarks' ratings in the profile of every item: (landmarks, num_items) float32.

    A landmark's column is that of EASE (Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019, equation
    8) with a kernel in place of the Gram matrix, -P_ij / P_jj with P = (K + ridge)^-1 and 0 on the diagonal; any other
    item's is its kernel ridge regression on the landmarks, P k_j.
    """
    counts = np.diff(inputs.indptr)
    share = np.maximum(counts, 1) / np.maximum(counts, 1).mean()
    scaled, squares = inputs.astype(np.float64), np.bincount(inputs.indices, inputs.data**2.0, inputs.shape[1]) + 1e-6
    scaled.data /= np.repeat(np.power(share, section.user_discount).astype(np.float32), counts)
    scale = np.power(squares / squares.mean(), section.item_scale).astype(np.float32)
    lengths = np.sqrt(np.bincount(scaled.indices, scaled.data**2, scaled.shape[1]))
    lengths = np.where(lengths > 0, lengths, 1)
    scaled.data /= lengths[scaled.indices]
    by_item = scaled.T.tocsr()
    all_items = len(landmarks) == len(scale)
    if all_items:
        cosines = sparse_gram(by_item)
    else:
        cosines = dense_rows(lambda rows: (rows @ scaled).toarray().astype(np.float32), by_item[landmarks])
    kernel = exponential(cosines, section.item_gamma, scale[landmarks], scale)
    square = np.array(kernel if all_items else tf.gather(kernel, landmarks, axis=1))
    square[np.diag_indices_from(square)] += np.float32(section.item_ridge)
    inverted = inverse(square)
    between = np.divide(inverted, -np.diag(inverted), dtype=np.float32)
    np.fill_diagonal(between, 0)
    if all_items:
        return between
    weights = np.array(product(inverted, kernel))
    weights[:, landmarks] = between
    return weights


@tf.function(jit_compile=True, autograph=False)
def between_rows(left: Matrix, left_scale: Tensor, right: Matrix, right_scale: Tensor, gamma: float) -> Tensor:
    """Return the kernel between all rows of two matrices of unit rows: (n, size) and (m, size) to (n, m)."""
    return exponential(inner_products(left, right), gamma, left_scale, right_scale)


@tf.function(jit_compile=True, autograph=False)
def exponential(cosines: Tensor, gamma: float, left: Tensor, right: Tensor) -> Tensor:
    """Return exp(gamma (cosine - 1)), scaled by row and by column. NumPy's exponential depends on the processor."""
    return tf.exp(gamma * (cosines - 1)) * left[:, None] * right


def leading(
    kernel: Tensor, size: int, seed: int, rounds: int = ROUNDS
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the (n, size) matrix that an (n, n) kernel is multiplied by for features F, and F: F Fᵀ ≈ kernel.

    Subspace iteration (Halko, Martinsson and Tropp, Finding structure with randomness, 2011, algorithm 4.4), made
    orthonormal by Cholesky's root, and Nyström's approximation from what it ends in: K Q (Qᵀ K Q)^-1 Qᵀ K.
    """
    basis = (np.random.default_rng(seed).random((kernel.shape[0], size)) - 0.5).astype(np.float32)
    for _ in range(rounds):
        basis = product(kernel, basis)
        basis = _turned(basis, _root(gram(np.asarray(basis, np.float64)), SHIFT**2))
    images = product(kernel, basis)
    root = _root(symmetric_product(np.asarray(basis, np.float64), np.asarray(images, np.float64)), SHIFT)
    return _turned(basis, root), _turned(images, root)


def _root(square: Tensor, shift: float) -> NDArray[np.float64]:
    """Return the lower triangular R with R S Rᵀ = I of a float64 matrix S whose diagonal is shifted."""
    return inverse_root(square + shift * np.trace(square) * np.eye(len(square)))


def _turned(matrix: Tensor, root: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.array(product(tf.transpose(matrix), root.T.astype(np.float32)))


def _compact(kernel: UserKernel, between: Tensor, vectors: NDArray[np.float32]) -> UserKernel:
    """Return a kernel with `KEPT` anchors at most and a mapping that fits the vectors of all, in half precision."""
    mapping = kernel.mapping
    kept = np.arange(len(vectors))
    if len(kept) > KEPT:
        kept = np.linspace(0, len(kept) - 1, KEPT).astype(np.int32)
        rows = np.asarray(tf.gather(between, kept, axis=1), np.float64)  # float32 rounds by more than the shift
        square = gram(rows)
        shift = KEPT_RIDGE * np.trace(square) / KEPT
        right = product(rows, vectors.astype(np.float64))
        mapping = np.array(product(inverse(square + shift * np.eye(KEPT)), right), np.float32)
    # By NumPy: TensorFlow's threads may flush the smallest numbers of half precision to 0.
    weights, anchors = (
        dense_rows(lambda rows: rows.astype(np.float16), part) for part in (kernel.item_weights, kernel.anchors[kept])
    )
    scale = kernel.anchor_scale[kept]
    return dataclasses.replace(kernel, item_weights=weights, anchors=anchors, anchor_scale=scale, mapping=mapping)


def _landmarks(known: Interactions, section: Kernel, seed: int) -> NDArray[np.int32]:
    """Return the users that all are compared with, ascending: all of them, or a random choice."""
    if known.num_users <= section.max_users:
        return np.arange(known.num_users, dtype=np.int32)
    drawn = np.random.default_rng(seed).permutation(known.num_users)[: section.max_users]
    return np.sort(drawn).astype(np.int32)


def equal_slices(count: int, most: int) -> Iterator[slice]:
    """Yield slices of all of `count` rows, `most` or fewer each: of one size, so that they share a compiled program.

    The last one begins with rows of the one before it where they would not be equal otherwise.
    """
    size = math.ceil(count / max(1, math.ceil(count / most)))
    for end in range(size, count + size, size) if count else ():
        yield slice(min(end, count) - size, min(end, count))


def dense_rows(rows: Callable[[Any], NDArray[Any]], inputs: "sp.csr_array | NDArray[Any]") -> NDArray[Any]:
    """Return dense rows made of others, sparse or dense, `BLOCK` at a time in threads."""
    with ThreadPoolExecutor(threads()) as pool:
        starts = range(0, inputs.shape[0], BLOCK)
        return np.concatenate(list(pool.map(lambda start: rows(inputs[start : start + BLOCK]), starts)))


def sparse_gram(rows: "sp.csr_array") -> NDArray[np.float32]:
    """Return the products of all rows with all, (n, n), from little more than half of them; in threads."""
    columns = rows.T.tocsr()
    found = np.empty((rows.shape[0], rows.shape[0]), np.float32)

    def multiply(start: int) -> None:
        here, end = slice(start, start + PRODUCTS), start + PRODUCTS
        found[here, :end] = (rows[here] @ columns[:, :end]).toarray()
        found[:start, here] = found[here, :start].T

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(multiply, range(0, len(found), PRODUCTS)))
    return found
