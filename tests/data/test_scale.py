"""The scale of ratings: stars for MovieLens, and moved to stars for what counts them elsewhere."""

import numpy as np
import pyarrow as pa
import pytest

from recommender.data.interactions import STARS, Interactions, stars, with_scale
from recommender.models.softmax_mf import rating_weights
from recommender.paths import TEST, TRAIN
from recommender.ranking.baselines import liked
from recommender.storage import read_table, write_table
from tests.samples import write_split

PAIRS = np.arange(4, dtype=np.int32), np.arange(4, dtype=np.int32)


@pytest.mark.parametrize(
    ("scale", "ratings", "expected"),
    [
        (STARS, [0.5, 1, 3.5, 5], [0.5, 1, 3.5, 5]),
        ((1.0, 10.0), [1, 4, 7, 10], [1, 1 + 12 / 9, 1 + 24 / 9, 5]),
        ((-1.0, 1.0), [-1, 0, 0.5, 1], [1, 3, 4, 5]),
        ((7.0, 7.0), [7, 7, 7, 7], [4, 4, 4, 4]),
    ],
)
def test_ratings_are_moved_to_one_to_five_stars(
    scale: tuple[float, float], ratings: list[float], expected: list[float]
) -> None:
    given = Interactions(*PAIRS, np.array(ratings, np.float32), (4, 4), scale)
    np.testing.assert_allclose(stars(given.ratings, scale), expected, rtol=1e-6)
    np.testing.assert_allclose(rating_weights(given, 2.0).data, 2.0 ** (np.array(expected) - 4), rtol=1e-6)
    assert liked(given, 4).nnz == sum(value >= 4 for value in expected)
    assert given.as_stars().scale == STARS
    assert given.implicit == (scale[0] == scale[1])


@pytest.mark.usefixtures("workspace")
def test_the_scale_is_read_from_the_part_and_kept_when_parts_are_joined() -> None:
    write_split({TRAIN: [(0, 1, 2.0)], TEST: [(1, 0, 5.0)]}, (2, 2))
    assert Interactions.read(TRAIN).scale == STARS
    write_table(TRAIN, with_scale(read_table(TRAIN), (0.0, 10.0)))
    again = Interactions.read(TRAIN, TEST)
    assert again.scale == again.joined(again).scale == (0.0, 10.0)
    assert read_table(TRAIN).schema.types == [pa.int32(), pa.int32(), pa.float32()]
