"""The metrics once more, user by user and in plain Python: slow, and written from their definitions alone."""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pandas as pd

from recommender.ranking.factors import Factors

BATCH = 32  # pairs over which batch_sum adds

Score = Callable[[int, list[int]], dict[int, float]]  # a user and candidates to their scores


def predict(model: Factors, pairs: list[tuple[int, int]]) -> list[float]:
    """Predict pairs of a user and an item in their order."""
    dots = []
    for user, item in pairs:
        total = 0.0
        for left, right in zip(model.user_factors[user].tolist(), model.item_factors[item].tolist(), strict=True):
            total += left * right
        dots.append(total)
    if model.interaction == "batch_sum":
        dots = [sum(dots[i - i % BATCH : i - i % BATCH + BATCH]) for i in range(len(dots))]
    return [
        dot + float(model.user_bias[user]) + float(model.item_bias[item])
        for dot, (user, item) in zip(dots, pairs, strict=True)
    ]


def score(model: Factors) -> Score:
    """Return the model's scores of a user's candidates; batch_sum takes them in ascending order of their ids."""

    def of(user: int, candidates: list[int]) -> dict[int, float]:
        ordered = sorted(candidates, key=lambda item: model.item_order[item])
        return dict(zip(ordered, predict(model, [(user, item) for item in ordered]), strict=True))

    return of


def relevant_items(test: pd.DataFrame, quantile: float) -> dict[int, set[int]]:
    """Return each user's relevant items, by user with test rows."""
    relevant = {}
    for user, rows in test.groupby("user"):
        threshold = np.quantile(rows["rating"].to_numpy(dtype=np.float64), quantile)
        relevant[int(user)] = set(rows.loc[rows["rating"] >= threshold, "item"].tolist())
    return relevant


def lists(train: pd.DataFrame, users: list[int], num_items: int, k: int, score: Score) -> dict[int, list[int]]:
    """Rank each user's candidates by descending score, then ascending index."""
    result = {}
    for user in users:
        seen = set(train.loc[train["user"] == user, "item"].tolist())
        scores = score(user, [item for item in range(num_items) if item not in seen])
        result[user] = sorted(scores, key=lambda item, scores=scores: (-scores[item], item))[:k]
    return result


def measure(ranked: dict[int, list[int]], relevant: dict[int, set[int]], num_items: int, k: int) -> dict[str, float]:
    """Measure lists cut off at k."""
    totals: dict[str, list[float]] = defaultdict(list)
    for user, whole in ranked.items():
        wanted = relevant[user]
        hit_ranks = [rank for rank, item in enumerate(whole[:k], start=1) if item in wanted]
        most = min(len(wanted), k)
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, most + 1))
        totals["precision"].append(len(hit_ranks) / k)
        totals["recall"].append(len(hit_ranks) / len(wanted))
        totals["map"].append(sum(nth / rank for nth, rank in enumerate(hit_ranks, start=1)) / most)
        totals["ndcg"].append(sum(1 / math.log2(rank + 1) for rank in hit_ranks) / ideal)
        totals["mrr"].append(1 / hit_ranks[0] if hit_ranks else 0.0)
        totals["hit_rate"].append(1.0 if hit_ranks else 0.0)
    result = {name: sum(values) / len(ranked) for name, values in totals.items()}
    result["coverage"] = len({item for row in ranked.values() for item in row[:k]}) / num_items
    return result


def evaluate(
    train: pd.DataFrame, test: pd.DataFrame, model: Factors, quantile: float, k: int
) -> list[dict[str, float]]:
    """Measure a model at every k from 1 to `k`; RMSE and MAE are in the last one."""
    relevant = relevant_items(test, quantile)
    num_items = len(model.item_factors)
    ranked = lists(train, sorted(relevant), num_items, k, score(model))
    results = [measure(ranked, relevant, num_items, length) for length in range(1, k + 1)]
    predicted = predict(model, list(zip(test["user"].tolist(), test["item"].tolist(), strict=True)))
    errors = [value - rating for value, rating in zip(predicted, test["rating"].tolist(), strict=True)]
    results[-1]["rmse"] = math.sqrt(sum(error * error for error in errors) / len(errors))
    results[-1]["mae"] = sum(abs(error) for error in errors) / len(errors)
    return results
