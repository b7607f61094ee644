"""Measure our models and the tuned peers on the test part, over several seeds, and write metrics/comparison.json.

Parameters come from presets.yaml, where they were chosen on a validation part; test ratings are read here for the first
time. Peers and baselines learn from the same ratings as our models, and one evaluator measures all.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.stats
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.measure import measure as run_command
from benchmarks.measure import workspace
from benchmarks.peers import measured
from stages.baselines import item_means, popularity
from stages.lib.errors import UserError, run
from stages.lib.factors import Factors
from stages.lib.heldout import HeldOut, evaluate, summary
from stages.lib.metrics import rating_errors
from stages.lib.ratings import TEST, TRAIN, Ratings
from stages.lib.releases import RELEASES
from stages.lib.storage import atomic
from stages.lib.topk import top_k
from tools.experiments import data_source
from tools.notebook import PUBLISHED
from tools.preset import PRESETS, PURPOSES, preset

OUTPUT: Final = Path("metrics/comparison.json")
PEERS: Final = ("ease_all", "ease_liked", "ease_weighted", "als", "bpr", "svd")
K, QUANTILE, DAMPING = 25, 0.85, 10.0
RESAMPLES: Final = 10_000
COLUMNS: Final = ("precision", "recall", "map", "ndcg", "mrr", "hit_rate", "coverage", "rmse", "seconds")
Values = dict[str, Any]


def main() -> None:
    """Measure everything on one data set and print the table."""
    parser = argparse.ArgumentParser(prog="make comparison", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dataset", choices=sorted(RELEASES), default="ml-100k")
    parser.add_argument("--archive", help="a path or address in place of the release's own")
    parser.add_argument("--sha256", help="its checksum; computed from a file where not given")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        raise UserError(f"--seeds: must be at least 2; found {arguments.seeds}")
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder) / "split", source, arguments.seeds)
    whole = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {}
    whole[arguments.dataset] = result
    with atomic(OUTPUT) as temporary:
        temporary.write_text(json.dumps(rounded(whole), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    show(arguments.dataset, result)


def compare(place: Path, source: Values, seeds: int) -> Values:
    """Measure everything on one data set.

    Args:
        place: for a scratch copy.
        source: the parameters that select the data.
        seeds: how many seeds of our models.

    Returns:
        ``models``: the metrics of each; ``deviations``: their standard deviation over the seeds, for ours;
        ``difference``: our ranking model's MAP, the mean over the seeds, minus the best peer's, with its interval.
    """
    dataset = source["data.dataset"]
    workspace(place, source)
    for name in ("fetch", "extract", "split"):
        run_command([sys.executable, "-m", f"stages.{name}"], place)
    with contextlib.chdir(place):
        train, held_out = Ratings.read(TRAIN), HeldOut.of(Ratings.read(TEST), Ratings.read(TRAIN), QUANTILE)
    models: dict[str, Values] = {}
    if dataset == "ml-1m":
        models["notebook, published"] = dict(PUBLISHED)
    for name, values in (("notebook, reproduced", {"train.interaction": "batch_sum"}), ("notebook, corrected", {})):
        models[name], _ = ours(place, source, values, held_out)
    models.update(simple(train, held_out))
    average_precision: dict[str, NDArray[np.float64]] = {}
    tuned = [name for name in (*PEERS, *PURPOSES) if has_preset(name, dataset)]
    peers = [name for name in PEERS if name in tuned]
    for name in peers:
        models[name], average_precision[name] = measured(name, preset(name, dataset), train, held_out, K)
    deviations = {}
    for name in (name for name in reversed(PURPOSES) if name in tuned):
        runs = [
            ours(place, source, {**preset(name, dataset), "train.seed": 7 + seed}, held_out) for seed in range(seeds)
        ]
        # The scores of a ranking model are no ratings, so that their errors mean nothing.
        kept = [key for key in runs[0][0] if name == "rating" or key not in ("rmse", "mae")]
        found = {key: [metrics[key] for metrics, _ in runs] for key in kept}
        models[f"our {name} model"] = {key: float(np.mean(found[key])) for key in kept}
        deviations[f"our {name} model"] = {key: float(np.std(found[key], ddof=1)) for key in kept}
        average_precision[f"our {name} model"] = np.mean([average for _, average in runs], axis=0)
    best = max(peers, key=lambda name: float(models[name]["map"]))
    gain = average_precision["our ranking model"] - average_precision[best]
    return {
        "models": models,
        "seeds": seeds,
        "deviations": deviations,
        "difference": {"peer": best, "map": float(gain.mean()), "interval_95": interval(gain)},
    }


def has_preset(name: str, dataset: str) -> bool:
    """Whether parameters were chosen for a model on a data set."""
    return dataset in yaml.safe_load(PRESETS.read_text(encoding="utf-8")).get(name, {})


def ours(
    place: Path, source: Values, values: Values, held_out: HeldOut
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Train with the train stage and measure.

    Args:
        place: the scratch copy, where split has run.
        source: the parameters that select the data.
        values: further parameters.
        held_out: the test part.

    Returns:
        The metrics, with the seconds of the whole stage; each user's average precision.
    """
    workspace(place, {**source, **values})
    run_ = run_command([sys.executable, "-m", "stages.train"], place)
    ranking, errors = evaluate(Factors.load(place / "models/factors.npz"), held_out, K)
    print(f"{values}: map {ranking.map[-1]:.4f} rmse {errors['rmse']:.4f} {run_.seconds:.0f} s", flush=True)
    return {**summary(ranking, errors), "seconds": run_.seconds}, ranking.average_precision


def simple(train: Ratings, held_out: HeldOut) -> dict[str, Values]:
    """Measure popularity and the damped item mean."""
    found = {}
    for name in ("popularity", "item_mean"):
        start = time.perf_counter()
        scores = popularity(train) if name == "popularity" else item_means(train, DAMPING)
        seconds = time.perf_counter() - start

        def same_for_all(users: NDArray[np.int32], _: Any, row: NDArray[np.float64] = scores) -> NDArray[np.float64]:  # noqa: ANN401
            return np.tile(row, (len(users), 1))

        lists, _ = top_k(held_out.users, held_out.seen, K, same_for_all)
        test = held_out.ratings
        errors = rating_errors(scores[test.movies], test.values) if name == "item_mean" else None
        found[name] = {**summary(held_out.measure(lists), errors), "seconds": seconds}
    return found


def interval(gain: NDArray[np.float64]) -> list[float]:
    """Give the 95 % interval of a mean over users by a paired percentile bootstrap (Efron and Tibshirani, 1993, 13.3).

    Args:
        gain: (users,) the difference of a metric.

    Returns:
        Its lower and upper end.
    """
    found = scipy.stats.bootstrap(
        (gain,), np.mean, n_resamples=RESAMPLES, batch=100, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(found.low), float(found.high)]


def rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Round every number to six decimals."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, 6) if isinstance(value, float) else value


def show(dataset: str, result: Values) -> None:
    """Print the table."""
    table = Table(title=f"{dataset}, test part, K = {K}", title_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, metrics in result["models"].items():
        digits = [1 if column == "seconds" else 4 for column in COLUMNS]
        cells = (metrics.get(column) for column in COLUMNS)
        table.add_row(
            name.replace("_", " "),
            *("-" if cell is None else f"{cell:.{places}f}" for cell, places in zip(cells, digits, strict=True)),
        )
    console = Console()
    console = Console(width=None if console.is_terminal else 130)
    console.print(table)
    found = result["difference"]
    low, high = found["interval_95"]
    console.print(
        f"MAP of our ranking model, mean of {result['seeds']} seeds, minus {found['peer'].replace('_', ' ')}: "
        f"{found['map']:+.4f}, 95 % interval over users {low:+.4f} to {high:+.4f}"
    )


if __name__ == "__main__":
    run(main)
