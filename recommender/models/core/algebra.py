"""Linear algebra to the same bits whatever the processor and the number of threads.

LAPACK and OpenBLAS choose kernels by processor and threads, and so does Eigen, which multiplies matrices for TensorFlow
and XLA: it cuts long contractions by the size of the caches, those of a small result by the number of threads, and
tiles of float64 where a thread's share ends, in kernels that round otherwise. Contractions of float32 of `ROWS`, which
fit the first-level cache of any processor, or for a small result `FEW`, and columns in whole tiles leave it nothing to
choose. Everything here is made of such products, added in a fixed order, and of NumPy's operations on single numbers,
which are rounded exactly; float64 of those alone.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.models.core.backend import tf
from recommender.ranking.topk import threads

Tensor = Any  # TensorFlow ships no types
Matrix = Tensor | NDArray[np.floating]
ROWS: Final = 256  # of a contraction
# A contraction is divided where each of so many threads as divide it has more than 32 rows, and so small a result would
# occupy fewer threads (Eigen's TensorContractionThreadPool.h, shardByInnerDim): of 64 rows none is.
FEW: Final = 64
FEW_UP_TO: Final = 65_536  # numbers of such a result; above 51,000 Eigen divides no contraction of `ROWS`
TILE: Final = 48  # columns: a multiple of every tile's
SMALL: Final = 1200  # rows of a matrix that is eliminated a tile at a time; of a larger one `ELIMINATED` are
ELIMINATED: Final = 240
PANEL: Final = 960  # rows or columns of a symmetric matrix that are computed at a time, up to the diagonal
WIDE_PANEL: Final = 128  # of float64, which a thread multiplies at a time


def product(left: Matrix, right: Matrix) -> Matrix:
    """Return leftᵀ right: (rows, m) and (rows, n), both float32 or both float64 arrays, to (m, n)."""
    return _summed(left, right) if left.dtype == np.float64 else _contracted(left, right, (0, 0))


@tf.custom_gradient
def inner_products(vectors: Tensor, others: Tensor) -> tuple[Tensor, Any]:
    """Return vectors othersᵀ: (n, size) and (m, size) to (n, m), with gradients; to be called in compiled functions."""

    def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
        return _contracted(upstream, others, (1, 0)), _contracted(upstream, vectors, (0, 0))

    return _contracted(vectors, others, (1, 1)), gradient


def _contracted(left: Matrix, right: Matrix, axes: tuple[int, int]) -> Tensor:
    """Return the products of two matrices summed over one axis of each, `ROWS` at a time, first to last."""
    left, right = tf.convert_to_tensor(left), tf.convert_to_tensor(right)
    length, sizes = left.shape[axes[0]], (left.shape[1 - axes[0]], right.shape[1 - axes[1]])
    if axes[1] and sizes[0] < sizes[1]:  # several times as slow as the transposed product
        return tf.transpose(_contracted(right, left, axes[::-1]))
    padded = [whole_tiles(size) for size in sizes]
    rows = FEW if padded[0] * padded[1] < FEW_UP_TO else ROWS

    def part(matrix: Tensor, axis: int, start: Tensor, count: int) -> Tensor:  # with a size of -1, XLA copies all of it
        if axis == 0:
            return _padded(tf.slice(matrix, (start, 0), (count, matrix.shape[1])), 0, -matrix.shape[1] % TILE)
        return _padded(tf.slice(matrix, (0, start), (matrix.shape[0], count)), -matrix.shape[0] % TILE, 0)

    def block(start: Tensor, count: int) -> Tensor:
        first, second = (part(*each, start, count) for each in zip((left, right), axes, strict=True))
        return tf.matmul(first, second, transpose_a=axes[0] == 0, transpose_b=axes[1] == 1)

    whole = length - length % rows
    total = tf.zeros(padded, left.dtype)
    if whole:

        def step(start: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            return start + rows, total + block(start, rows)

        _, total = tf.while_loop(lambda start, _: start < whole, step, (0, total))
    if length > whole:
        total += block(tf.constant(whole), length - whole)
    return total[: sizes[0], : sizes[1]]


def _summed(left: Matrix, right: Matrix) -> NDArray[np.float64]:
    """Return leftᵀ right, each number the sum of products first to last: the order of einsum's loops over rows."""
    right = np.ascontiguousarray(right)

    def panel(start: int) -> NDArray[np.float64]:
        columns = np.ascontiguousarray(left[:, start : start + WIDE_PANEL])
        return np.einsum("ki,kj->ij", columns, right)

    with ThreadPoolExecutor(threads()) as pool:
        return np.concatenate(list(pool.map(panel, range(0, left.shape[1], WIDE_PANEL))))


def symmetric_product(left: Matrix, right: Matrix) -> NDArray[np.float64]:
    """Return leftᵀ right where that is symmetric, from little more than half of the products."""
    size = left.shape[1]
    found = np.empty((size, size))
    for start in range(0, size, WIDE_PANEL):
        end = start + WIDE_PANEL
        found[start:, start:end] = _summed(left[:, start:], right[:, start:end])
    return _mirrored(found)


def gram(matrix: Matrix, axis: int = 0) -> NDArray[Any]:
    """Return matrixᵀ matrix, or with axis 1 matrix matrixᵀ, from little more than half of the products."""
    if matrix.dtype == np.float64:
        matrix = matrix.T if axis else matrix
        return symmetric_product(matrix, matrix)
    matrix = tf.convert_to_tensor(matrix)
    size = matrix.shape[1 - axis]
    found = np.empty((size, size), np.float32)
    for start in range(0, size, PANEL):
        end = min(start + PANEL, size)
        before, panel = (matrix[:end], matrix[start:end]) if axis else (matrix[:, :end], matrix[:, start:end])
        found[:end, start:end] = _contracted(before, panel, (axis, axis))
    return _mirrored(found.T)


def _mirrored(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a square matrix with what is below its diagonal above it, too: in place, and in blocks for the cache."""
    for start in range(0, len(matrix), TILE):
        columns = matrix[start:, start : start + TILE]
        corner = np.tril(columns[:TILE])
        columns[:TILE] = corner + np.tril(corner, -1).T
        matrix[start : start + TILE, start + TILE :] = columns[TILE:].T
    return matrix


def inverse(matrix: Matrix) -> NDArray[Any]:
    """Return the inverse of a symmetric positive definite matrix, by elimination in blocks (Gauss and Jordan)."""
    return _eliminated(np.asarray(matrix), whole=True)


def inverse_root(matrix: Matrix) -> NDArray[Any]:
    """Return the lower triangular R with R S Rᵀ = I of a symmetric positive definite S: its Cholesky root's inverse."""
    return _eliminated(np.asarray(matrix), whole=False)


def whole_tiles(size: int) -> int:
    """Return a size or the next larger one that needs no filling up."""
    return size + -size % TILE


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return tf.pad(matrix, ((0, rows), (0, columns))) if rows or columns else matrix


def _eliminated(matrix: NDArray[Any], *, whole: bool) -> NDArray[Any]:
    """Eliminate blocks of rows from all others, for the inverse, or from those below, for the inverse of the root.

    A column that has been eliminated has room for one of the result. Only the lower triangle is read. Above it would
    be the same, but of the other sign where one of row and column has been eliminated and the other has not.
    """
    size = len(matrix)
    if size <= TILE:
        return _eliminated_by_row(matrix, whole=whole)
    block = TILE if size <= SMALL else ELIMINATED
    rest = np.eye(size + -size % block, dtype=matrix.dtype)  # rows that fill the last block are those of the identity
    rest[:size, :size] = matrix
    one = np.eye(block, dtype=matrix.dtype)
    for start in range(0, len(rest), block):
        end = start + block
        inverted = _eliminated(rest[start:end, start:end], whole=whole)
        row = np.hstack([rest[start:end, :start], one, rest[end:, start:end].T])
        pivot = _multiplied(inverted.T, row)
        sign = np.repeat(np.array([-whole, 0, 1], matrix.dtype), (start, block, len(rest) - end))
        others = (row if whole else pivot) * sign
        rest[start:end, :end], rest[end:, start:end] = pivot[:, :end], 0
        for first in range(0 if whole else end, len(rest), PANEL):
            last = first + PANEL
            rest[first:last, :last] -= _multiplied(others[:, first:last], pivot[:, :last])
    found = rest[:size, :size]
    return _mirrored(found) if whole else np.tril(found)


def _eliminated_by_row(matrix: NDArray[Any], *, whole: bool) -> NDArray[Any]:
    """Do what `_eliminated` does with blocks of one row."""
    size = len(matrix)
    rest = np.tril(matrix)
    one, below = np.ones(1, matrix.dtype), np.tri(size, k=-1, dtype=matrix.dtype)
    signs = below.T - whole * below  # in row i: -1 or 0 before it, 1 after it
    for step in range(size):
        row = np.concatenate([rest[step, :step], one, rest[step + 1 :, step]])
        inverted = 1 / rest[step, step]
        pivot = row * (inverted if whole else np.sqrt(inverted))
        rest[step, : step + 1], rest[step + 1 :, step] = pivot[: step + 1], 0
        rest -= ((row if whole else pivot) * signs[step])[:, None] * pivot
    return _mirrored(rest) if whole else np.tril(rest)


def _multiplied(left: NDArray[Any], right: NDArray[Any]) -> Matrix:
    return _summed(left, right) if left.dtype == np.float64 else tf.matmul(left, right, transpose_a=True)
