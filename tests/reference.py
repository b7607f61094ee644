"""The metrics once more, user by user and in plain Python: slow, and written from their definitions alone."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

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
    """Rank each user's candidates by descending score, then ascending index.

    Items without train ratings have a score and are not listed; users without any get the items with most ratings.
    """
    result = {}
    counts = Counter(train["item"].tolist())
    for user in users:
        seen = set(train.loc[train["user"] == user, "item"].tolist())
        unseen = [item for item in range(num_items) if item not in seen]
        scores: Mapping[int, float] = score(user, unseen) if seen else counts
        listed = [item for item in unseen if item in counts]
        result[user] = sorted(listed, key=lambda item, scores=scores: (-scores[item], item))[:k]
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


def describe(
    ranked: dict[int, list[int]],
    relevant: dict[int, set[int]],
    train: pd.DataFrame,
    num_items: int,
    k: int,
    categories: list[str] | None = None,
) -> dict[str, float]:
    """Measure lists cut off at k beyond accuracy; `categories` are each item's, joined by a bar."""
    cut = {user: whole[:k] for user, whole in ranked.items()}
    raters = {item: set(train.loc[train["item"] == item, "user"].tolist()) for item in range(num_items)}
    rated = {item: len(users) for item, users in raters.items()}
    by_rank = sorted(range(num_items), key=lambda item: (-rated[item], item))
    groups, before = {}, 0
    for item in by_rank:
        share = before / len(train)
        groups[item] = "tail" if share >= 0.8 else "middle" if share >= 0.2 else "head"
        before += rated[item]
    popular = lists(train, list(ranked), num_items, k, lambda _, those: {item: float(rated[item]) for item in those})
    totals: dict[str, list[float]] = defaultdict(list)
    for user, row in cut.items():
        found = [item for item in row if item in relevant[user]]
        totals["serendipity"].append(len([item for item in found if item not in popular[user]]) / k)
        for group in ("head", "middle", "tail"):
            wanted = [item for item in relevant[user] if groups[item] == group]
            if wanted:
                totals[f"recall_{group}"].append(len(set(wanted) & set(row)) / len(wanted))
        pairs = [(one, other) for place, one in enumerate(row) for other in row[:place]]
        likeness = [alike(one, other, raters, categories) for one, other in pairs]
        totals["diversity"].append(1 - sum(likeness) / len(pairs) if pairs else 0.0)
        if not row:
            continue
        totals["novelty"].append(
            sum(-math.log2(max(rated[item], 1) / train["user"].nunique()) for item in row) / len(row)
        )
        totals["tail_share"].append(sum(groups[item] == "tail" for item in row) / len(row))
        ranks = [
            sum((rated[other] < rated[item]) + (rated[other] == rated[item]) / 2 for other in range(num_items))
            for item in row
        ]
        totals["popularity_percentile"].append(sum(ranks) / num_items / len(row))
        history = train.loc[train["user"] == user, "item"].tolist()
        if categories and history:
            own, listed = shares(history, categories), shares(row, categories)
            totals["miscalibration"].append(
                sum(p * math.log(p / (0.99 * listed.get(name, 0) + 0.01 * p)) for name, p in own.items())
            )
    result = {name: sum(values) / len(values) for name, values in totals.items()}
    counts = sorted(sum(item in row for row in cut.values()) for item in range(num_items))
    apart = sum(abs(one - other) for one in counts for other in counts)
    result["gini"] = apart / (2 * num_items * sum(counts)) if sum(counts) else 0.0
    return result


def alike(one: int, other: int, raters: dict[int, set[int]], categories: list[str] | None) -> float:
    """Return the Jaccard index of two items' categories, or the cosine of their columns of known ratings."""
    if categories:
        left, right = (set(categories[item].split("|")) for item in (one, other))
        return len(left & right) / len(left | right)
    both = len(raters[one] & raters[other])
    return both / math.sqrt(len(raters[one]) * len(raters[other])) if both else 0.0


def shares(items: list[int], categories: list[str]) -> dict[str, float]:
    """Return the share of each category in items that each divide one among their own."""
    found: dict[str, float] = defaultdict(float)
    for item in items:
        own = set(categories[item].split("|"))
        for name in own:
            found[name] += 1 / len(own) / len(items)
    return found
