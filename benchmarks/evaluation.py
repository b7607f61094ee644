"""Time this project's evaluation and implicit's on the same factors, in turn, in one process, and print JSON.

python -m benchmarks.evaluation, in a folder where the pipeline has run.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from implicit.evaluation import ranking_metrics_at_k

from stages.lib.factors import Factors
from stages.lib.heldout import HeldOut, evaluate
from stages.lib.params import load_params

ROUNDS = 5


def main() -> None:
    """Time both evaluators."""
    params = load_params().evaluate
    held_out = HeldOut.read(params.relevance_quantile)
    factors = Factors.load()
    test, liked = held_out.ratings, held_out.relevant
    relevant = sp.csr_matrix((np.ones(liked.sum()), (test.users[liked], test.movies[liked])), shape=test.shape)
    seen, model = sp.csr_matrix(held_out.seen), as_implicit(factors)

    def ours() -> float:
        return float(evaluate(factors, held_out, params.k)[0].map[-1])

    def implicit() -> float:
        found = ranking_metrics_at_k(model, seen, relevant, K=params.k, show_progress=False, num_threads=0)
        return float(found["map"])

    seconds: dict[str, list[float]] = {"ours": [], "implicit": []}
    results = {}
    runs: dict[str, Callable[[], float]] = {"ours": ours, "implicit": implicit}
    for name, function in runs.items():
        function()  # the first call loads code
        results[name] = function()
    for _ in range(ROUNDS):
        for name, function in runs.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    out: dict[str, Any] = {"seconds": seconds, "map": results}
    print(json.dumps(out))


def as_implicit(factors: Factors) -> AlternatingLeastSquares:
    """Give implicit the same scores: the movies' biases become one more dimension, where every user has 1."""
    model = AlternatingLeastSquares(factors=factors.users.shape[1] + 1)
    model.user_factors = np.column_stack([factors.users, np.ones(len(factors.users), dtype=np.float32)])
    model.item_factors = np.column_stack([factors.movies, factors.movie_bias])
    return model


if __name__ == "__main__":
    main()
