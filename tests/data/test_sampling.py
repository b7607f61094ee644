"""A share of the users is that share, the same in whatever parts, and part of any larger one."""

import numpy as np
import pytest

from recommender.data.sampling import EVERYBODY, Sample

USERS = np.arange(100_000, dtype=np.int32)
MASK = 2**64 - 1


def splitmix(state: int) -> int:
    """SplitMix64 as it is published."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_user_is_drawn_by_a_hash_of_the_index(seed: int) -> None:
    expected = [splitmix(splitmix(seed) ^ user) / 2**64 < 0.3 for user in range(1000)]
    assert Sample(0.3, seed).has(USERS[:1000]).tolist() == expected


def test_a_share_is_about_that_share_and_whole_parts_of_it_are_the_same() -> None:
    small, large = (Sample(share, 7).has(USERS) for share in (0.1, 0.4))
    assert small.mean() == pytest.approx(0.1, abs=0.004)
    assert large.mean() == pytest.approx(0.4, abs=0.006)
    assert not (small & ~large).any()
    assert (Sample(0.1, 7).has(USERS[3::8]) == small[3::8]).all()
    assert (Sample(0.1, 8).has(USERS) != small).mean() == pytest.approx(0.18, abs=0.01)


def test_one_is_everybody() -> None:
    assert EVERYBODY.has(USERS).all()
    assert Sample(1, 2**32 - 1).has(USERS).all()
