"""Measure our models and the tuned peers on the test part, over several seeds, and write metrics/comparison.json.

Parameters come from presets.yaml, where they were chosen on a validation part; test ratings are read here for the first
time. Peers and baselines learn from the same ratings as our models, and one evaluator measures all.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.measure import keep, run_stage, split_workspace, workspace
from benchmarks.peers import PEERS, measure_peer
from recommender.data.interactions import Interactions
from recommender.errors import UserError, run
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.metrics import ACCURACY, ERRORS, summary
from recommender.evaluation.results import UserResults
from recommender.evaluation.statistics import statistics
from recommender.paths import BASELINES, BASELINES_USERS, FACTORS, TEST, TRAIN
from recommender.ranking.factors import Factors
from recommender.storage import read_json
from tools.console import show_markdown
from tools.docs import TABLES
from tools.experiments import data_source, source_parser
from tools.notebook import NOTEBOOK, PUBLISHED
from tools.preset import PURPOSES, presets

OUTPUT: Final = Path("metrics/comparison.json")
K, QUANTILE = 25, 0.85
RIVALS: Final = ("our ranking model", "ease_weighted")
Values = dict[str, Any]
Users = dict[str, NDArray[np.float64]]  # by metric


def main() -> None:
    """Measure everything on one data set and print the table."""
    parser = source_parser("make comparison", __doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of training")
    parser.add_argument("--split-seed", type=int, help="of the split: measures our ranking model and the peers alone")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        raise UserError(f"--seeds: must be at least 2; found {arguments.seeds}")
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    name = arguments.dataset
    if arguments.split_seed is not None:
        source["split.seed"] = arguments.split_seed
        name += f", split seed {arguments.split_seed}"
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder) / "split", source, arguments.seeds)
    keep(OUTPUT, name, result)
    show_markdown(TABLES["comparison"](name))


def compare(place: Path, source: Values, seeds: int) -> Values:
    """Measure everything on one data set, in a scratch copy at `place`, our models with several seeds.

    Returns:
        ``models``: the metrics of each; ``deviations``: their standard deviation over the seeds, for ours; and what
        `evidence` returns, of ours by the users' means over the seeds.
    """
    dataset = source["data.dataset"]
    with contextlib.chdir(split_workspace(place, source)):
        train, test = Interactions.read(TRAIN), Interactions.read(TEST)
    held_out = HeldOut.of(test, train, QUANTILE)
    models: dict[str, Values] = {}
    users: dict[str, Users] = {}
    tuned, purposes = presets(dataset), list(PURPOSES[:1])
    if "split.seed" not in source:
        purposes = list(PURPOSES)
        models |= {"notebook, published": dict(PUBLISHED)} if dataset == "ml-1m" else {}
        plain = source | yaml.safe_load("\n".join(NOTEBOOK.split()).replace("=", ": "))
        untuned = {
            "notebook, reproduced": plain | {"train.mf.interaction": "batch_sum"},
            "notebook, corrected": plain | {"train.mf.interaction": "dot"},
            "softmax_mf": source | {"train.model": "softmax_mf"},
        }
        for name, values in untuned.items():
            models[name], users[name] = ours(place, values, held_out)
        workspace(place, plain | {"baselines.ease_max_items": 0})
        run_stage("baselines", place)
        models |= read_json(place / BASELINES)
        users |= UserResults.read(place / BASELINES_USERS).metrics
    deviations: dict[str, Values] = {}
    for name in (name for name in PEERS if name in tuned):
        models[name], users[name] = measure_peer(name, tuned[name], train, held_out, K)
    for purpose in (name for name in reversed(purposes) if name in tuned):
        values, name = source | tuned[purpose], f"our {purpose} model"
        runs = [ours(place, values | {"train.seed": 7 + seed}, held_out) for seed in range(seeds)]
        found = {key: [metrics[key] for metrics, _ in runs] for key, value in runs[0][0].items() if value is not None}
        models[name] = {"model": tuned[purpose]["train.model"]}
        models[name] |= {key: float(np.mean(numbers)) for key, numbers in found.items()}
        deviations[name] = {key: float(np.std(numbers, ddof=1)) for key, numbers in found.items()}
        users[name] = {key: np.mean([each[key] for _, each in runs], axis=0) for key in runs[0][1]}
    return {"models": models, "seeds": seeds, "deviations": deviations, **evidence(users, held_out)}


def evidence(users: Mapping[str, Users], held_out: HeldOut) -> Values:
    """Return what the results of the same users say about the models.

    Returns:
        ``intervals``: of each model and metric; ``best``: by metric the models of which none is known to be worse, the
        best first; ``difference``: our ranking model minus weighted EASE, by metric.
    """
    first = RIVALS[0]  # differences are of an earlier model minus a later one
    found = statistics(
        {first: users[first], **users}, (*ACCURACY, *ERRORS), np.bincount(held_out.ratings.users)[held_out.users]
    )
    intervals = {
        model: {metric: [each.low, each.high] for metric, each in row.items()} for model, row in found.estimates.items()
    }
    difference = found.differences[RIVALS]
    return {
        "intervals": intervals,
        "best": {metric: found.best(metric) for metric in (*ACCURACY, *ERRORS)},
        "difference": {metric: dataclasses.asdict(each) for metric, each in difference.items()},
    }


def ours(place: Path, values: Values, held_out: HeldOut) -> tuple[Values, Users]:
    """Train where split has run; return the metrics, with the stage's seconds, and each user's."""
    seconds = run_stage("train", workspace(place, values)).seconds
    factors = Factors.load(place / FACTORS)
    ranking, errors = evaluate(factors, held_out, K)
    print(f"{values['train.model']}: map {ranking.at('map'):.4f} {errors} {seconds:.0f} s", flush=True)
    return {**summary(ranking, errors), "seconds": seconds}, ranking.users


if __name__ == "__main__":
    run(main)
