"""Run the pipeline with several seeds of training as DVC experiments: how much do metrics vary by chance in training?

The spread over seeds is set beside the interval over users, which is of another kind: one says how much another
training would change a metric, the other how much other users would.
"""

import argparse
import json

import dvc.api
import numpy as np

from recommender.errors import UserError, run
from recommender.evaluation.results import BY_USER, UserResults
from recommender.evaluation.statistics import as_text
from recommender.params_file import load_params
from recommender.paths import METRICS, USER_METRICS
from tools.console import show_table
from tools.sweep import run_all


def main() -> None:
    """Run the experiments and print both spreads of each metric."""
    parser = argparse.ArgumentParser(prog="make seeds", description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="of seeds: from train.seed on")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    arguments = parser.parse_args()
    if arguments.count < 2:
        raise UserError(f"N: must be at least 2 for a standard deviation; found {arguments.count}")
    first = load_params().train.seed
    seeds = [(first + number) % 2**32 for number in range(arguments.count)]
    names, reasons = run_all([f"train.seed={','.join(map(str, seeds))}"], arguments.jobs)
    if reasons:
        raise UserError(f"{len(reasons)} of {len(names)} experiments failed: {'; '.join(reasons)}")
    metrics = [json.loads(dvc.api.read(str(METRICS), rev=name)) for name in names]
    results = UserResults.of_bytes(dvc.api.read(str(USER_METRICS), rev=names[0], mode="rb"))
    estimates = next(iter(results.statistics(pairs=False).estimates.values()))
    rows = []
    for metric in (name for name in BY_USER if name in estimates):
        values, estimate = [each[metric] for each in metrics], estimates[metric]
        deviation, error = np.std(values, ddof=1), (estimate.high - estimate.low) / (2 * 1.96)
        cells = [f"{np.mean(values):.4f}", f"{deviation:.4f}", f"{error:.4f}", as_text(estimate)]
        rows.append([metric, *cells, "seeds" if deviation > error else "users"])
    columns = ["", "mean over seeds", "deviation over seeds", "error over users", "95 % interval over users", "larger"]
    show_table(f"Seeds {seeds[0]} to {seeds[-1]}; users with the first of them", columns, rows, left=(0, 5))
    print(f"\nTo remove these experiments: dvc exp remove {' '.join(names)}")


if __name__ == "__main__":
    run(main)
