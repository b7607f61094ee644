"""Train one of the field's models on the pipeline's split and measure it with the pipeline's evaluator; print JSON.

python -m benchmarks.peers als|bpr|svd|ease [--set factors=128 ...], in a folder where the pipeline has run.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import scipy.sparse as sp
import yaml
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from stages.baselines import ease_scores, ease_weights, positives
from stages.lib.factors import Factors
from stages.lib.heldout import HeldOut, evaluate, summary
from stages.lib.params import load_params
from stages.lib.ratings import TRAIN, Ratings
from stages.lib.topk import top_k


def main() -> None:
    """Train, measure and print one peer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("name", choices=(*MODELS, "ease"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings other than the defaults")
    arguments = parser.parse_args()
    settings = {key: yaml.safe_load(value) for key, value in (setting.split("=") for setting in arguments.set)}
    params = load_params().evaluate
    train, held_out = Ratings.read(TRAIN), HeldOut.read(params.relevance_quantile)
    print(json.dumps(measure(arguments.name, settings, train, held_out, params.k)))


def measure(name: str, settings: dict[str, Any], train: Ratings, held_out: HeldOut, k: int) -> dict[str, Any]:
    """Train and measure one peer: see `measured`."""
    return measured(name, settings, train, held_out, k)[0]


def measured(
    name: str, settings: dict[str, Any], train: Ratings, held_out: HeldOut, k: int
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Train and measure one peer.

    Args:
        name: of the model; what follows an underscore does not count.
        settings: in place of its defaults.
        train: what it learns from.
        held_out: what it is measured on.
        k: the length of the lists.

    Returns:
        ``seconds`` of training alone, and the metrics that the pipeline writes; each user's average precision.
    """
    kind = name.split("_")[0]
    start = time.perf_counter()
    if kind == "ease":
        liked = ease_input(train, settings)
        weights = ease_weights(liked, settings.get("l2", 300))
        seconds = time.perf_counter() - start
        lists, _ = top_k(held_out.users, held_out.seen, k, lambda users, _: ease_scores(liked[users], weights))
        ranking, errors = held_out.measure(lists), None
    else:
        factors = MODELS[kind](train, **settings)
        seconds = time.perf_counter() - start
        ranking, found = evaluate(factors, held_out, k)
        errors = found if kind == "svd" else None
    return {"seconds": seconds, **summary(ranking, errors)}, ranking.average_precision


def ease_input(train: Ratings, settings: dict[str, Any]) -> sp.csr_array:
    """Give EASE its input: base ** (rating - 4) where a base is set, else 1 for ratings of at least min_rating."""
    if "base" not in settings:
        return positives(train, settings.get("min_rating", 4))
    weights = train.matrix().astype(np.float64)
    weights.data = np.power(settings["base"], weights.data - 4)
    return weights


def als(
    train: Ratings,
    factors: int = 64,
    regularization: float = 5.0,
    alpha: float = 5.0,
    base: float = 2.0,
    iterations: int = 15,
    seed: int = 7,
) -> Factors:
    """Train implicit's alternating least squares (Hu, Koren and Volinsky, ICDM 2008) with weights base^(rating - 4)."""
    from implicit.cpu.als import AlternatingLeastSquares

    weights = np.power(base, train.values - 4).astype(np.float32)
    with threadpool_limits(1, "blas"):  # as implicit asks for: it has threads of its own
        model = AlternatingLeastSquares(
            factors=factors, regularization=regularization, alpha=alpha, iterations=iterations, random_state=seed
        )
        model.fit(sp.csr_matrix((weights, (train.users, train.movies)), shape=train.shape), show_progress=False)
    return _factors(train, model.user_factors, model.item_factors)


def bpr(
    train: Ratings,
    factors: int = 64,
    learning_rate: float = 0.01,
    regularization: float = 0.01,
    iterations: int = 100,
    min_rating: float = 4.0,
    seed: int = 7,
) -> Factors:
    """Train implicit's Bayesian personalized ranking (Rendle et al., UAI 2009) on ratings of at least `min_rating`."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=factors,
        learning_rate=learning_rate,
        regularization=regularization,
        iterations=iterations,
        random_state=seed,
        num_threads=1,  # more race for the same weights and give other results every time
    )
    model.fit(sp.csr_matrix(positives(train, min_rating), dtype=np.float32), show_progress=False)
    return _factors(train, model.user_factors, model.item_factors)


def svd(
    train: Ratings,
    factors: int = 100,
    epochs: int = 20,
    learning_rate: float = 0.005,
    regularization: float = 0.02,
    seed: int = 7,
) -> Factors:
    """Train Surprise's SVD: biased matrix factorization by stochastic gradient descent (Koren et al., 2009)."""
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    frame = pd.DataFrame({"user": train.users, "movie": train.movies, "rating": train.values})
    scale = float(train.values.min()), float(train.values.max())
    data = Dataset.load_from_df(frame, Reader(rating_scale=scale)).build_full_trainset()
    model = SVD(n_factors=factors, n_epochs=epochs, lr_all=learning_rate, reg_all=regularization, random_state=seed)
    model.fit(data)
    # Surprise numbers what occurs in train in order of appearance; anyone and anything else has zeros.
    users, movies = (np.array([raw(i) for i in range(n)]) for raw, n in _numbered(data))
    arrays = [np.zeros((count, factors)) for count in train.shape] + [np.zeros(count) for count in train.shape]
    for array, rows, values in zip(arrays, (users, movies) * 2, (model.pu, model.qi, model.bu, model.bi), strict=True):
        array[rows] = values
    user_vectors, movie_vectors, user_bias, movie_bias = (array.astype(np.float32) for array in arrays)
    ids = np.arange(train.shape[1], dtype=np.int32)
    return Factors(user_vectors, movie_vectors, user_bias, movie_bias, ids, float(data.global_mean))


def _numbered(data: Any) -> tuple[tuple[Callable[[int], int], int], tuple[Callable[[int], int], int]]:  # noqa: ANN401
    return (data.to_raw_uid, data.n_users), (data.to_raw_iid, data.n_items)


def _factors(train: Ratings, users: Any, movies: Any) -> Factors:  # noqa: ANN401 - implicit ships no types
    ids = np.arange(train.shape[1], dtype=np.int32)
    user_bias, movie_bias = (np.zeros(count, dtype=np.float32) for count in train.shape)
    return Factors(np.asarray(users), np.asarray(movies), user_bias, movie_bias, ids)


MODELS: Final[dict[str, Callable[..., Factors]]] = {"als": als, "bpr": bpr, "svd": svd}


if __name__ == "__main__":
    main()
