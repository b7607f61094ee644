"""Linear algebra inside XLA, to the same bits whatever the processor and the number of threads.

LAPACK and OpenBLAS choose kernels by processor and threads, and so does the library behind XLA's own matrix products:
it cuts long contractions by the size of the caches, and by the number of threads where its tiles end, in kernels that
round otherwise. Contractions of `ROWS`, which fit the first-level cache of any processor, and columns in whole tiles
leave it nothing to choose. Everything here is made of such products, added in a fixed order.
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


@tf.function(jit_compile=True, autograph=False)
def inverse(matrix: Matrix) -> Tensor:
    """Return the inverse of a symmetric positive definite matrix, by elimination in blocks (Gauss and Jordan)."""
    return _eliminated(tf.convert_to_tensor(matrix), whole=True)


@tf.function(jit_compile=True, autograph=False)
def inverse_root(matrix: Matrix) -> Tensor:
    """Return the lower triangular R with R S Rᵀ = I of a symmetric positive definite S: its Cholesky root's inverse."""
    return tf.linalg.band_part(_eliminated(tf.convert_to_tensor(matrix), whole=False), -1, 0)


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return tf.pad(matrix, ((0, rows), (0, columns))) if rows or columns else matrix


def _eliminated(matrix: Tensor, *, whole: bool) -> Tensor:
    """Eliminate blocks of rows from all others, for the inverse, or from those below, for the inverse of the root.

    A column that has been eliminated has room for one of the result. Above the diagonal of a root is what is left over.
    """
    size = matrix.shape[0]
    if size == 1:  # XLA has an instruction for 1 / sqrt that rounds otherwise on every processor
        return 1 / matrix if whole else tf.sqrt(1 / matrix)
    block = 1 if size <= TILE else TILE if size <= SMALL else ELIMINATED
    rows = np.arange(size + -size % block)
    # Rows that fill the last block are those of the identity.
    matrix = _padded(matrix, len(rows) - size, len(rows) - size)
    matrix = tf.linalg.set_diag(matrix, tf.where(rows < size, tf.linalg.diag_part(matrix), 1))

    def step(start: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        chosen = start + tf.range(block)
        here = (rows >= start) & (rows < start + block)
        pivot = tf.slice(matrix, (start, 0), (block, len(rows)))
        others = tf.slice(matrix, (0, start), (len(rows), block))
        inverted = _eliminated(tf.slice(pivot, (0, start), (block, block)), whole=whole)
        pivot = tf.matmul(inverted, tf.where(here, tf.cast(rows == chosen[:, None], matrix.dtype), pivot))
        if not whole:
            others = tf.matmul(others, inverted, transpose_b=True)
        others = tf.where((~here if whole else rows >= start + block)[:, None], others, 0)
        matrix = tf.where(here, tf.zeros((), matrix.dtype), matrix) - tf.matmul(others, pivot)
        return start + block, tf.tensor_scatter_nd_update(matrix, chosen[:, None], pivot)

    done = tf.while_loop(lambda start, _: start < len(rows), step, (0, matrix))[1]
    return done[:size, :size]
