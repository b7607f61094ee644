"""Rating and ranking metrics over arrays, as the field defines them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

ACCURACY: Final = ("precision", "recall", "map", "ndcg", "mrr", "hit_rate")
RANKING: Final = (*ACCURACY, "coverage")
ERRORS: Final = ("rmse", "mae")  # lower is better, and only models that predict ratings have them
COLUMNS: Final = (*RANKING, *ERRORS)
LOWER_IS_BETTER: Final = (*ERRORS, "miscalibration")
CURVES: Final = ("precision", "recall", "map", "ndcg")  # drawn at every list length


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
    curves: dict[str, NDArray[np.float64]]  # (K,) means over users, or what all lists have in common

    @classmethod
    def of(cls, blocks: Iterable["Block"], others: dict[str, NDArray[np.float64]]) -> Self:
        """Put blocks of users together, in their order; `others` are curves that are no means."""
        blocks, users, curves = list(blocks), {}, {}
        for name in blocks[0]:
            users[name] = np.concatenate([block[name][0] for block in blocks])
            if counted := np.count_nonzero(~np.isnan(users[name])):
                curves[name] = np.add.reduce([block[name][1] for block in blocks]) / counted
        return cls(users, curves | others)

    def at(self, name: str) -> float:
        """Return a metric at K, over all users."""
        return float(self.curves[name][-1])


Block = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def reduced(values: Iterable[tuple[str, NDArray[np.float64]]]) -> Block:
    """Return for each metric a block's (users,) values at K and the (K,) sums, of (users, K) values one at a time."""
    return {name: (table[:, -1].copy(), np.nansum(table, axis=0)) for name, table in values}


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


def exposure(lists: NDArray[np.int32], num_items: int) -> dict[str, NDArray[np.float64]]:
    """Return how the lists share out the catalogue, at every list length: (K,) each.

    ``coverage`` is the share of the items that are in at least one list. ``gini`` is the Gini index of how many lists
    each item of the catalogue is in, 0 where all are in as many, close to 1 where one item has every place (RecBole's
    GiniIndex; Fleder and Hosanagar, Blockbuster culture's next rise or fall, Management Science 2009).
    """
    counts, spread = np.zeros(num_items, dtype=np.int64), np.arange(1 - num_items, num_items, 2)
    coverage, gini = np.zeros((2, lists.shape[1]))
    for place, items in enumerate(lists.T):
        counts += np.bincount(items[items >= 0], minlength=num_items)
        coverage[place] = np.count_nonzero(counts) / num_items
        gini[place] = (spread * np.sort(counts)).sum() / max(num_items * counts.sum(), 1)
    return {"coverage": coverage, "gini": gini}


def summary(measured: Measured, errors: Mapping[str, float]) -> dict[str, Any]:
    """Return the metrics at K as they are written to JSON; `errors` are empty for a model that predicts no ratings."""
    return {"users": len(measured.users["map"]), **{name: measured.at(name) for name in measured.curves}, **errors}


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
