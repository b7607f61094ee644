"""Rating and ranking metrics over arrays, as the field defines them."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RANKING: Final = ("precision", "recall", "map", "ndcg", "mrr", "hit_rate", "coverage")
ERRORS: Final = ("rmse", "mae")  # lower is better, and only models that predict ratings have them
COLUMNS: Final = (*RANKING, *ERRORS)
LOWER_IS_BETTER: Final = ERRORS
CURVES: Final = ("precision", "recall", "map", "ndcg")  # written for every list length


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
class RankingMetrics:
    """Ranking quality at every list length from 1 to K, each the mean over users."""

    precision: NDArray[np.float64]  # (K,) hits in the first k / k
    recall: NDArray[np.float64]  # (K,) hits in the first k / relevant items
    map: NDArray[np.float64]  # (K,) mean average precision; a user's average divides by min(relevant items, k)
    ndcg: NDArray[np.float64]  # (K,) hits discounted by 1 / log2(rank + 1) / the same for the best possible list
    mrr: float  # mean of 1 / rank of the first hit in the K items, 0 where there is none
    hit_rate: float  # share of users with a hit in the K items
    coverage: float  # share of the catalogue in at least one list of K items
    average_precision: NDArray[np.float64]  # (users,) at K
    user_recall: NDArray[np.float64]  # (users,) at K


def ranking_metrics(
    lists: NDArray[np.int32], hits: NDArray[np.bool_], relevant: NDArray[np.int64], items: int
) -> RankingMetrics:
    """Measure ranked lists. Definitions: Manning et al., Introduction to Information Retrieval (2008), chapter 8.

    Args:
        lists: (users, K) item indices in rank order; -1 where a user has fewer candidates than K.
        hits: (users, K) whether that item is relevant.
        relevant: (users,) how many items are relevant to each user, at least 1.
        items: the size of the catalogue.
    """
    rank = np.arange(1, lists.shape[1] + 1)
    found = np.cumsum(hits, axis=1)
    most = np.minimum(relevant[:, None], rank)
    average_precision = np.cumsum(hits * (found / rank), axis=1) / most
    recall = found / relevant[:, None]
    discount = 1 / np.log2(rank + 1)
    ndcg = np.cumsum(hits * discount, axis=1) / np.cumsum(discount)[most - 1]
    any_hit = hits.any(axis=1)
    return RankingMetrics(
        precision=(found / rank).mean(axis=0),
        recall=recall.mean(axis=0),
        map=average_precision.mean(axis=0),
        ndcg=ndcg.mean(axis=0),
        mrr=float(np.where(any_hit, 1 / (np.argmax(hits, axis=1) + 1), 0.0).mean()),
        hit_rate=float(any_hit.mean()),
        coverage=np.count_nonzero(np.unique(lists) >= 0) / items,
        average_precision=average_precision[:, -1],
        user_recall=recall[:, -1],
    )


def summary(metrics: RankingMetrics, errors: dict[str, float]) -> dict[str, Any]:
    """Return the metrics at K as they are written to JSON; `errors` are empty for a model that predicts no ratings."""
    ranking = {name: float(np.ravel(getattr(metrics, name))[-1]) for name in RANKING}
    return {"users": len(metrics.average_precision), **ranking, **errors}


def at_k(ranking: RankingMetrics) -> dict[str, NDArray[Any]]:
    """Return the metrics of `CURVES` as columns with one row for every k."""
    return {"k": np.arange(1, len(ranking.precision) + 1), **{name: getattr(ranking, name) for name in CURVES}}


def rating_errors(predicted: NDArray[np.float64], ratings: NDArray[np.float32]) -> dict[str, float]:
    """Return ``rmse`` and ``mae`` of (n,) predicted ratings."""
    error = predicted - ratings.astype(np.float64)
    return {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}
