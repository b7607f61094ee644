"""Measure the pipeline side by side with the plain way and with its peers, and write the tables.

Everything runs in scratch copies of the repository, in turn, and every figure is the median of several rounds, with the
lowest and the highest in brackets. Writes benchmarks/results.json and benchmarks/RESULTS.md.
"""

import json
import math
import os
import platform
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown
from tqdm import tqdm

from benchmarks.measure import Measurement, measure, run_stage, source_parser, workspace
from recommender.errors import UserError, run
from recommender.paths import METRICS, SPLIT_METRICS, STAGES, TRAIN_METRICS
from recommender.storage import read_json, write_json, write_text
from tools.console import PIPE_WIDTH
from tools.experiments import data_source

RESULTS: Final = Path("benchmarks/results.json")
REPORT: Final = Path("benchmarks/RESULTS.md")
VERSIONS: Final = ("tensorflow", "keras", "numpy", "scipy", "pandas", "pyarrow", "dvc", "implicit", "scikit-surprise")
PEERS: Final = {"als": "implicit ALS", "bpr": "implicit BPR", "svd": "Surprise SVD", "ease_liked": "EASE"}
PYTHON: Final = [sys.executable, "-m"]
NAIVE: Final = [*PYTHON, "benchmarks.naive"]
REPRO: Final = ["dvc", "repro"]
TRAINING: Final = {
    "stock Keras": [*NAIVE, "train"],
    "tuned Keras": [*NAIVE, "train", "--tuned"],
    "stage train": [*PYTHON, "stages.train"],
}
SCORING: Final = ("evaluate", "baselines", "recommend", "report")  # the stages that grow with users times items
# How users and items grow with the ratings, from the shape of ml-1m (6,040 and 3,706) to that of ml-25m (162,541
# and 59,047).
USERS: Final = (6040, math.log(162_541 / 6040) / math.log(25))
ITEMS: Final = (3706, math.log(59_047 / 3706) / math.log(25))
Values = dict[str, Any]
Seconds = NDArray[np.float64]  # of one command in each round


def main() -> None:
    """Measure and report."""
    parser = source_parser("make bench", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="*", default=[100_000, 300_000], help="synthetic ratings")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or any(size < 100_000 for size in arguments.growth):
        raise UserError("--rounds must be at least 1, and each size of --growth at least 100000")
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "dataset": arguments.dataset,
            "machine": machine(),
            "rounds": arguments.rounds,
            **compare(Path(folder), source, arguments.rounds),
            "growth": [grow(Path(folder), size) for size in tqdm(arguments.growth, desc="growth", disable=None)],
        }
    write_json(RESULTS, results)
    text = report(results)
    write_text(REPORT, text)
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(Markdown(text))


def machine() -> Values:
    """Describe the processor, the memory and the versions that the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return {
        "processor": next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor()),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }


def compare(folder: Path, source: Values, rounds: int) -> Values:
    """Measure everything on one data set, in turn, round by round, in scratch copies under a folder.

    Returns:
        ``measured``: what each command took and printed; ``metrics``: what stages wrote in the last round.
    """
    measured: dict[str, list[Measurement]] = defaultdict(list)
    metrics: Values = {}
    empty = folder / "empty"
    empty.mkdir()
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        measure(command, empty)
    (empty / "dvc.yaml").write_text("stages: {}\n")
    commands = {
        "dvc repro, from nothing": REPRO,
        "dvc repro, nothing to do": REPRO,
        "naive parse": [*NAIVE, "parse"],
        **{f"stage {name}": [*PYTHON, f"stages.{name}"] for name in STAGES},
        **TRAINING,
        "import of Keras": [sys.executable, "-c", "import recommender.models.core.backend"],
        "naive evaluate": [*NAIVE, "evaluate"],
        "evaluators": [*PYTHON, "benchmarks.evaluation"],
        **{f"peer {name}": [*PYTHON, "benchmarks.peers", name] for name in PEERS},
    }
    for _ in tqdm(range(rounds), desc="rounds", disable=None):
        place = workspace(folder / "round", source)
        short = workspace(folder / "short", source | {"train.mf.epochs": 1})
        lazy = workspace(folder / "lazy", source | {"train.mf.optimizer": "lazy_adam"})
        for name, command in commands.items():
            measured[name].append(measure(command, place))
        measured["dvc repro, no stages"].append(measure(REPRO, empty))
        for other in (short, lazy):
            shutil.copytree(place / "data", other / "data", dirs_exist_ok=True)
        for name, command in TRAINING.items():
            measured[f"{name}, one epoch"].append(measure(command, short))
        measured["stage train, lazy_adam"].append(run_stage("train", lazy))
        run_stage("evaluate", lazy)
        metrics = {path.stem: read_json(place / path) for path in (SPLIT_METRICS, TRAIN_METRICS, METRICS)}
        metrics["lazy_adam"] = read_json(lazy / METRICS)
        for each in (place, short, lazy):
            shutil.rmtree(each)
    return {
        "metrics": metrics,
        "measured": {
            name: {
                "seconds": [run.seconds for run in runs],
                "mib": max(round(run.memory) for run in runs),
                "printed": [json.loads(run.output) for run in runs if run.output.startswith("{")],
            }
            for name, runs in measured.items()
        },
    }


def grow(folder: Path, ratings: int) -> Values:
    """Measure every stage and `dvc repro` once on a synthetic archive, with the lazy optimizer and without EASE."""
    users, items = (round(start * (ratings / 1e6) ** power) for start, power in (USERS, ITEMS))
    archive = folder / f"{ratings}.zip"
    shape = ["--users", str(users), "--items", str(items), "--ratings", str(ratings)]
    runs = {"(make the archive)": measure([*PYTHON, "recommender.data.synthetic", *shape, str(archive)], Path())}
    values = {"train.mf.optimizer": "lazy_adam", "baselines.ease_max_items": 0}
    place = workspace(folder / f"growth-{ratings}", data_source("ml-1m", str(archive), None) | values)
    runs |= {name: run_stage(name, place) for name in STAGES}
    shutil.rmtree(place)
    archive.unlink()
    return {
        "ratings": ratings,
        "users": users,
        "items": items,
        "seconds": {name: run.seconds for name, run in runs.items()},
        "mib": {name: round(run.memory) for name, run in runs.items()},
    }


def section(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> str:
    """Return a table of the report as Markdown."""
    lines = (header, ["---", *["---:"] * (len(header) - 1)], *rows)
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{note}\n"


def spread(values: Seconds, digits: int = 2) -> str:
    """Return median, lowest and highest."""
    return f"{np.median(values):.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def ratio(slow: Seconds, fast: Seconds) -> str:
    """Return the ratio of two measurements made in turn, round by round."""
    return spread(slow / fast, 0 if np.median(slow / fast) >= 100 else 1)


def report(results: Values) -> str:
    """Return the report on what results.json contains, as Markdown."""
    data, computer, measured = results["metrics"]["split"], results["machine"], results["measured"]
    versions = ", ".join(f"{name} {version}" for name, version in computer["versions"].items())
    seconds = {name: np.array(runs["seconds"]) for name, runs in measured.items()}
    for name in ("ours", "implicit"):
        printed = measured["evaluators"]["printed"]
        seconds[f"evaluator {name}"] = np.array([np.median(run["seconds"][name]) for run in printed])
    return "\n".join(
        (
            f"# Benchmark: {results['dataset']}\n\n"
            f"{data['ratings']:,} ratings of {data['items']:,} items by {data['users']:,} users, on "
            f"{computer['processor']}, {computer['cores']} cores, {computer['memory_gib']} GiB, {computer['system']}. "
            f"{versions}.\n\nWritten by `make bench`: median (lowest to highest) of {results['rounds']} rounds, each "
            "measuring everything in turn.\n",
            plain(results, seconds),
            training(results["metrics"]["train"]["epochs"], seconds),
            others(seconds),
            peers(results, seconds),
            growth(results["growth"]),
        )
    )


def plain(results: Values, seconds: dict[str, Seconds]) -> str:
    """Lay out what the plain way takes beside the stages."""
    measured = results["measured"]
    evaluated = measured["naive evaluate"]["printed"]
    users = evaluated[-1]["users"]
    evaluation = np.array([run["seconds"] for run in evaluated]) * users
    rows = [
        ("parse and split", seconds["naive parse"], seconds["stage extract"] + seconds["stage split"]),
        ("train, stock Keras", seconds["stock Keras"], seconds["stage train"]),
        ("train, tuned Keras", seconds["tuned Keras"], seconds["stage train"]),
        ("evaluate, in a process", evaluation, seconds["evaluator ours"]),
        ("evaluate, whole stage", evaluation, seconds["stage evaluate"]),
    ]
    for name in ("stock Keras", "tuned Keras"):
        everything = seconds["naive parse"] + seconds[name] + evaluation
        rows.append((f"everything, {name}", everything, seconds["dvc repro, from nothing"]))
    losses = {name: measured[name]["printed"][-1] for name in ("stock Keras", "tuned Keras")}
    losses["here"] = results["metrics"]["train"]
    return section(
        "The plain way and this pipeline",
        ["", "plain, s", "here, s", "ratio"],
        [[name, spread(slow), spread(fast), ratio(slow, fast)] for name, slow, fast in rows],
        "Whole processes with start-up, but for the two evaluations in one process, and the plain evaluation, which is "
        f"scaled from 60 users to all {users:,}. The plain total has no baselines, no recommendations and no report; "
        "`dvc repro` has. Last epoch's loss and validation loss: "
        + "; ".join(f"{name} {loss['loss']:.6f} and {loss['val_loss']:.6f}" for name, loss in losses.items())
        + ".",
    )


def training(epochs: int, seconds: dict[str, Seconds]) -> str:
    """Lay out what whole processes and single epochs take with Keras' own `fit` and in the train stage."""
    whole = [seconds[name] for name in TRAINING]
    single = [(seconds[name] - seconds[f"{name}, one epoch"]) / max(epochs - 1, 1) for name in TRAINING]
    rows = [
        [name, *(spread(part) for part in (stock, tuned, ours)), ratio(stock, ours), ratio(tuned, ours)]
        for name, (stock, tuned, ours) in (("whole process", whole), (f"an epoch with validation, of {epochs}", single))
    ]
    start = spread(seconds["import of Keras"])
    return section(
        "Training: Keras' own fit and the train stage",
        ["seconds", "stock Keras", "tuned Keras", "here", "stock / here", "tuned / here"],
        [*rows, ["start-up: TensorFlow and Keras", start, start, start, "", ""]],
        "The same model from the same start over the same batches. Stock Keras is `compile` without further arguments; "
        "tuned Keras has `jit_compile=True, steps_per_execution=64`. An epoch is the difference between all epochs and "
        "one, divided.",
    )


def others(seconds: dict[str, Seconds]) -> str:
    """Lay out implicit's evaluator beside this one, and what DVC itself takes."""
    implicit, ours = seconds["evaluator implicit"], seconds["evaluator ours"]
    bare, idle = seconds["dvc repro, no stages"], seconds["dvc repro, nothing to do"]
    return section(
        "Other comparisons",
        ["", "theirs, s", "here, s", "ratio"],
        [
            ["implicit's evaluator", spread(implicit, 3), spread(ours, 3), ratio(implicit, ours)],
            ["`dvc repro` without stages; with nothing to do", spread(bare), spread(idle), ratio(bare, idle)],
        ],
        "Both evaluators measure the same factors in one process; implicit's gives precision, MAP, NDCG and AUC, this "
        "one those but AUC, and recall, MRR, hit rate, coverage, RMSE and MAE, at every list length.",
    )


def peers(results: Values, seconds: dict[str, Seconds]) -> str:
    """Lay out time, memory and metrics of this model and of its peers."""
    measured, metrics = results["measured"], results["metrics"]
    columns = ["precision", "recall", "map", "ndcg", "rmse"]
    rows = []
    for name, command, values in (
        ("this model", "stage train", metrics["evaluate"]),
        ("this model, lazy_adam", "stage train, lazy_adam", metrics["lazy_adam"]),
        *((title, f"peer {name}", measured[f"peer {name}"]["printed"][-1]) for name, title in PEERS.items()),
    ):
        cells = ["-" if values[column] is None else f"{values[column]:.4f}" for column in columns]
        rows.append([name, spread(seconds[command]), str(measured[command]["mib"]), *cells])
    return section(
        "Models on the same split, measured by the same evaluator",
        ["", "process, s", "peak MiB", *columns],
        rows,
        "Train and, for the peers, evaluate in one process. Settings: those that searches start with, not tuned.",
    )


def growth(sizes: list[Values]) -> str:
    """Lay out seconds and memory of each stage by size, and the exponent of growth; nothing without sizes."""
    if not sizes:
        return ""
    rows = []
    for name in ("(make the archive)", *STAGES):
        cells = [f"{size['seconds'][name]:.1f} s, {size['mib'][name]:,}" for size in sizes]
        counts = [size["users"] * size["items"] if name in SCORING else size["ratings"] for size in sizes]
        rows.append([name, *cells, slope(counts, [size["seconds"][name] for size in sizes])])
    rows.append(["all stages", *(f"{sum(size['seconds'][name] for name in STAGES):.1f} s" for size in sizes), ""])
    shapes = (f"{size['ratings']:,} ratings of {size['items']:,} items by {size['users']:,} users" for size in sizes)
    return section(
        "Growth: seconds and peak MiB of each stage on synthetic ratings",
        ["", *(f"{size['ratings']:,}" for size in sizes), "exponent"],
        rows,
        f"Shapes: {'; '.join(shapes)}. Trained with lazy_adam, without EASE, one run each. The exponent is "
        "the slope of a line through the logarithms of seconds and ratings; for "
        f"{', '.join(SCORING)} of seconds and users times items.",
    )


def slope(sizes: list[int], seconds: list[float]) -> str:
    """Return the least-squares slope of log(seconds) over log(size)."""
    return f"{np.polyfit(np.log(sizes), np.log(seconds), 1)[0]:.2f}" if len(sizes) > 1 else "-"


if __name__ == "__main__":
    run(main)
