"""Measure the trained factors on the test ratings: top-K ranking over the whole catalogue, and rating errors."""

import sys

import numpy as np

from recommender.environment import check_environment
from recommender.errors import run
from recommender.evaluation.at_once import evaluate_at_once
from recommender.evaluation.metrics import CURVES
from recommender.evaluation.results import no_users
from recommender.parallel.measuring import evaluate_in_parts
from recommender.params_file import load_params
from recommender.paths import AT_K, METRICS, USER_METRICS
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
    found = (evaluate_in_parts if params.engine.parts > 1 else evaluate_at_once)(params)
    write_json(METRICS, found.metrics())
    write_csv(AT_K, {"k": np.arange(1, k + 1)} | found.curves())


if __name__ == "__main__":
    run(main)
