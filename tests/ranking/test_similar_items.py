"""Similar items: by cosine, among items with enough ratings."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recommender.ranking.factors import SIMILAR_MIN_RATINGS, Factors, similar_items

ENOUGH = SIMILAR_MIN_RATINGS


def make_factors(vectors: NDArray[np.float32]) -> Factors:
    size = vectors.shape[1]
    nothing, order = np.zeros(len(vectors), dtype=np.float32), np.arange(len(vectors), dtype=np.int32)
    return Factors(np.zeros((1, size), dtype=np.float32), vectors, nothing[:1], nothing, order)


def test_items_come_by_cosine_without_the_item_itself_and_rarely_rated_ones() -> None:
    vectors = np.array([[1, 0], [3, 4], [0, 2], [-5, 0], [4, 3], [0, 0], [7, 0], [8, 6]], dtype=np.float32)
    counts = np.array([ENOUGH, ENOUGH, 900, ENOUGH, ENOUGH, ENOUGH, ENOUGH - 1, ENOUGH])
    items, cosines = similar_items(make_factors(vectors), counts, 0, 10)
    assert items.tolist() == [4, 7, 1, 2, 5, 3]  # equal cosines in the order of their indices
    assert cosines.tolist() == pytest.approx([0.8, 0.8, 0.6, 0, 0, -1])
    assert similar_items(make_factors(vectors), counts, 0, 2)[0].tolist() == [4, 7]
    assert similar_items(make_factors(vectors), counts, 6, 1)[0].tolist() == [0]  # of an item with few ratings
    assert similar_items(make_factors(vectors), counts * 0, 0, 5)[0].tolist() == []


def test_cosines_that_differ_in_the_tenth_decimal_are_equal_and_many_equal_ones_keep_their_order() -> None:
    vectors = np.tile(np.array([[1, 0], [1, 1], [1, 1.5e-5]], dtype=np.float32), (20, 1))
    items, cosines = similar_items(make_factors(vectors), np.full(60, ENOUGH), 0, 60)
    assert items.tolist() == [item for item in range(1, 60) if item % 3 != 1] + list(range(1, 60, 3))
    assert set(cosines.tolist()) == {1, round(0.5**0.5, 9)}


def test_similar_items_share_a_planted_category_far_more_often_than_by_chance() -> None:
    random = np.random.default_rng(7)
    categories = random.integers(0, 8, 400)
    tastes = random.integers(0, 8, 1200)
    popularity = random.permutation(np.geomspace(0.002, 0.2, 400))
    chance_to_rate = popularity * np.where(tastes[:, None] == categories, 3, 0.5)
    rated = random.random((1200, 400)) < chance_to_rate
    _, sizes, directions = np.linalg.svd(rated - rated.mean(axis=0), full_matrices=False)
    factors = make_factors((directions[:32].T * sizes[:32]).astype(np.float32))
    counts = rated.sum(axis=0)
    assert 100 < np.count_nonzero(counts >= ENOUGH) < 300
    shared = []
    for item in np.flatnonzero(counts >= ENOUGH):
        found, _ = similar_items(factors, counts, item, 10)
        assert counts[found].min() >= ENOUGH
        shared.append(np.mean(categories[found] == categories[item]))
    by_chance = np.mean([np.mean(categories == category) for category in categories])
    assert np.mean(shared) > 4 * by_chance
