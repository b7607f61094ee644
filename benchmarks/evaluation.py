"""Time this project's evaluation and implicit's on the same factors, in turn, in one process, and print JSON.

python -m benchmarks.evaluation, in a folder where the pipeline has run.
"""

import json
import timeit
from collections.abc import Callable
from typing import Final

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from implicit.evaluation import ranking_metrics_at_k

from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.params_file import load_params
from recommender.ranking.factors import Factors

ROUNDS: Final = 5


def main() -> None:
    """Print the seconds of each round and the MAP of both evaluators."""
    params = load_params().evaluate
    k, held_out, factors = params.k, HeldOut.read(params.relevance_quantile), Factors.load()
    test, liked = held_out.ratings, held_out.relevant
    relevant = sp.csr_matrix((np.ones(liked.sum()), (test.users[liked], test.items[liked])), shape=test.shape)
    seen = sp.csr_matrix(held_out.seen)
    # The same scores: the item biases are one more dimension, where users have 1.
    model = AlternatingLeastSquares(factors=factors.user_factors.shape[1] + 1)
    model.user_factors = np.column_stack([factors.user_factors, np.ones_like(factors.user_bias)])
    model.item_factors = np.column_stack([factors.item_factors, factors.item_bias])
    runs: dict[str, Callable[[], float]] = {
        "ours": lambda: evaluate(factors, held_out, k)[0].at("map"),
        "implicit": lambda: ranking_metrics_at_k(model, seen, relevant, k, show_progress=False, num_threads=0)["map"],
    }
    means = {name: float(function()) for name, function in runs.items()}  # the first call loads code and is not timed
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, function in runs.items():
            seconds[name].append(timeit.timeit(function, number=1))
    print(json.dumps({"seconds": seconds, "map": means}))


if __name__ == "__main__":
    main()
