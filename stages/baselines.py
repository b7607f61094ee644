"""Measure the models that any model must beat: popularity, the damped item mean, and EASE."""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from stages.lib.errors import UserError, run
from stages.lib.heldout import HeldOut, check_k, summary
from stages.lib.metrics import RankingMetrics, at_k, rating_errors
from stages.lib.params import Baselines, load_params
from stages.lib.ratings import TRAIN, VALIDATION, Ratings
from stages.lib.storage import write_csv, write_json
from stages.lib.topk import top_k

METRICS = Path("metrics/baselines.json")
AT_K = Path("metrics/baselines_at_k.csv")
GRAM_ROWS = 1024  # rows of EASE's matrix that are held as a sparse product at a time


def main() -> None:
    """Measure every baseline as ``params.yaml`` says."""
    params = load_params()
    k = params.evaluate.k
    held_out = HeldOut.read(params.evaluate.relevance_quantile)
    check_k("params.yaml: evaluate.k", k, held_out.ratings.shape[1])
    results = measure(Ratings.read(TRAIN, VALIDATION), held_out, k, params.baselines)
    write_json(METRICS, {name: summary(*result) for name, result in results.items()})
    write_csv(AT_K, curves({name: ranking for name, (ranking, _) in results.items()}))


def curves(rankings: dict[str, RankingMetrics]) -> dict[str, NDArray[Any]]:
    """Give columns with one row for every k: ``k``, then ``popularity_precision`` and so on."""
    columns: dict[str, NDArray[Any]] = {}
    for name, ranking in rankings.items():
        for key, values in at_k(ranking).items():
            columns["k" if key == "k" else f"{name}_{key}"] = values
    return columns


def measure(
    train: Ratings, held_out: HeldOut, k: int, params: Baselines
) -> dict[str, tuple[RankingMetrics, dict[str, float] | None]]:
    """Measure popularity, item mean and EASE on the held-out ratings.

    Args:
        train: what the baselines learn from.
        held_out: what they are measured on.
        k: the length of the lists.
        params: damping, regularization and limits.

    Returns:
        For each baseline its ranking metrics and, for the item mean, which alone predicts ratings, its rating errors.
        EASE is left out, with a message on stderr, where the catalogue is larger than ``ease_max_movies``.
    """

    def ranking(scores: NDArray[np.float64]) -> NDArray[np.int32]:
        lists, _ = top_k(held_out.users, held_out.seen, k, lambda users, _: np.tile(scores, (len(users), 1)))
        return lists

    means = item_means(train, params.item_mean_damping)
    errors = rating_errors(means[held_out.ratings.movies], held_out.ratings.values)
    results: dict[str, tuple[RankingMetrics, dict[str, float] | None]] = {
        "popularity": (held_out.measure(ranking(popularity(train))), None),
        "item_mean": (held_out.measure(ranking(means)), errors),
    }
    if train.shape[1] > params.ease_max_movies:
        print(
            f"EASE is left out: it inverts a {train.shape[1]} x {train.shape[1]} matrix, and baselines.ease_max_movies "
            f"allows {params.ease_max_movies}",
            file=sys.stderr,
        )
        return results
    interactions = positives(train, params.ease_min_rating)
    weights = ease_weights(interactions, params.ease_lambda)
    lists, _ = top_k(held_out.users, held_out.seen, k, lambda users, _: ease_scores(interactions[users], weights))
    return {**results, "ease": (held_out.measure(lists), None)}


def popularity(train: Ratings) -> NDArray[np.float64]:
    """Count each movie's ratings: (movies,) float64."""
    return np.bincount(train.movies, minlength=train.shape[1]).astype(np.float64)


def item_means(train: Ratings, damping: float) -> NDArray[np.float64]:
    """Average each movie's ratings together with `damping` ratings at the global mean.

    Args:
        train: the ratings.
        damping: how many ratings at the global mean are added to each movie; a movie without any gets that mean.

    Returns:
        (movies,) float64, in stars.
    """
    values = train.values.astype(np.float64)
    mean = values.mean()
    count = np.bincount(train.movies, minlength=train.shape[1])
    total = np.bincount(train.movies, weights=values, minlength=train.shape[1])
    means = np.full(train.shape[1], mean)
    np.divide(total + damping * mean, count + damping, out=means, where=count + damping > 0)
    return means


def positives(train: Ratings, min_rating: float) -> sp.csr_array:
    """Give a users x movies matrix with 1 where the rating is at least `min_rating`, float64."""
    liked = train.values >= min_rating
    ones = np.ones(np.count_nonzero(liked))
    return sp.csr_array((ones, (train.users[liked], train.movies[liked])), shape=train.shape)


def ease_weights(interactions: sp.csr_array, l2: float) -> NDArray[np.float64]:
    """Solve EASE (Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019, equation 8).

    Args:
        interactions: users x movies, 1 where the user likes the movie.
        l2: the regularization.

    Returns:
        (movies, movies) float64 with a zero diagonal: the weight of a liked movie, by row, for a movie, by column.

    Raises:
        UserError: the regularization is too small for a matrix of less than full rank.
    """
    by_movie = sp.csr_array(interactions.T)
    gram = np.empty((by_movie.shape[0],) * 2)
    for start in range(0, len(gram), GRAM_ROWS):
        gram[start : start + GRAM_ROWS] = (by_movie[start : start + GRAM_ROWS] @ interactions).toarray()
    gram[np.diag_indices_from(gram)] += l2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", scipy.linalg.LinAlgWarning)
            inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False, assume_a="pos")
    except (scipy.linalg.LinAlgError, scipy.linalg.LinAlgWarning):
        raise UserError(
            f"params.yaml: baselines.ease_lambda: {l2:g} is too small to invert EASE's matrix; choose 1 or more"
        ) from None
    weights: NDArray[np.float64] = np.asarray(inverse, dtype=np.float64)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0)
    return weights


def ease_scores(liked: sp.csr_array, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score all movies for some users.

    Args:
        liked: (users, movies) their liked movies.
        weights: (movies, movies) from `ease_weights`.

    Returns:
        (users, movies) float64, rounded to 9 decimals: movies liked by the same users have equal scores but for the
        last bits, which differ from one machine to the next and must not decide their order.
    """
    scores: NDArray[np.float64] = np.round(liked @ weights, 9)
    return scores


if __name__ == "__main__":
    run(main)
