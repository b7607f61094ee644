"""Rating and ranking metrics over arrays, as the field defines them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

ACCURACY: Final = ("precision", "recall", "map", "ndcg", "mrr", "hit_rate")
RANKING: Final = (*ACCURACY, "coverage")
ERRORS: Final = ("rmse", "mae")  # lower is better, and only models that predict ratings have them
COLUMNS: Final = (*RANKING, *ERRORS)
LOWER_IS_BETTER: Final = (*ERRORS, "miscalibration")
CURVES: Final = ("precision", "recall", "map", "ndcg")  # drawn at every list length

# (2, n + 1) sums of each metric at n list lengths, and of how many they are: of all users, and of those that a model
# knows. Those of parts of the users are added up. Rating errors have one sum, that of squares for rmse.
Totals = dict[str, NDArray[np.float64]]


def relevant_rows(users: NDArray[np.int32], ratings: NDArray[np.float32], quantile: float) -> NDArray[np.bool_]:
    """Mark each user's relevant rows: those rated at or above that quantile of the user's own ratings.

    The quantile is interpolated linearly, as `numpy.quantile` does by default. Every user has a relevant row.
    """
    order = np.lexsort((ratings, users))
    by_user, ordered = users[order], ratings[order].astype(np.float64)
    first = np.flatnonzero(np.diff(by_user, prepend=-1))
    count = np.diff(first, append=len(by_user))
    position = quantile * (count - 1)
    below = np.floor(position).astype(np.int64)
    weight = position - below
    low = ordered[first + below]
    high = ordered[first + np.minimum(below + 1, count - 1)]
    # Above the middle NumPy subtracts from `high` instead; between the same two ratings, so that the same are relevant.
    threshold = low + (high - low) * weight
    relevant = np.empty(len(users), dtype=bool)
    relevant[order] = ordered >= np.repeat(threshold, count)
    return relevant


@dataclass(frozen=True)
class Measured:
    """What lists are worth by each metric: for every user, and at every list length from 1 to K."""

    users: dict[str, NDArray[np.float64]]  # (users,) at K, NaN where a metric says nothing of a user
    totals: Totals
    lists: NDArray[np.int32]  # (users, K)
    num_items: int

    @classmethod
    def of(cls, blocks: Iterable["Block"], lists: NDArray[np.int32], num_items: int) -> Self:
        """Put blocks of users together, in their order; `lists` are those of all."""
        blocks, users, totals = list(blocks), {}, {}
        for name in blocks[0]:
            users[name] = np.concatenate([block[name][0] for block in blocks])
            totals[name] = np.add.reduce([block[name][1] for block in blocks])
        return cls(users, totals, lists, num_items)

    @cached_property
    def curves(self) -> dict[str, NDArray[np.float64]]:
        """The means over users, or what all lists have in common: (K,) each."""
        return means(self.totals) | exposure(places(self.lists, self.num_items))

    def at(self, name: str) -> float:
        """Return a metric at K, over all users."""
        return float(self.curves[name][-1])


Block = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def reduced(values: Iterable[tuple[str, NDArray[np.float64]]], known: NDArray[np.bool_] | None = None) -> Block:
    """Return for each metric a block's (users,) values at K and its `Totals`, of (users, K) values one at a time.

    `known` are (users,) whom the model knows; all where not given.
    """

    def total(table: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(np.nansum(table, axis=0), np.count_nonzero(~np.isnan(table[:, -1])))

    block = {}
    for name, table in values:
        every = total(table)
        block[name] = table[:, -1].copy(), np.stack([every, every if known is None else total(table[known])])
    return block


def means(totals: Totals, row: int = 0) -> dict[str, NDArray[np.float64]]:
    """Return the means of all users, or in row 1 of those known, where a metric says something of any: (K,) each."""
    return {name: total[row, :-1] / total[row, -1] for name, total in totals.items() if total[row, -1]}


def accuracy(hits: NDArray[np.bool_], relevant: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the (users, K) values of each of `ACCURACY` at every list length.

    Definitions: Manning et al., Introduction to Information Retrieval (2008), chapter 8.

    Args:
        hits: (users, K) whether the item at that rank of a user's list is relevant.
        relevant: (users,) how many items are relevant to each user, at least 1.
    """
    rank = np.arange(1, hits.shape[1] + 1)
    found = np.cumsum(hits, axis=1)
    most = np.minimum(relevant[:, None], rank)
    yield "precision", found / rank
    yield "recall", found / relevant[:, None]
    yield "map", np.cumsum(hits * (found / rank), axis=1) / most
    discount = 1 / np.array([math.log2(place + 1) for place in rank])  # NumPy's log2 has other last bits with AVX-512
    yield "ndcg", np.cumsum(hits * discount, axis=1) / np.cumsum(discount)[most - 1]
    yield "mrr", np.maximum.accumulate(hits / rank, axis=1)
    yield "hit_rate", (found > 0).astype(np.float64)


def places(lists: NDArray[np.int32], num_items: int) -> Iterator[NDArray[np.int64]]:
    """Yield for each rank of (users, K) lists in how many of them each item has it: (num_items,); -1 is none."""
    for items in lists.T:
        yield np.bincount(items[items >= 0], minlength=num_items)


def exposure(placed: Iterable[NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """Return how lists share out the catalogue, at every list length, from their `places`: (K,) each.

    ``coverage`` is the share of the items that are in at least one list. ``gini`` is the Gini index of how many lists
    each item of the catalogue is in, 0 where all are in as many, close to 1 where one item has every place (RecBole's
    GiniIndex; Fleder and Hosanagar, Blockbuster culture's next rise or fall, Management Science 2009).
    """
    coverage, gini = [], []
    for counts in accumulate(placed):
        num_items = len(counts)
        coverage.append(np.count_nonzero(counts) / num_items)
        spread = np.arange(1 - num_items, num_items, 2)
        gini.append((spread * np.sort(counts)).sum() / max(num_items * counts.sum(), 1))
    return {"coverage": np.array(coverage), "gini": np.array(gini)}


def summary(measured: Measured, errors: Mapping[str, float]) -> dict[str, Any]:
    """Return the metrics at K as they are written to JSON; `errors` are empty for a model that predicts no ratings."""
    return {"users": len(measured.users["map"]), **{name: measured.at(name) for name in measured.curves}, **errors}


def error_totals(predicted: NDArray[np.float64], ratings: NDArray[np.float32], known: NDArray[np.bool_]) -> Totals:
    """Return the `Totals` of squared and absolute errors of (n,) predicted ratings; `known` are of known users."""
    error = predicted - ratings.astype(np.float64)
    return {
        name: np.array([[values.sum(), len(values)], [values[known].sum(), np.count_nonzero(known)]])
        for name, values in (("rmse", error**2), ("mae", np.abs(error)))
    }


def rating_errors(predicted: NDArray[np.float64], ratings: NDArray[np.float32]) -> dict[str, float]:
    """Return ``rmse`` and ``mae`` of (n,) predicted ratings."""
    error = predicted - ratings.astype(np.float64)
    return {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}


def user_errors(
    row: NDArray[np.integer], predicted: NDArray[np.float64], ratings: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Return each user's ``rmse`` and ``mae``, (users,), of (n,) predicted ratings; `row` numbers the users from 0."""
    error = predicted - ratings.astype(np.float64)
    counts = np.bincount(row)
    return {
        "rmse": np.sqrt(np.bincount(row, weights=error**2) / counts),
        "mae": np.bincount(row, weights=np.abs(error)) / counts,
    }
