"""Measure the trained factors on the test ratings: top-K ranking over the whole catalogue, and rating errors."""

import sys

import numpy as np

from recommender.environment import check_environment
from recommender.errors import run
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.metrics import CURVES, at_k, summary
from recommender.params_file import load_params
from recommender.paths import AT_K, METRICS
from recommender.ranking.factors import Factors
from recommender.ranking.topk import check_k
from recommender.storage import write_csv, write_json


def main() -> None:
    """Evaluate as ``params.yaml`` says and write the metrics at K and at every k up to it."""
    check_environment("tables")
    params = load_params()
    if params.train.final_fit == "all":
        print("nothing is measured: with train.final_fit: all the model has learned the test ratings", file=sys.stderr)
        write_json(METRICS, {})
        write_csv(AT_K, dict.fromkeys(("k", *CURVES), np.empty(0)))
        return
    k = params.evaluate.k
    held_out = HeldOut.read(params.evaluate.relevance_quantile)
    check_k("params.yaml: evaluate.k", k, held_out.ratings.num_items)
    factors = Factors.load()
    factors.check_shape(held_out.ratings.shape)
    ranking, errors = evaluate(factors, held_out, k)
    write_json(METRICS, summary(ranking, errors))
    write_csv(AT_K, at_k(ranking))


if __name__ == "__main__":
    run(main)
