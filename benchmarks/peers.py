"""Train one of the field's models on the pipeline's split and measure it with the pipeline's evaluator; print JSON.

python -m benchmarks.peers NAME, in a folder where the pipeline has run. Settings are those that the search of
benchmarks/searches.yaml starts with.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
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
from recommender.ranking.baselines import ease_top_k, ease_weights, liked
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
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Train and measure one peer of `PEERS`.

    Returns:
        ``seconds`` of training alone, and the metrics that the pipeline writes; each user's, by metric.
    """
    kind = name.split("_")[0]
    errors: dict[str, float] = {}
    start = time.perf_counter()
    if kind in ("ease", "slim"):
        interactions = ease_input(train, settings)
        solve = partial(slim_weights, l1=settings["l1"]) if kind == "slim" else ease_weights
        weights = solve(interactions, settings["l2"])
        seconds = time.perf_counter() - start
        ranking = held_out.measure(held_out.lists(partial(ease_top_k, interactions, weights), k))
    else:
        factors = MODELS[kind](train, **settings)
        seconds = time.perf_counter() - start
        ranking, errors = evaluate(factors, held_out, k)
    return {"seconds": seconds, **summary(ranking, errors)}, ranking.users


def slim_weights(interactions: sp.csr_array, l2: float, l1: float, steps: int = 100) -> NDArray[np.float64]:
    """Solve SLIM (Ning and Karypis, ICDM 2011): least squares with both penalties, weights >= 0, a zero diagonal.

    All items at once by accelerated proximal gradients (Beck and Teboulle, SIAM Journal on Imaging Sciences 2009).
    """
    gram: NDArray[np.float32] = (interactions.T @ interactions).toarray().astype(np.float32)
    weights = ahead = np.zeros_like(gram)
    vector, momentum = np.ones(len(gram), np.float32), 1.0
    for _ in range(30):  # the largest eigenvalue by the power method
        vector = gram @ vector / np.linalg.norm(gram @ vector)
    rate = np.float32(0.95 / (vector @ gram @ vector + l2))
    for _ in range(steps):
        before, weights = weights, ahead - rate * (gram @ ahead - gram + np.float32(l2) * ahead + np.float32(l1))
        np.maximum(weights, 0, out=weights)
        np.fill_diagonal(weights, 0)
        last, momentum = momentum, (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = weights + np.float32((last - 1) / momentum) * (weights - before)
    return weights.astype(np.float64)


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


def ials(
    train: Interactions, factors: int, regularization: float, unobserved: float, base: float, iterations: int
) -> Factors:
    """Train iALS with frequency-scaled regularization (Rendle et al., Revisiting the performance of iALS, RecSys 2022).

    A rating r counts as base^(r - 4), every pair besides as `unobserved`.
    """
    weights = ease_input(train, {"base": base})
    random = np.random.default_rng(SEED)
    found = [random.normal(0, 0.1 / factors**0.5, (count, factors)) for count in train.shape]

    def solve(rows: sp.csr_array, fixed: NDArray[np.float64]) -> NDArray[np.float64]:
        everything = unobserved * (fixed.T @ fixed)

        def one(row: int) -> NDArray[np.float64]:
            own = slice(rows.indptr[row], rows.indptr[row + 1])
            vectors, weight = fixed[rows.indices[own]], rows.data[own]
            penalty = regularization * (len(weight) + unobserved * len(fixed))
            system = everything + (vectors.T * weight) @ vectors
            return np.linalg.solve(system + penalty * np.eye(factors), weight @ vectors)

        with threadpool_limits(1), ThreadPoolExecutor() as threads:
            return np.array(list(threads.map(one, range(rows.shape[0]))))

    by_item = weights.T.tocsr()
    for _ in range(iterations):
        found[0] = solve(weights, found[1])
        found[1] = solve(by_item, found[0])
    return _factors(*found)


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


def svd(
    train: Interactions, factors: int, epochs: int, learning_rate: float, regularization: float, kind: str = "SVD"
) -> Factors:
    """Train Surprise's SVD: biased matrix factorization by stochastic gradient descent (Koren et al., 2009).

    Or its SVDpp (Koren, KDD 2008), where a user's vector is helped by those of the items that the user rated.
    """
    import pandas as pd
    import surprise
    from surprise import Dataset, Reader

    frame = pd.DataFrame({"user": train.users, "item": train.items, "rating": train.ratings})
    scale = float(train.ratings.min()), float(train.ratings.max())
    data = Dataset.load_from_df(frame, Reader(rating_scale=scale)).build_full_trainset()
    model = getattr(surprise, kind)(
        n_factors=factors, n_epochs=epochs, lr_all=learning_rate, reg_all=regularization, random_state=SEED
    )
    model.fit(data)
    # Surprise numbers what occurs in train in order of appearance; all others get zeros.
    users, items = pd.unique(train.users), pd.unique(train.items)
    user_factors, item_factors = np.zeros((train.num_users, factors)), np.zeros((train.num_items, factors))
    user_factors[users], item_factors[items] = model.pu, model.qi
    if kind == "SVDpp":
        helping = np.zeros_like(item_factors)
        helping[items] = model.yj
        rated = sp.csr_array((np.ones(len(train)), (train.users, train.items)), shape=train.shape)
        counts = np.maximum(np.bincount(train.users, minlength=train.num_users), 1)
        user_factors += (rated @ helping) / np.sqrt(counts)[:, None]
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


MODELS: Final[dict[str, Callable[..., Factors]]] = {
    "als": als,
    "ials": ials,
    "bpr": bpr,
    "svd": svd,
    "svdpp": partial(svd, kind="SVDpp"),
}


if __name__ == "__main__":
    main()
