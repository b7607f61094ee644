"""Measure our models and the tuned peers on the test part, over several seeds, and write metrics/comparison.json.

Parameters come from presets.yaml, where they were chosen on a validation part; test ratings are read here for the first
time. Peers and baselines learn from the same ratings as our models, and one evaluator measures all.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.stats
import yaml
from numpy.typing import NDArray

from benchmarks.measure import keep, run_stage, split_workspace, workspace
from benchmarks.peers import PEERS, measure_peer
from recommender.data.interactions import Interactions
from recommender.errors import UserError, run
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.metrics import summary
from recommender.paths import BASELINES, FACTORS, TEST, TRAIN
from recommender.ranking.factors import Factors
from recommender.storage import read_json
from tools.console import show_markdown
from tools.docs import TABLES
from tools.experiments import data_source, source_parser
from tools.notebook import NOTEBOOK, PUBLISHED
from tools.preset import PURPOSES, presets

OUTPUT: Final = Path("metrics/comparison.json")
K, QUANTILE = 25, 0.85
RESAMPLES: Final = 10_000
Values = dict[str, Any]


def main() -> None:
    """Measure everything on one data set and print the table."""
    parser = source_parser("make comparison", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        raise UserError(f"--seeds: must be at least 2; found {arguments.seeds}")
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder) / "split", source, arguments.seeds)
    keep(OUTPUT, arguments.dataset, result)
    show_markdown(TABLES["comparison"](arguments.dataset))


def compare(place: Path, source: Values, seeds: int) -> Values:
    """Measure everything on one data set, in a scratch copy at `place`, our models with several seeds.

    Returns:
        ``models``: the metrics of each; ``deviations``: their standard deviation over the seeds, for ours;
        ``difference``: our ranking model's MAP, the mean over the seeds, minus the best peer's, with its interval.
    """
    dataset = source["data.dataset"]
    with contextlib.chdir(split_workspace(place, source)):
        train, test = Interactions.read(TRAIN), Interactions.read(TEST)
    held_out = HeldOut.of(test, train, QUANTILE)
    models: dict[str, Values] = {"notebook, published": dict(PUBLISHED)} if dataset == "ml-1m" else {}
    plain = source | yaml.safe_load("\n".join(NOTEBOOK.split()).replace("=", ": "))
    for name, interaction in (("reproduced", "batch_sum"), ("corrected", "dot")):
        models[f"notebook, {name}"], _ = ours(place, plain | {"train.mf.interaction": interaction}, held_out)
    workspace(place, plain | {"baselines.ease_max_items": 0})
    run_stage("baselines", place)
    models |= read_json(place / BASELINES)
    average_precision: dict[str, NDArray[np.float64]] = {}
    deviations: dict[str, Values] = {}
    tuned = presets(dataset)
    peers = [name for name in PEERS if name in tuned]
    for name in peers:
        models[name], average_precision[name] = measure_peer(name, tuned[name], train, held_out, K)
    for purpose in (name for name in reversed(PURPOSES) if name in tuned):
        values, name = source | tuned[purpose], f"our {purpose} model"
        runs = [ours(place, values | {"train.seed": 7 + seed}, held_out) for seed in range(seeds)]
        found = {key: [metrics[key] for metrics, _ in runs] for key, value in runs[0][0].items() if value is not None}
        models[name] = {key: float(np.mean(numbers)) for key, numbers in found.items()}
        deviations[name] = {key: float(np.std(numbers, ddof=1)) for key, numbers in found.items()}
        average_precision[name] = np.mean([average for _, average in runs], axis=0)
    best = max(peers, key=lambda name: float(models[name]["map"]))
    gain = average_precision["our ranking model"] - average_precision[best]
    return {
        "models": models,
        "seeds": seeds,
        "deviations": deviations,
        "difference": {"peer": best, "map": float(gain.mean()), "interval_95": interval(gain)},
    }


def ours(place: Path, values: Values, held_out: HeldOut) -> tuple[Values, NDArray[np.float64]]:
    """Train where split has run; return the metrics, with the stage's seconds, and each user's average precision."""
    seconds = run_stage("train", workspace(place, values)).seconds
    factors = Factors.load(place / FACTORS)
    ranking, errors = evaluate(factors, held_out, K)
    print(f"{values['train.model']}: map {ranking.map[-1]:.4f} {errors} {seconds:.0f} s", flush=True)
    return {**summary(ranking, errors), "seconds": seconds}, ranking.average_precision


def interval(gain: NDArray[np.float64]) -> list[float]:
    """Return the 95 % interval of the mean of users' differences in a metric by a paired percentile bootstrap.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    found = scipy.stats.bootstrap(
        (gain,), np.mean, n_resamples=RESAMPLES, batch=100, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(found.low), float(found.high)]


if __name__ == "__main__":
    run(main)
