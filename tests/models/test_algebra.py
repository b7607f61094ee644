"""Linear algebra in XLA against NumPy's in float64, and its bits over threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.models.core.algebra import ROWS, SMALL, TILE, inverse, inverse_root, product
from tests.conftest import REPOSITORY

SIZES = [1, 5, TILE, TILE + 1, 3 * TILE - 1, SMALL + 1]


def positive_definite(size: int) -> NDArray[np.float64]:
    matrix = np.random.default_rng(size).standard_normal((size, size + 5))
    return matrix @ matrix.T / size + np.eye(size)


@pytest.mark.parametrize("rows", [1, ROWS - 1, ROWS, 2 * ROWS + 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_are_those_of_numpy(rows: int, dtype: type) -> None:
    random = np.random.default_rng(rows)
    left, right = (random.standard_normal((rows, columns)).astype(dtype) for columns in (TILE + 3, 5))
    found = np.asarray(product(left, right))
    assert found.dtype == dtype
    assert_allclose(found, left.T.astype(np.float64) @ right, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


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
from recommender.models.core.algebra import inverse, inverse_root, product
random, digest = np.random.default_rng(3), hashlib.sha256()
for rows, left, right in [(700, 1000, 1000), (1300, 333, 90), (2500, 544, 544), (500, 2000, 70)]:
    one, other = (random.standard_normal((rows, columns)) for columns in (left, right))
    for dtype in (np.float32, np.float64):
        digest.update(np.asarray(product(one.astype(dtype), other.astype(dtype))).tobytes())
gram = one.T @ one / 500 + np.eye(2000)
gram = np.round(gram, 6)  # NumPy's own product is not the same everywhere
for dtype in (np.float32, np.float64):
    digest.update(np.asarray(inverse(gram.astype(dtype))).tobytes())
    digest.update(np.asarray(inverse_root(gram[:600, :600].astype(dtype))).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_bits_are_the_same_over_threads_and_instruction_sets() -> None:
    others = [{"XLA_FLAGS": "--xla_cpu_max_isa=AVX512"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}]
    cases = [{"TF_NUM_INTRAOP_THREADS": str(count)} for count in (1, 2, 3, 8)] + others
    found = {
        subprocess.run(
            [sys.executable, "-c", BITS], env={**os.environ, **case}, cwd=REPOSITORY, capture_output=True, check=True
        ).stdout
        for case in cases
    }
    assert len(found) == 1
