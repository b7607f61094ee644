"""Movies alike by their vectors."""

import numpy as np
from numpy.testing import assert_allclose

from stages.lib.similar import cosines


def test_cosines_are_those_of_the_angles() -> None:
    vectors = np.array([[1, 0], [3, 0], [0, 2], [-1, 0], [1, 1], [0, 0]], dtype=np.float32)
    assert_allclose(cosines(vectors, 0), [1, 1, 0, -1, 0.5**0.5, 0], atol=1e-12)
    assert cosines(vectors, 5).tolist() == [0.0] * 6
