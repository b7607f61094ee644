"""A small kernel between users."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ITEMS = 12


def numbers(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.normal(0, 0.8, shape).astype(np.float32)


def make_kernel(seed: int, size: int, *, full: bool = True) -> dict[str, Any]:
    """Return the fields of a `UserKernel` with vectors of this size; without `full` profiles are of three items."""
    random = np.random.default_rng(seed)
    landmarks = np.arange(ITEMS, dtype=np.int32) if full else np.array([1, 4, 7], np.int32)
    return {
        "rating_base": 1.5,
        "profile_weight": 2.0,
        "gamma": 3.0,
        "user_scale": 0.2,
        "mean_count": 6.0,
        "item_scale": np.linspace(0.5, 1.5, ITEMS, dtype=np.float32),
        "landmarks": landmarks,
        "item_weights": (numbers(random, len(landmarks), ITEMS) / 3).astype(np.float16),
        "anchors": (numbers(random, 4, ITEMS) / 3).astype(np.float16),
        "anchor_scale": np.array([0.5, 1, 1.5, 2], np.float32),
        "mapping": numbers(random, 4, size),
    }
