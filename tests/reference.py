"""The metrics once more, user by user and in plain Python: slow, and written from their definitions alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BATCH = 32  # pairs over which batch_sum adds

ScoreUser = Callable[[int, list[int]], dict[int, float]]


@dataclass(frozen=True)
class Model:
    """The numbers of a model in float64."""

    users: NDArray[np.float64]
    movies: NDArray[np.float64]
    user_bias: NDArray[np.float64]
    movie_bias: NDArray[np.float64]
    movie_ids: NDArray[np.int32]
    interaction: str

    def dot(self, user: int, movie: int) -> float:
        """Multiply the vectors of a pair."""
        total = 0.0
        for left, right in zip(self.users[user].tolist(), self.movies[movie].tolist(), strict=True):
            total += left * right
        return total

    def predict(self, pairs: list[tuple[int, int]]) -> list[float]:
        """Predict pairs in their order."""
        dots = [self.dot(user, movie) for user, movie in pairs]
        if self.interaction == "batch_sum":
            dots = [sum(dots[i - i % BATCH : i - i % BATCH + BATCH]) for i in range(len(dots))]
        return [
            value + float(self.user_bias[user] + self.movie_bias[movie])
            for value, (user, movie) in zip(dots, pairs, strict=True)
        ]

    def score(self, user: int, candidates: list[int]) -> dict[int, float]:
        """Score a user's candidates; batch_sum takes them in ascending movie id."""
        ordered = sorted(candidates, key=lambda movie: self.movie_ids[movie])
        return dict(zip(ordered, self.predict([(user, movie) for movie in ordered]), strict=True))


def relevant_movies(test: pd.DataFrame, quantile: float) -> dict[int, set[int]]:
    """Give each user's relevant movies, by user with test rows."""
    relevant = {}
    for user, rows in test.groupby("user"):
        threshold = np.quantile(rows["rating"].to_numpy(dtype=np.float64), quantile)
        relevant[int(user)] = set(rows.loc[rows["rating"] >= threshold, "movie"].tolist())
    return relevant


def lists(train: pd.DataFrame, users: list[int], movies: int, k: int, score: ScoreUser) -> dict[int, list[int]]:
    """Rank each user's candidates by descending score, then ascending index."""
    result = {}
    for user in users:
        seen = set(train.loc[train["user"] == user, "movie"].tolist())
        scores = score(user, [movie for movie in range(movies) if movie not in seen])
        result[user] = sorted(scores, key=lambda movie: (-scores[movie], movie))[:k]
    return result


def measure(ranked: dict[int, list[int]], relevant: dict[int, set[int]], movies: int, k: int) -> dict[str, float]:
    """Measure lists cut off at k."""
    totals: dict[str, list[float]] = {name: [] for name in ("precision", "recall", "map", "ndcg", "mrr", "hit_rate")}
    for user, whole in ranked.items():
        wanted, row = relevant[user], whole[:k]
        hit_ranks = [rank for rank, movie in enumerate(row, start=1) if movie in wanted]
        most = min(len(wanted), k)
        average = sum(nth / rank for nth, rank in enumerate(hit_ranks, start=1)) / most
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, most + 1))
        totals["precision"].append(len(hit_ranks) / k)
        totals["recall"].append(len(hit_ranks) / len(wanted))
        totals["map"].append(average)
        totals["ndcg"].append(sum(1 / math.log2(rank + 1) for rank in hit_ranks) / ideal)
        totals["mrr"].append(1 / hit_ranks[0] if hit_ranks else 0.0)
        totals["hit_rate"].append(1.0 if hit_ranks else 0.0)
    result = {name: sum(values) / len(ranked) for name, values in totals.items()}
    result["coverage"] = len({movie for row in ranked.values() for movie in row[:k]}) / movies
    return result


def evaluate(train: pd.DataFrame, test: pd.DataFrame, model: Model, quantile: float, k: int) -> list[dict[str, float]]:
    """Measure a model at every k from 1 to `k`; RMSE and MAE are in the last one."""
    relevant = relevant_movies(test, quantile)
    movies = len(model.movies)
    ranked = lists(train, sorted(relevant), movies, k, model.score)
    results = [measure(ranked, relevant, movies, length) for length in range(1, k + 1)]
    predicted = model.predict(list(zip(test["user"].tolist(), test["movie"].tolist(), strict=True)))
    errors = [value - rating for value, rating in zip(predicted, test["rating"].tolist(), strict=True)]
    results[-1]["rmse"] = math.sqrt(sum(error * error for error in errors) / len(errors))
    results[-1]["mae"] = sum(abs(error) for error in errors) / len(errors)
    return results
