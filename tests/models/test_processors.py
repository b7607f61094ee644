"""Training and linear algebra on another processor: the same bytes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import pytest

from recommender.params import MODELS
from tests.conftest import REPOSITORY

EMULATOR: Final = "qemu-x86_64"
DIGESTS: Final = """
import dataclasses, hashlib, sys
import numpy as np
from recommender.models.core.algebra import inner_products, inverse, inverse_root, product
from recommender.models.core.backend import tf
from recommender.models.core.training import train
from tests.models.helpers import make_parts, parameters

def show(name, arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.asarray(array).tobytes())
    print(name, digest.hexdigest())

for model in sys.argv[1:]:
    trained = train(make_parts(), parameters(model))
    parts = [getattr(trained.factors, name) for name in ("user_factors", "item_factors", "user_bias", "item_bias")]
    show(model, parts + [column for _, column in sorted(trained.history.items())])

random = np.random.default_rng(3)
multiply = tf.function(inner_products, jit_compile=True, autograph=False)
for dtype in (np.float32, np.float64):
    # More than one block of each contraction, and columns that are no whole tile.
    left, right = (random.standard_normal((300, columns)).astype(dtype) for columns in (70, 130))
    show("products", [product(left, right), multiply(left.T, right.T), multiply(right.T, left.T)])
    wide = np.round(left.T.astype(np.float64) @ left, 3)  # as NumPy's own is not the same everywhere
    gram = (wide + 10 * np.eye(70)).astype(dtype)
    show("inverses", [inverse(gram), inverse_root(gram)])
"""


def digests(emulator: Sequence[str] = ()) -> str:
    command = [*emulator, sys.executable, "-c", DIGESTS, *MODELS]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_processor_without_avx512_computes_the_same_bytes() -> None:
    """All settings leave the processor as it is, and a library may ask it: the emulated one has AVX2 and no more."""
    if not shutil.which(EMULATOR):
        assert not os.environ.get("CI"), f"{EMULATOR} is not installed"
        pytest.skip(f"{EMULATOR} is not installed: apt-get install qemu-user")
    here = digests()
    assert len(here.splitlines()) == len(MODELS) + 4
    assert digests((EMULATOR, "-cpu", "max")) == here
