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
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.measure import Measurement, measure, run_stage, workspace
from recommender.data.movielens import RELEASES
from recommender.errors import run
from recommender.paths import METRICS, SPLIT_METRICS, STAGES, TRAIN_METRICS
from recommender.storage import checksum, read_json, write_json, write_text
from tools.console import show_markdown
from tools.experiments import data_source, source_parser

RESULTS: Final = Path("benchmarks/results.json")
SCALE: Final = Path("benchmarks/scale.json")  # what `make scale-demo` has measured
REPORT: Final = Path("benchmarks/RESULTS.md")
TEMPLATE: Final = Path(__file__).with_name("report.md.jinja")
VERSIONS: Final = ("tensorflow", "keras", "numpy", "scipy", "pandas", "pyarrow", "dvc", "implicit", "scikit-surprise")
PEERS: Final = {"als": "implicit ALS", "bpr": "implicit BPR", "svd": "Surprise SVD", "ease_liked": "EASE"}
PYTHON: Final = [sys.executable, "-m"]
NAIVE: Final = [*PYTHON, "benchmarks.naive"]
REPRO: Final = ["dvc", "repro"]
TRAINING: Final = {
    "stock Keras": [*NAIVE, "train"],
    "tuned Keras": [*NAIVE, "train-tuned"],
    "stage train": [*PYTHON, "stages.train"],
}
SCORING: Final = ("evaluate", "baselines", "recommend", "report")  # the stages that grow with users times items
# How users and items grow with the ratings, from the shape of ml-1m (6,040 and 3,706) to that of ml-32m (200,948
# and 87,585).
USERS: Final = (6040, math.log(200_948 / 6040) / math.log(32))
ITEMS: Final = (3706, math.log(87_585 / 3706) / math.log(32))
Values = dict[str, Any]
Seconds = NDArray[np.float64]  # of one command in each round


def main() -> None:
    """Measure and report."""
    parser = source_parser("make bench", __doc__, tuple(RELEASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--growth", type=int, nargs="*", default=[100_000, 300_000], help="synthetic ratings, from 100000"
    )
    arguments = parser.parse_args()
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        results = {"dataset": arguments.dataset, "machine": machine(), "rounds": arguments.rounds}
        results |= compare(Path(folder), source, arguments.rounds)
        results["growth"] = [grow(Path(folder), size) for size in tqdm(arguments.growth, desc="growth", disable=None)]
    write_json(RESULTS, results)
    text = report(results)
    write_text(REPORT, text)
    show_markdown(text)


def machine() -> Values:
    """Describe the processor, the memory and the versions that the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
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
    took: Values = {}
    for name, runs in measured.items():
        took[name] = {"seconds": [run.seconds for run in runs], "mib": max(round(run.memory) for run in runs)}
        took[name]["printed"] = [json.loads(run.output) for run in runs if run.output.startswith("{")]
    return {"metrics": metrics, "measured": took}


def grow(folder: Path, ratings: int) -> Values:
    """Measure every stage once on a synthetic archive, with the lazy optimizer and without EASE.

    And extract once more, of the same ratings as a file of the user's own.
    """
    users, items = (round(start * (ratings / 1e6) ** power) for start, power in (USERS, ITEMS))
    archive = folder / f"{ratings}.zip"
    shape = ["--users", str(users), "--items", str(items), "--ratings", str(ratings), "--layout", "ml-32m"]
    runs = {"(make the archive)": measure([*PYTHON, "recommender.data.synthetic", *shape, str(archive)], Path())}
    values = {"train.mf.optimizer": "lazy_adam", "baselines.ease_max_items": 0}
    place = workspace(folder / f"growth-{ratings}", data_source("ml-32m", str(archive), None) | values)
    runs |= {name: run_stage(name, place) for name in STAGES}
    shutil.rmtree(place)
    own = {"dataset": "own", "own.ratings": f"{archive}#ml-32m/ratings.csv", "own.sha256": checksum(archive)}
    place = workspace(folder / f"own-{ratings}", {f"data.{name}": value for name, value in own.items()})
    run_stage("fetch", place)
    runs["extract, own data"] = run_stage("extract", place)
    shutil.rmtree(place)
    archive.unlink()
    took = {"seconds": {name: run.seconds for name, run in runs.items()}}
    took |= {"mib": {name: round(run.memory) for name, run in runs.items()}}
    return {"ratings": ratings, "users": users, "items": items, **took}


def report(results: Values) -> str:
    """Return the report on what results.json contains, as Markdown."""
    measured, epochs = results["measured"], results["metrics"]["train"]["epochs"]
    seconds = {name: np.array(runs["seconds"]) for name, runs in measured.items()}
    evaluators, plain = (measured[name]["printed"] for name in ("evaluators", "naive evaluate"))
    for name in ("ours", "implicit"):
        seconds[f"evaluator {name}"] = np.array([np.median(run["seconds"][name]) for run in evaluators])
    seconds["plain evaluation"] = np.array([run["seconds"] * run["users"] for run in plain])
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(undefined=strict, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        results,
        scale=read_json(SCALE)["runs"],
        engines=read_json(SCALE)["engines"],
        seconds=seconds,
        epoch={name: (seconds[name] - seconds[f"{name}, one epoch"]) / max(epochs - 1, 1) for name in TRAINING},
        peers=PEERS,
        stages=list(STAGES),
        scoring=SCORING,
        spread=spread,
        array=np.array,
        ratio=ratio,
        exponent=exponent,
        scale_exponent=scale_exponent,
        peak_ratio=peak_ratio,
        equally_cut=equally_cut,
        total=lambda size: sum(size["seconds"].get(stage, 0) for stage in STAGES),
        commas="{:,}".format,
    )


def spread(values: Seconds, digits: int = 2) -> str:
    """Return median, lowest and highest."""
    return f"{np.median(values):.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def ratio(slow: Seconds, fast: Seconds) -> str:
    """Return the ratio of two measurements made in turn, round by round."""
    return spread(slow / fast, 0 if np.median(slow / fast) >= 100 else 1)


def exponent(stage: str, sizes: list[Values]) -> str:
    """Return the least-squares slope of a stage's log(seconds) over the logarithm of what it grows with."""
    counts = [size["users"] * size["items"] if stage in SCORING else size["ratings"] for size in sizes]
    return slope(counts, [size["seconds"][stage] for size in sizes])


def scale_exponent(stage: str, runs: list[Values]) -> str:
    """Return the slope of a stage's seconds over what it grows with, from a smaller run with the same rows a part."""
    runs = equally_cut(runs)
    scored = [each["user_share"] * each["users"] * each["items"] for each in runs]
    counts = scored if stage in ("evaluate", "baselines", "recommend") else [each["ratings"] for each in runs]
    return slope(counts, [each["stages"][stage]["seconds"] for each in runs])


def peak_ratio(stage: str, runs: list[Values]) -> str:
    """Return by how much the peak of a process grows between the runs of `equally_cut`."""
    peaks = [each["stages"][stage]["mib"] for each in equally_cut(runs)]
    return f"{peaks[-1] / peaks[0]:.2f}" if len(peaks) > 1 else "-"


def equally_cut(runs: list[Values]) -> list[Values]:
    """Return the largest run in one process, after the largest smaller one with as many ratings a part if there is."""

    def cut(run: Values) -> tuple[float, int]:
        return run["ratings"] / run["parts"], run["epochs"]

    runs = [each for each in runs if not each["cluster"]]
    return [each for each in runs if cut(each) == cut(runs[-1])][-2:]


def slope(counts: list[float], seconds: list[float]) -> str:
    """Return the least-squares slope of the logarithm of seconds over that of counts."""
    return f"{np.polyfit(np.log(counts), np.log(seconds), 1)[0]:.2f}" if len(counts) > 1 else "-"


if __name__ == "__main__":
    run(main)
