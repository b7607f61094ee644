"""Measure the trained factors on the test ratings: top-K ranking over the whole catalogue, and rating errors."""

import sys

import numpy as np

from recommender.environment import check_environment
from recommender.errors import run
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.lists import Categories, ListMeasures
from recommender.evaluation.metrics import CURVES
from recommender.evaluation.results import measure, no_users
from recommender.params_file import load_params
from recommender.paths import AT_K, METRICS, USER_METRICS
from recommender.ranking.factors import Factors
from recommender.ranking.topk import check_k
from recommender.storage import write_csv, write_json, write_table


def main() -> None:
    """Evaluate as ``params.yaml`` says and write the metrics at K, at every k up to it, and by user."""
    check_environment("tables")
    params = load_params()
    k = params.evaluate.k
    if params.train.final_fit == "all":
        print("nothing is measured: with train.final_fit: all the model has learned the test ratings", file=sys.stderr)
        write_json(METRICS, {})
        write_csv(AT_K, dict.fromkeys(("k", *CURVES), np.empty(0)))
        write_table(USER_METRICS, no_users(k))
        return
    held_out = HeldOut.read(params.evaluate.relevance_quantile, params.train.learned_from)
    test = held_out.ratings
    check_k("params.yaml: evaluate.k", k, test.num_items)
    factors = Factors.load()
    factors.check_shape(test.shape)
    measures = ListMeasures(held_out, Categories.read(), k)
    predicted = factors.predict(test.users, test.items) if factors.predicts_ratings else None
    metrics, curves, table = measure(params.train.model, measures, held_out.lists(factors.top_k, k), predicted)
    write_json(METRICS, metrics)
    write_csv(AT_K, {"k": np.arange(1, k + 1)} | curves)
    write_table(USER_METRICS, table)


if __name__ == "__main__":
    run(main)
