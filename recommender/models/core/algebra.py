"""Linear algebra to the same bits whatever the processor and the number of threads.

LAPACK and OpenBLAS choose kernels by processor and threads, and so does the library behind XLA's own matrix products:
it cuts long contractions by the size of the caches, and by the number of threads where its tiles end, in kernels that
round otherwise. Contractions of `ROWS`, which fit the first-level cache of any processor, and columns in whole tiles
leave it nothing to choose. Everything here is made of such products, added in a fixed order, and of NumPy's operations
on single numbers, which are rounded exactly.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.models.core.backend import tf

Tensor = Any  # TensorFlow ships no types
Matrix = Tensor | NDArray[np.floating]
ROWS: Final = {tf.float32: 256, tf.float64: 240}  # of a contraction; (32 KiB - 384) / 128 = 253 fit with float64
TILE: Final = 48  # columns: a multiple of every tile's
SMALL: Final = 1200  # rows of a matrix that is eliminated a tile at a time; of a larger one `ELIMINATED` are
ELIMINATED: Final = 240
FINE: Final = 12  # of float64, whose longer contractions and wider products threads divide
PANEL: Final = 960  # rows or columns of a symmetric matrix that are computed at a time, up to the diagonal


def product(left: Matrix, right: Matrix) -> Tensor:
    """Return leftᵀ right: (rows, m) and (rows, n) of one type to (m, n)."""
    return _contracted(left, right, (0, 0))


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
    rows = ROWS[left.dtype]

    def part(matrix: Tensor, axis: int, start: Tensor, count: int) -> Tensor:
        if axis == 0:
            return _padded(tf.slice(matrix, (start, 0), (count, -1)), 0, -matrix.shape[1] % TILE)
        return _padded(tf.slice(matrix, (0, start), (-1, count)), -matrix.shape[0] % TILE, 0)

    def block(start: Tensor, count: int) -> Tensor:
        first, second = (part(*each, start, count) for each in zip((left, right), axes, strict=True))
        return tf.matmul(first, second, transpose_a=axes[0] == 0, transpose_b=axes[1] == 1)

    whole = length - length % rows
    total = tf.zeros([size + -size % TILE for size in sizes], left.dtype)
    if whole:

        def step(start: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            return start + rows, total + block(start, rows)

        _, total = tf.while_loop(lambda start, _: start < whole, step, (0, total))
    if length > whole:
        total += block(tf.constant(whole), length - whole)
    return total[: sizes[0], : sizes[1]]


def gram(matrix: Matrix, axis: int = 0) -> NDArray[Any]:
    """Return matrixᵀ matrix, or with axis 1 matrix matrixᵀ, from little more than half of the products."""
    matrix = tf.convert_to_tensor(matrix)
    size = matrix.shape[1 - axis]
    found = np.empty((size, size), matrix.dtype.as_numpy_dtype)
    for start in range(0, size, PANEL):
        end = min(start + PANEL, size)
        before, panel = (matrix[:end], matrix[start:end]) if axis else (matrix[:, :end], matrix[:, start:end])
        found[:end, start:end] = _contracted(before, panel, (axis, axis))
        found[start:end, :start] = found[:start, start:end].T
    return found


def inverse(matrix: Matrix) -> NDArray[Any]:
    """Return the inverse of a symmetric positive definite matrix, by elimination in blocks (Gauss and Jordan)."""
    return _eliminated(np.asarray(matrix), whole=True)


def inverse_root(matrix: Matrix) -> NDArray[Any]:
    """Return the lower triangular R with R S Rᵀ = I of a symmetric positive definite S: its Cholesky root's inverse."""
    return _eliminated(np.asarray(matrix), whole=False)


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return tf.pad(matrix, ((0, rows), (0, columns))) if rows or columns else matrix


def _eliminated(matrix: NDArray[Any], *, whole: bool) -> NDArray[Any]:
    """Eliminate blocks of rows from all others, for the inverse, or from those below, for the inverse of the root.

    A column that has been eliminated has room for one of the result. Only the lower triangle is read. Above it would
    be the same, but of the other sign where one of row and column has been eliminated and the other has not.
    """
    size = len(matrix)
    if size == 1:
        return 1 / matrix if whole else np.sqrt(1 / matrix)
    block = FINE if matrix.dtype == np.float64 else TILE if size <= SMALL else ELIMINATED
    block = 1 if size <= TILE else block
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
    found = np.tril(rest[:size, :size])
    if whole:
        found += np.tril(found, -1).T
    return found


def _multiplied(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Return leftᵀ right; of `PANEL` columns at a time, as threads divide wider products where they round otherwise."""
    if len(left) == 1:
        return left.T * right
    parts = (right[:, start : start + PANEL] for start in range(0, right.shape[1], PANEL))
    return np.hstack([tf.matmul(left, part, transpose_a=True) for part in parts])
