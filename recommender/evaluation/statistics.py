"""How sure metrics are: intervals over users, and the differences of models that are measured on the same users.

Sums are exact, because their terms are rounded to a grid first (`_on_grid`): they come out the same whatever the order
in which a machine's matrix product adds.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.evaluation.metrics import ERRORS, LOWER_IS_BETTER

RESAMPLES: Final = 10_000
BOOTSTRAP_SEED: Final = 0
PERMUTATION_SEED: Final = 1
LEVEL: Final = 0.05  # intervals leave out as much; a corrected p below it is a difference
BLOCK_VALUES: Final = 2**22  # weights, resamples x users, in memory at a time, but for
BLOCK_RESAMPLES: Final = 100  # so many resamples, each of which reads the whole table

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A metric of a model, and the interval in which 95 % of resamples of the users lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """A metric of one model minus that of another, on the same users."""

    gain: float  # share of the users for whom the first is better
    lose: float  # and worse
    p: float  # of so large a difference if it were chance which of the two has served a user
    holm: float  # the same, corrected for all pairs of models


@dataclass(frozen=True)
class Statistics:
    """Estimates by model and metric, differences by pair of models and metric."""

    estimates: dict[str, dict[str, Estimate]]
    differences: dict[tuple[str, str], dict[str, Difference]]

    def best(self, metric: str) -> list[str]:
        """Return the models of which none is known to be worse than the best; the best is first."""
        having = {model: row[metric].value for model, row in self.estimates.items() if metric in row}
        ordered = sorted(having, key=having.__getitem__, reverse=metric not in LOWER_IS_BETTER)
        pairs = {frozenset(pair): row[metric] for pair, row in self.differences.items() if metric in row}
        return ordered[:1] + [other for other in ordered[1:] if pairs[frozenset((ordered[0], other))].holm >= LEVEL]


def statistics(
    users: Mapping[str, Mapping[str, Values]],
    metrics: Sequence[str],
    test_ratings: NDArray[np.integer],
    *,
    pairs: bool = True,
) -> Statistics:
    """Derive what is known of the models' metrics, from values of the same users.

    Intervals are those of the paired percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, section 13.3), which draws the same users for all models: those that `scipy.stats.bootstrap` draws.
    Differences are tested by exchanging the two models for a random half of the users, two-sided
    (`scipy.stats.permutation_test` with ``permutation_type="samples"``; Smucker, Allan and Carterette, CIKM 2007), and
    corrected for all pairs of models (Holm, Scandinavian Journal of Statistics 1979), each metric by itself.

    Args:
        users: (users,) values of each model and metric, NaN where a metric says nothing of a user: of the same users
            for all models.
        metrics: which; models without one, or with NaN alone, have no estimate of it.
        test_ratings: (users,) how many each has; rating errors are those of all ratings together.
        pairs: whether to compare the models.
    """
    estimates: dict[str, dict[str, Estimate]] = {model: {} for model in users}
    differences: dict[tuple[str, str], dict[str, Difference]] = {}
    having = {
        metric: [model for model, row in users.items() if metric in row and not np.isnan(row[metric]).all()]
        for metric in metrics
    }
    table = np.concatenate([_columns(users, *each, test_ratings) for each in having.items()], axis=1)
    drawn, total = resampled_sums(table), table.sum(axis=0)
    exchanged = flipped_sums(table) if pairs else drawn
    last = -1
    for metric, models in having.items():
        first, last = last + 1, last + 1 + len(models)  # the models' columns, and the one to divide by
        own, root = slice(first, last), np.sqrt if metric == "rmse" else np.asarray
        with np.errstate(invalid="ignore"):  # NaN for a resample without any user that has a value
            resampled = root(drawn[:, own] / drawn[:, [last]])
        value = root(total[own] / total[last]).tolist()
        for number, model in enumerate(models):
            estimates[model][metric] = Estimate(value[number], *interval(resampled[:, number]))
        compared = list(combinations(range(len(models)), 2)) if pairs else []
        p = []
        for a, b in compared:
            moved = exchanged[:, first + b] - exchanged[:, first + a]
            chance = root((total[first + a] + moved) / total[last]) - root((total[first + b] - moved) / total[last])
            p.append(p_value(chance, value[a] - value[b]))
        corrected = holm(np.array(p)).tolist()
        for number, (a, b) in enumerate(compared):
            gains = users[models[a]][metric] - users[models[b]][metric]
            gains = np.sign(-gains if metric in LOWER_IS_BETTER else gains)[~np.isnan(gains)]
            differences.setdefault((models[a], models[b]), {})[metric] = Difference(
                value[a] - value[b],
                *interval(resampled[:, a] - resampled[:, b]),
                gain=float(np.mean(gains > 0)),
                lose=float(np.mean(gains < 0)),
                p=p[number],
                holm=corrected[number],
            )
    return Statistics(estimates, differences)


def _columns(
    users: Mapping[str, Mapping[str, Values]], metric: str, models: Sequence[str], test_ratings: NDArray[np.integer]
) -> Values:
    """Return a metric's (users, models + 1) terms of sums: of each model, and of what those are to be divided by."""
    values = np.array([users[model][metric] for model in models]).reshape(len(models), len(test_ratings))
    weights = test_ratings.astype(np.float64) if metric in ERRORS else np.ones(len(test_ratings))
    weights = np.where(np.isnan(values).any(axis=0), 0, weights)
    terms = np.nan_to_num(values) ** (2 if metric == "rmse" else 1) * weights
    return np.stack([*_on_grid(terms), weights], axis=1)


def as_text(estimate: Estimate, decimals: int = 4) -> str:
    """Return the ends of the interval, without a leading zero, which would take room in a table."""
    return "\N{EN DASH}".join(
        re.sub(r"^(-?)0(?=\.)", r"\1", f"{end:.{decimals}f}") for end in (estimate.low, estimate.high)
    )


def interval(resampled: Values) -> tuple[float, float]:
    """Return the percentile interval of (resamples,) values."""
    low, high = np.nanquantile(resampled, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def p_value(chance: Values, found: float) -> float:
    """Return the two-sided p-value of what was found among (resamples,) values by chance, never 0, as SciPy does."""
    below, above = np.count_nonzero(chance <= found), np.count_nonzero(chance >= found)
    return min(1.0, 2 * (min(below, above) + 1) / (len(chance) + 1))


def holm(p: Values) -> Values:
    """Return (tests,) p-values, corrected so that the chance of any false difference is kept."""
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def resampled_sums(table: Values) -> Values:
    """Return the column sums of as many rows of a (users, columns) table, drawn with replacement, for each resample."""
    count, random = len(table), np.random.default_rng(BOOTSTRAP_SEED)

    def weigh(drawn: NDArray[np.int64]) -> Values:
        return np.array([np.bincount(users, minlength=count) for users in drawn], np.float64)

    return _sums(table, lambda size: random.integers(0, count, (size, count)), weigh)


def flipped_sums(table: Values) -> Values:
    """Return the column sums of a random half of the rows of a (users, columns) table, for each resample."""
    count, random = len(table), np.random.default_rng(PERMUTATION_SEED)
    width = 8 * -(-count // 64)  # whole words, so that the size of blocks changes nothing

    def weigh(drawn: bytes) -> Values:
        bits = np.frombuffer(drawn, np.uint8).reshape(-1, width)
        return np.unpackbits(bits, axis=1, count=count).astype(np.float64)

    return _sums(table, lambda size: random.bytes(size * width), weigh)


def _sums(table: Values, draw: Callable[[int], Any], weigh: Callable[[Any], Values]) -> Values:
    """Sum weighted rows in blocks of resamples: one thread draws in a fixed order while another adds."""
    size = max(BLOCK_RESAMPLES, BLOCK_VALUES // len(table))

    def add(drawn: Any) -> Values:  # noqa: ANN401 - whatever it draws
        return weigh(drawn) @ table

    sums: list[Future[Values]] = []
    with ThreadPoolExecutor(1) as thread:
        for start in range(0, RESAMPLES, size):
            if len(sums) > 1:
                sums[-2].result()  # so that no more than two blocks are in memory
            sums.append(thread.submit(add, draw(min(size, RESAMPLES - start))))
    return np.concatenate([each.result() for each in sums])


def _on_grid(terms: Values) -> Values:
    """Round (models, users) terms to multiples of a power of two that is as fine as leaves sums over users exact.

    Such sums, and those of as many terms drawn with replacement, are less than 2**52 times that power.
    """
    _, exponent = np.frexp(np.abs(terms).max(initial=0) * terms.shape[1])
    step = np.ldexp(1.0, exponent - 52)
    return np.asarray(np.round(terms / step) * step)
