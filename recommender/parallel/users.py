"""Users in parts: what tasks read of theirs, and what they need to know of all others, which is counted first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recommender.data.blocks import block_sizes, read_part
from recommender.data.interactions import Interactions
from recommender.data.sampling import Sample
from recommender.parallel.engine import Arrays, Engine, put
from recommender.paths import TEST
from recommender.ranking.baselines import ItemSums
from recommender.ranking.factors import Factors
from recommender.ranking.learned import Learned
from recommender.storage import read_arrays

COUNTS: Final = "counts.npz"  # in the plan's folder: of known and of learned ratings, and the users known


@dataclass(frozen=True)
class UserPlan:
    """What every task over the users agrees on."""

    folder: str  # of what tasks leave for others
    shape: tuple[int, int]  # users and items
    parts: int
    known: tuple[Path, ...]  # ratings of items that are not listed
    learned: tuple[Path, ...]  # ratings that the model has learned from
    sample: Sample  # of the users who get lists
    k: int

    def users(self, part: int) -> NDArray[np.int32]:
        """The indices of a part's users."""
        return np.arange(part, self.shape[0], self.parts, dtype=np.int32)

    def read(self, paths: Sequence[Path], part: int) -> Interactions:
        """Read the ratings of a part's users, who are numbered within it."""
        return read_part(paths, self.parts, part, self.shape)

    def read_sampled(self, paths: Sequence[Path], part: int) -> Interactions:
        """Read the ratings of those of a part's users who are in the sample; all are numbered."""
        ratings = self.read(paths, part)
        return ratings.of(self.sample.has(self.users(part))[ratings.users])

    def factors(self, path: Path, part: int) -> Factors:
        """Read the factors of a part's users."""
        return Factors.load(path, slice(part, None, self.parts), self.shape)

    @property
    def counts(self) -> Arrays:
        """What was counted of all users."""
        return read_arrays(Path(self.folder) / COUNTS)

    def item_sums(self) -> ItemSums:
        """What was learned from of each item."""
        counts = self.counts
        return ItemSums(counts["counts"], counts["sums"], float(counts["total"]))

    def has_learned(self, part: int) -> Learned:
        """Return whom of a part's users in the sample a model knows, and the items that can be listed."""
        learned = self.read_sampled(self.learned, part)
        return replace(Learned.of(learned, learned), item_counts=self.counts["counts"])


def count_users(run: Engine, plan: UserPlan) -> None:
    """Count the ratings of all users, and leave the sums where `UserPlan.counts` finds them."""
    for path in dict.fromkeys((*plan.known, *plan.learned, TEST)):
        block_sizes(path, plan.parts)
    run.map("count", count_part, [(plan, part) for part in range(plan.parts)])
    total: Arrays = {}
    for part in range(plan.parts):
        found = read_arrays(_counted(plan, part))
        total = {name: total[name] + value if total else value for name, value in found.items()}
    put(Path(plan.folder) / COUNTS, total)


def count_part(plan: UserPlan, part: int) -> Arrays:
    """Write what a part's users have rated, by item."""
    known, learned = plan.read(plan.known, part), ItemSums.of(plan.read(plan.learned, part))
    found = {
        "known": known.item_counts(),
        "users": np.array(len(np.unique(known.users))),
        "counts": learned.counts,
        "sums": learned.sums,
        "total": np.array(learned.total),
    }
    put(_counted(plan, part), found)
    return {}


def _counted(plan: UserPlan, part: int) -> Path:
    return Path(plan.folder) / f"counts-{part}.npz"
