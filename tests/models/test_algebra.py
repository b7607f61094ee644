"""Linear algebra in XLA against NumPy's in float64, and its bits over threads."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.models.core.algebra import (
    FEW,
    PANEL,
    ROWS,
    SMALL,
    TILE,
    gram,
    inner_products,
    inverse,
    inverse_root,
    product,
)
from recommender.models.core.backend import tf
from tests.conftest import REPOSITORY

Tensor = Any  # TensorFlow ships no types
SIZES = [1, 5, TILE, TILE + 1, 3 * TILE - 1, SMALL + 1]


def positive_definite(size: int) -> NDArray[np.float64]:
    matrix = np.random.default_rng(size).standard_normal((size, size + 5))
    return matrix @ matrix.T / size + np.eye(size)


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("more", [-1, 0, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_those_of_numpy(blocks: int, more: int, dtype: type) -> None:
    rows = max(blocks * FEW + more, 1)
    random = np.random.default_rng(rows)
    left, right = (random.standard_normal((rows, columns)).astype(dtype) for columns in (TILE + 3, 5))
    found = np.asarray(product(left, right))
    assert found.dtype == dtype
    assert_allclose(found, left.T.astype(np.float64) @ right, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(FEW, TILE), (ROWS, 6 * TILE)])
def test_a_block_of_a_product_is_one_chain_of_fused_multiplications_and_additions(rows: int, columns: int) -> None:
    left, right = np.random.default_rng(6).standard_normal((2, rows, columns)).astype(np.float32)
    total = np.zeros((columns, columns), np.float32)
    for row in range(rows):  # the product of two float32 is exact in float64
        total = (np.outer(left[row].astype(np.float64), right[row]) + total).astype(np.float32)
    assert_array_equal(np.asarray(product(left, right)), total)


def test_a_product_of_float64_is_one_chain_of_multiplications_and_additions() -> None:
    random = np.random.default_rng(7)
    left, right = random.standard_normal((500, 200)), random.standard_normal((500, 30))
    total = np.zeros((200, 30))
    for row in range(500):
        total += np.outer(left[row], right[row])
    assert_array_equal(product(left, right), total)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 300, 5), (TILE, 2, 2 * TILE + 1)])
def test_inner_products_and_their_gradients_are_those_of_numpy(sizes: tuple[int, int, int]) -> None:
    random, (rows, size, columns) = np.random.default_rng(5), sizes
    vectors, others, upstream = (
        random.standard_normal(shape).astype(np.float32) for shape in ((rows, size), (columns, size), (rows, columns))
    )

    @tf.function(jit_compile=True)
    def compiled(vectors: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        with tf.GradientTape() as tape:
            tape.watch((vectors, others))
            products = inner_products(vectors, others)
            total = tf.reduce_sum(products * upstream)
        return products, tape.gradient(total, (vectors, others))

    products, gradients = compiled(tf.constant(vectors), tf.constant(others))
    wide = vectors.astype(np.float64), others.astype(np.float64)
    assert_allclose(products, wide[0] @ wide[1].T, rtol=0, atol=1e-4)
    assert_allclose(gradients[0], upstream @ wide[1], rtol=0, atol=1e-4)
    assert_allclose(gradients[1], upstream.T @ wide[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, TILE + 1, PANEL, PANEL + 5])
def test_half_of_a_symmetric_product_is_the_whole(columns: int, dtype: type) -> None:
    matrix = np.random.default_rng(columns).standard_normal((300, columns)).astype(dtype)
    found, whole = gram(matrix), np.asarray(product(matrix, matrix))
    assert_array_equal(found, found.T)
    assert_array_equal(gram(np.ascontiguousarray(matrix.T), axis=1), found)
    assert_array_equal(found[:PANEL, :PANEL], whole[:PANEL, :PANEL])  # a narrow last panel has shorter contractions
    assert_allclose(found, whole, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_inverses_are_those_of_numpy(size: int) -> None:
    matrix = positive_definite(size)
    assert_allclose(np.asarray(inverse(matrix)), np.linalg.inv(matrix), rtol=0, atol=1e-12)
    narrow = np.asarray(inverse(matrix.astype(np.float32)))
    assert_allclose(narrow, np.linalg.inv(matrix), rtol=0, atol=1e-5)
    root = np.asarray(inverse_root(matrix))
    assert_array_equal(root, np.tril(root))
    assert_allclose(root, np.linalg.inv(np.linalg.cholesky(matrix)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_roots_are_rounded_as_numpy_rounds_them(dtype: type) -> None:
    for value in np.random.default_rng(4).random(40).astype(dtype):
        assert np.asarray(inverse_root(np.array([[value]], dtype)))[0, 0] == np.sqrt(1 / value)


BITS = """
import hashlib, numpy as np
from recommender.models.core.algebra import gram, inner_products, inverse, inverse_root, product
from recommender.models.core.backend import tf
random, digest = np.random.default_rng(3), hashlib.sha256()
for rows, left, right in [(700, 1000, 1000), (1300, 333, 90), (2500, 544, 544), (500, 2000, 70)]:
    one, other = (random.standard_normal((rows, columns)) for columns in (left, right))
    for dtype in (np.float32, np.float64):
        digest.update(np.asarray(product(one.astype(dtype), other.astype(dtype))).tobytes())
        digest.update(gram(one.astype(dtype)).tobytes())
for left in (48, 96, 240):  # small results, and those of which a thread has few columns
    for right in (48, 150, 290, 700, 1680, 3024):
        one, other = (random.standard_normal((300, columns)) for columns in (left, right))
        for dtype in (np.float32, np.float64):
            digest.update(np.asarray(product(one.astype(dtype), other.astype(dtype))).tobytes())
@tf.function(jit_compile=True)
def both_ways(vectors, others):
    with tf.GradientTape() as tape:
        tape.watch((vectors, others))
        products = inner_products(vectors, others)
        total = tf.reduce_sum(products * products)
    return products, *tape.gradient(total, (vectors, others))
for size, users, items in ((500, 128, 6040), (60, 128, 1700), (90, 50, 300)):
    for part in both_ways(*(tf.constant(random.standard_normal((rows, size)), tf.float32) for rows in (users, items))):
        digest.update(np.asarray(part).tobytes())
one = random.standard_normal((500, 2000))
square = one.T @ one / 500 + np.eye(2000)
square = np.round(square, 6)  # NumPy's own product is not the same everywhere
for dtype in (np.float32, np.float64):
    digest.update(np.asarray(inverse(square.astype(dtype))).tobytes())
    digest.update(np.asarray(inverse_root(square[:600, :600].astype(dtype))).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_bits_are_the_same_over_threads_and_instruction_sets() -> None:
    others = [{"XLA_FLAGS": "--xla_cpu_max_isa=AVX512"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}]
    threads = [{"TF_NUM_INTRAOP_THREADS": str(count), "OMP_NUM_THREADS": str(count)} for count in (1, 2, 3, 4, 8, 16)]
    found = {
        subprocess.run(
            [sys.executable, "-c", BITS], env={**os.environ, **case}, cwd=REPOSITORY, capture_output=True, check=True
        ).stdout
        for case in threads + others
    }
    assert len(found) == 1
