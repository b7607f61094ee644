"""Train one of the field's models on the pipeline's split and measure it with the pipeline's evaluator; print JSON.

python -m benchmarks.peers NAME, in a folder where the pipeline has run. Settings are those that the search of
benchmarks/searches.yaml starts with.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.sparse as sp
import yaml
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recommender.data.interactions import Interactions
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.metrics import summary
from recommender.params_file import load_params
from recommender.paths import TRAIN
from recommender.ranking.baselines import ease_lists, ease_weights, liked
from recommender.ranking.factors import Factors

SEARCHES: Final[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("searches.yaml").read_text(encoding="utf-8"))
PEERS: Final = tuple(name for name, search in SEARCHES.items() if "section" not in search)
SEED: Final = 7


def main() -> None:
    """Train, measure and print one peer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("name", choices=PEERS)
    name, params = parser.parse_args().name, load_params().evaluate
    settings = SEARCHES[name].get("fixed", {}) | SEARCHES[name]["starts"][0]
    held_out = HeldOut.read(params.relevance_quantile)
    print(json.dumps(measure_peer(name, settings, Interactions.read(TRAIN), held_out, params.k)[0]))


def measure_peer(
    name: str, settings: dict[str, Any], train: Interactions, held_out: HeldOut, k: int
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Train and measure one peer of `PEERS`.

    Returns:
        ``seconds`` of training alone, and the metrics that the pipeline writes; each user's average precision.
    """
    kind = name.split("_")[0]
    errors: dict[str, float] = {}
    start = time.perf_counter()
    if kind == "ease":
        interactions = ease_input(train, settings)
        weights = ease_weights(interactions, settings["l2"])
        seconds = time.perf_counter() - start
        ranking = held_out.measure(ease_lists(interactions, weights, held_out.users, held_out.seen, k))
    else:
        factors = MODELS[kind](train, **settings)
        seconds = time.perf_counter() - start
        ranking, errors = evaluate(factors, held_out, k)
    return {"seconds": seconds, **summary(ranking, errors)}, ranking.average_precision


def ease_input(train: Interactions, settings: dict[str, Any]) -> sp.csr_array:
    """Return EASE's input: base ** (rating - 4) where a base is set, else 1 for ratings of at least min_rating."""
    if "base" not in settings:
        return liked(train, settings["min_rating"])
    weights = train.as_stars().matrix().astype(np.float64)
    weights.data = np.power(settings["base"], weights.data - 4)
    return weights


def als(
    train: Interactions, factors: int, regularization: float, alpha: float, base: float, iterations: int
) -> Factors:
    """Train implicit's alternating least squares (Hu, Koren and Volinsky, ICDM 2008) with weights base^(rating - 4)."""
    from implicit.cpu.als import AlternatingLeastSquares

    weights = np.power(base, train.as_stars().ratings - 4).astype(np.float32)
    with threadpool_limits(1, "blas"):  # as implicit asks for: it has threads of its own
        model = AlternatingLeastSquares(
            factors=factors, regularization=regularization, alpha=alpha, iterations=iterations, random_state=SEED
        )
        model.fit(sp.csr_matrix((weights, (train.users, train.items)), shape=train.shape), show_progress=False)
    return _factors(model.user_factors, model.item_factors)


def bpr(
    train: Interactions, factors: int, learning_rate: float, regularization: float, iterations: int, min_rating: float
) -> Factors:
    """Train implicit's Bayesian personalized ranking (Rendle et al., UAI 2009) on ratings of at least `min_rating`."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=factors,
        learning_rate=learning_rate,
        regularization=regularization,
        iterations=iterations,
        random_state=SEED,
        num_threads=1,  # more race for the same weights and give other results every time
    )
    model.fit(sp.csr_matrix(liked(train, min_rating), dtype=np.float32), show_progress=False)
    return _factors(model.user_factors, model.item_factors)


def svd(train: Interactions, factors: int, epochs: int, learning_rate: float, regularization: float) -> Factors:
    """Train Surprise's SVD: biased matrix factorization by stochastic gradient descent (Koren et al., 2009)."""
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    frame = pd.DataFrame({"user": train.users, "item": train.items, "rating": train.ratings})
    scale = float(train.ratings.min()), float(train.ratings.max())
    data = Dataset.load_from_df(frame, Reader(rating_scale=scale)).build_full_trainset()
    model = SVD(n_factors=factors, n_epochs=epochs, lr_all=learning_rate, reg_all=regularization, random_state=SEED)
    model.fit(data)
    # Surprise numbers what occurs in train in order of appearance; all others get zeros.
    users, items = pd.unique(train.users), pd.unique(train.items)
    user_factors, item_factors = np.zeros((train.num_users, factors)), np.zeros((train.num_items, factors))
    user_factors[users], item_factors[items] = model.pu, model.qi
    found = _factors(user_factors, item_factors)
    found.user_bias[users], found.item_bias[items] = model.bu, model.bi
    return replace(found, global_mean=float(data.global_mean), scores="ratings")


def _factors(user_factors: NDArray[Any], item_factors: NDArray[Any]) -> Factors:
    return Factors(
        user_factors.astype(np.float32),
        item_factors.astype(np.float32),
        np.zeros(len(user_factors), np.float32),
        np.zeros(len(item_factors), np.float32),
        np.arange(len(item_factors), dtype=np.int32),
        scores="order",
    )


MODELS: Final[dict[str, Callable[..., Factors]]] = {"als": als, "bpr": bpr, "svd": svd}


if __name__ == "__main__":
    main()
