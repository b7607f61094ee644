"""Measure the models that any model must beat: popularity, the damped item mean, and EASE."""

import numpy as np

from recommender.environment import check_environment
from recommender.errors import run
from recommender.evaluation.at_once import baselines_at_once
from recommender.evaluation.results import no_users
from recommender.parallel.measuring import baselines_in_parts
from recommender.params_file import load_params
from recommender.paths import BASELINES, BASELINES_AT_K, BASELINES_USERS
from recommender.storage import write_csv, write_json, write_table


def main() -> None:
    """Measure every baseline as ``params.yaml`` says; they learn from the same ratings as the model."""
    check_environment("tables")
    params = load_params()
    k = params.evaluate.k
    if params.train.final_fit == "all":
        write_json(BASELINES, {})
        write_csv(BASELINES_AT_K, {"k": np.empty(0)})
        write_table(BASELINES_USERS, no_users(k))
        return
    results = (baselines_in_parts if params.engine.parts > 1 else baselines_at_once)(params)
    write_json(BASELINES, {name: found.metrics() for name, found in results.items()})
    columns = {f"{name}_{key}": curve for name, found in results.items() for key, curve in found.curves().items()}
    write_csv(BASELINES_AT_K, {"k": np.arange(1, k + 1), **columns})


if __name__ == "__main__":
    run(main)
