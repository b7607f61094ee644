"""Drawing by hashes: what is drawn depends on nothing else, so that it is the same in whatever parts it is read."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """A share of the users; with the same seed a larger one has all users of a smaller one."""

    share: float
    seed: int

    def has(self, users: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which of (n,) users are in the sample."""
        drawn = splitmix(splitmix(np.array([self.seed], np.uint64)) ^ users.astype(np.uint64))
        return np.asarray((drawn >> np.uint64(11)) < self.share * 2.0**53)


EVERYBODY: Final = Sample(1, 0)


def splitmix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the number that SplitMix64 draws from a state: Steele, Lea and Flood (OOPSLA 2014), figure 16."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)
