"""Measure the pipeline side by side with the plain way and with its peers, and write the tables.

Everything runs in scratch copies of the repository, in turn, and every figure is the median of several rounds, with the
lowest and the highest in brackets. Writes benchmarks/results.json and benchmarks/RESULTS.md.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.measure import Measurement, measure, workspace
from stages.lib.errors import UserError, run
from stages.lib.releases import RELEASES
from stages.lib.storage import atomic
from tools.experiments import data_source

RESULTS: Final = Path("benchmarks/results.json")
REPORT: Final = Path("benchmarks/RESULTS.md")
STAGES: Final = ("fetch", "extract", "split", "train", "evaluate", "baselines", "recommend", "report")
PEERS: Final = ("als", "bpr", "svd", "ease")
VERSIONS: Final = ("tensorflow", "keras", "numpy", "scipy", "pandas", "pyarrow", "dvc", "implicit", "scikit-surprise")
PYTHON: Final = [sys.executable, "-m"]
# How users and movies grow with the ratings, from the shape of ml-1m (6,040 and 3,706) to that of ml-25m (162,541
# and 59,047).
USERS: Final = (6040, math.log(162_541 / 6040) / math.log(25))
MOVIES: Final = (3706, math.log(59_047 / 3706) / math.log(25))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--dataset", choices=sorted(RELEASES), default="ml-100k")
    parser.add_argument("--archive", help="a path or address in place of the release's own")
    parser.add_argument("--sha256", help="its checksum; computed from a file where not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--growth", type=int, nargs="*", default=[100_000, 300_000], help="synthetic ratings, ascending"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1 or any(size < 10_000 for size in arguments.growth):
        raise UserError("--rounds must be at least 1, and each size of --growth at least 10000")
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        measured, facts = compare(Path(folder), source, arguments.rounds)
        growth = grow(Path(folder), arguments.growth)
    results = {
        "data": {"dataset": arguments.dataset, **facts.pop("data")},
        "machine": machine(),
        "rounds": arguments.rounds,
        **facts,
        "measured": {
            name: {"seconds": [round(run.seconds, 3) for run in runs], "mib": [round(run.memory) for run in runs]}
            for name, runs in measured.items()
        },
        "growth": growth,
    }
    with atomic(RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    tables = report(results)
    with atomic(REPORT) as temporary:
        temporary.write_text(as_markdown(results, tables), encoding="utf-8")
    for table in tables:
        table.show()


def machine() -> dict[str, Any]:
    """Describe the processor, the memory and the versions that the figures depend on."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "system": platform.system(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def compare(folder: Path, source: dict[str, Any], rounds: int) -> tuple[dict[str, list[Measurement]], dict[str, Any]]:
    """Measure everything on one data set, in turn, round by round.

    Args:
        folder: for scratch copies.
        source: the parameters that select the data.
        rounds: how many times.

    Returns:
        The runs of each command by name, and the figures that the commands printed or wrote.
    """
    measured: dict[str, list[Measurement]] = defaultdict(list)
    facts: dict[str, Any] = {}
    empty = folder / "empty"
    empty.mkdir()
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        measure(command, empty)
    (empty / "dvc.yaml").write_text("stages: {}\n")
    lazy, short = {"train.optimizer": "lazy_adam"}, {"train.epochs": 1}
    for number in tqdm(range(rounds), desc="rounds", disable=not sys.stderr.isatty()):
        place = workspace(folder / f"round-{number}", source)
        commands = {
            "dvc repro, from nothing": ["dvc", "repro"],
            "dvc repro, nothing to do": ["dvc", "repro"],
            "dvc repro, no stages": ["dvc", "repro"],
            "naive parse": [*PYTHON, "benchmarks.naive", "parse"],
            **{f"stage {name}": [*PYTHON, f"stages.{name}"] for name in STAGES},
            "naive train": [*PYTHON, "benchmarks.naive", "train"],
            "import of Keras": [sys.executable, "-c", "import stages.lib.backend"],
            "floor": [*PYTHON, "benchmarks.floor"],
            "naive evaluate": [*PYTHON, "benchmarks.naive", "evaluate"],
            "evaluators": [*PYTHON, "benchmarks.evaluation"],
            **{f"peer {name}": [*PYTHON, "benchmarks.peers", name] for name in PEERS},
        }
        for name, command in commands.items():
            measured[name].append(measure(command, empty if name == "dvc repro, no stages" else place))
        facts["adam"] = read(place, "evaluate")
        for name, values in (("one epoch", short), ("lazy_adam", lazy)):
            other = workspace(folder / f"{name}-{number}", {**source, **values})
            shutil.copytree(place / "data", other / "data", dirs_exist_ok=True)
            measured[f"stage train, {name}"].append(measure([*PYTHON, "stages.train"], other))
            if name == "lazy_adam":
                measure([*PYTHON, "stages.evaluate"], other)
                facts["lazy_adam"] = read(other, "evaluate")
            shutil.rmtree(other)
        split = read(place, "split")
        facts["data"] = {name: split[name] for name in ("ratings", "users", "movies")}
        facts["losses"] = {
            "stage train": read(place, "train"),
            **{name: last(measured, name) for name in ("naive train", "floor")},
        }
        shutil.rmtree(place)
    facts["naive_user"] = [json.loads(run.output)["seconds"] for run in measured["naive evaluate"]]
    facts["test_users"] = last(measured, "naive evaluate")["users"]
    facts["evaluators"] = [json.loads(run.output) for run in measured["evaluators"]]
    facts["floor"] = [median(json.loads(run.output)["seconds"]) for run in measured["floor"]]
    facts["peers"] = {name: last(measured, f"peer {name}") for name in PEERS}
    return measured, facts


def last(measured: dict[str, list[Measurement]], name: str) -> Any:  # noqa: ANN401 - JSON
    """Give what the last run of a command printed."""
    return json.loads(measured[name][-1].output)


def read(place: Path, name: str) -> Any:  # noqa: ANN401 - JSON
    """Read a metrics file of a workspace."""
    return json.loads((place / "metrics" / f"{name}.json").read_text(encoding="utf-8"))


def grow(folder: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Measure every stage once on synthetic archives of growing size, with the lazy optimizer and without EASE.

    Args:
        folder: for scratch copies.
        sizes: ratings.

    Returns:
        For each size its shape, and seconds and MiB of each stage.
    """
    rows = []
    for ratings in tqdm(sizes, desc="growth", disable=not sys.stderr.isatty()):
        users, movies = (round(start * (ratings / 1e6) ** power) for start, power in (USERS, MOVIES))
        archive = folder / f"{ratings}.zip"
        shape = ["--users", str(users), "--movies", str(movies), "--ratings", str(ratings)]
        runs = {"(make the archive)": measure([*PYTHON, "benchmarks.synthetic", *shape, str(archive)], Path())}
        source = data_source("ml-1m", str(archive), None)
        values = {**source, "train.optimizer": "lazy_adam", "baselines.ease_max_movies": 0}
        place = workspace(folder / f"growth-{ratings}", values)
        archive_used = place / "data" / "raw" / "archive.zip"
        for name in STAGES:
            runs[name] = measure([*PYTHON, f"stages.{name}"], place)
            if name == "fetch" and archive_used.exists():
                archive.unlink()
        rows.append(
            {
                "ratings": ratings,
                "users": users,
                "movies": movies,
                "seconds": {name: round(run.seconds, 2) for name, run in runs.items()},
                "mib": {name: round(run.memory) for name, run in runs.items()},
            }
        )
        shutil.rmtree(place)
    return rows


@dataclass
class Section:
    """One table of the report: for the terminal and as Markdown."""

    title: str
    header: list[str]
    note: str
    rows: list[list[str]] = field(default_factory=list)

    def show(self) -> None:
        """Print it."""
        table = Table(title=self.title, title_justify="left", caption=self.note, caption_justify="left")
        for position, name in enumerate(self.header):
            table.add_column(name, justify="right" if position else "left")
        for row in self.rows:
            table.add_row(*row)
        console = Console()
        Console(width=None if console.is_terminal else 120).print(table)

    def markdown(self) -> str:
        """Write it."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [" | ".join(row) for row in (self.header, rule, *self.rows)]
        return f"## {self.title}\n\n" + "".join(f"| {line} |\n" for line in lines) + f"\n{self.note}\n"


def spread(values: list[float], digits: int = 2) -> str:
    """Give median, lowest and highest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(slow: list[float], fast: list[float]) -> str:
    """Give the ratio of two measurements made in turn, round by round."""
    values = [a / b for a, b in zip(slow, fast, strict=True)]
    return spread(values, 0 if median(values) >= 100 else 1)


def total(*parts: list[float]) -> list[float]:
    """Add up measurements round by round."""
    return [sum(values) for values in zip(*parts, strict=True)]


def report(results: dict[str, Any]) -> list[Section]:
    """Lay out the tables.

    Args:
        results: as in results.json.

    Returns:
        The tables.
    """
    seconds = {name: runs["seconds"] for name, runs in results["measured"].items()}
    mib = {name: max(runs["mib"]) for name, runs in results["measured"].items()}
    users = results["test_users"]
    naive_evaluation = [value * users for value in results["naive_user"]]
    ours = [median(run["seconds"]["ours"]) for run in results["evaluators"]]
    implicit = [median(run["seconds"]["implicit"]) for run in results["evaluators"]]
    naive_total = total(seconds["naive parse"], seconds["naive train"], naive_evaluation)
    losses = results["losses"]
    plain = Section(
        "The plain way and this pipeline",
        ["", "plain, s", "here, s", "ratio"],
        "Whole processes with start-up, but for the two evaluations in one process, and the plain evaluation, which is "
        f"scaled from 60 users to all {users:,}. The plain total has no baselines, no recommendations and no report; "
        f"`dvc repro` has. Last epoch's loss and validation loss: plain {losses['naive train']['loss']:.6f} and "
        f"{losses['naive train']['val_loss']:.6f}, here {losses['stage train']['loss']:.6f} and "
        f"{losses['stage train']['val_loss']:.6f}.",
    )
    for name, slow, fast in (
        ("parse and split", seconds["naive parse"], total(seconds["stage extract"], seconds["stage split"])),
        ("train", seconds["naive train"], seconds["stage train"]),
        ("evaluate, in a process", naive_evaluation, ours),
        ("evaluate, whole stage", naive_evaluation, seconds["stage evaluate"]),
        ("everything", naive_total, seconds["dvc repro, from nothing"]),
    ):
        plain.rows.append([name, spread(slow), spread(fast), ratio(slow, fast)])
    epochs = losses["stage train"]["epochs"]
    train, one = seconds["stage train"], seconds["stage train, one epoch"]
    epoch = [(a - b) / max(epochs - 1, 1) for a, b in zip(train, one, strict=True)]
    rest = [a - epochs * b - c for a, b, c in zip(train, epoch, seconds["import of Keras"], strict=True)]
    where = Section(
        "Where the train stage's time goes",
        ["", "seconds"],
        "An epoch is the difference between the stage with all epochs and with one, divided. In plain C it is the same "
        "arithmetic with nothing around it, and without validation.",
        [
            ["start-up: TensorFlow and Keras", spread(seconds["import of Keras"])],
            ["reading, building, compiling, saving", spread(rest)],
            [f"an epoch with validation, of {epochs}", spread(epoch)],
            ["an epoch in plain C", spread(results["floor"])],
        ],
    )
    other = Section(
        "Other comparisons",
        ["", "theirs, s", "here, s", "ratio"],
        "Both evaluators measure the same factors in one process; implicit's gives precision, MAP, NDCG and AUC, this "
        "one those but AUC, and recall, MRR, hit rate, coverage, RMSE and MAE, at every list length.",
        [
            ["implicit's evaluator", spread(implicit, 3), spread(ours, 3), ratio(implicit, ours)],
            [
                "`dvc repro` without stages; with nothing to do",
                spread(seconds["dvc repro, no stages"]),
                spread(seconds["dvc repro, nothing to do"]),
                ratio(seconds["dvc repro, no stages"], seconds["dvc repro, nothing to do"]),
            ],
        ],
    )
    metrics = ["precision", "recall", "map", "ndcg", "rmse"]
    peers = Section(
        "Models on the same split, measured by the same evaluator",
        ["", "process, s", "peak MiB", *metrics],
        "Train and, for the peers, evaluate in one process. Settings: the defaults of benchmarks/peers.py, not tuned.",
    )
    for name, key, values in (
        ("this model", "stage train", results["adam"]),
        ("this model, lazy_adam", "stage train, lazy_adam", results["lazy_adam"]),
        ("implicit ALS", "peer als", results["peers"]["als"]),
        ("implicit BPR", "peer bpr", results["peers"]["bpr"]),
        ("Surprise SVD", "peer svd", results["peers"]["svd"]),
        ("EASE", "peer ease", results["peers"]["ease"]),
    ):
        cells = ["-" if values[metric] is None else f"{values[metric]:.4f}" for metric in metrics]
        peers.rows.append([name, spread(seconds[key]), str(mib[key]), *cells])
    return [plain, where, other, peers, *growth_tables(results["growth"])]


def growth_tables(rows: list[dict[str, Any]]) -> list[Section]:
    """Lay out seconds and memory of each stage by size, and the exponent of growth.

    Args:
        rows: from `grow`.

    Returns:
        No table without rows, else one.
    """
    if not rows:
        return []
    table = Section(
        "Growth: seconds and peak MiB of each stage on synthetic ratings",
        ["", *(f"{row['ratings']:,}" for row in rows), "exponent"],
        "Shapes: "
        + "; ".join(f"{row['ratings']:,} ratings of {row['movies']:,} movies by {row['users']:,} users" for row in rows)
        + ". Trained with lazy_adam, without EASE, one run each. The exponent is the slope of a line through the "
        "logarithms of seconds and ratings; for evaluate, baselines, recommend and report of seconds and users times "
        "movies.",
    )
    for name in rows[0]["seconds"]:
        cells = [f"{row['seconds'][name]:.1f} s, {row['mib'][name]:,}" for row in rows]
        scored = name in ("evaluate", "baselines", "recommend", "report")
        sizes = [row["users"] * row["movies"] if scored else row["ratings"] for row in rows]
        table.rows.append([name, *cells, slope(sizes, [row["seconds"][name] for row in rows])])
    table.rows.append(["all stages", *(f"{sum(row['seconds'][name] for name in STAGES):.1f} s" for row in rows), ""])
    return [table]


def slope(sizes: list[int], seconds: list[float]) -> str:
    """Give the least-squares slope of log(seconds) over log(size)."""
    if len(sizes) < 2:
        return "-"
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return f"{rise / sum((a - middle_x) ** 2 for a in x):.2f}"


def as_markdown(results: dict[str, Any], tables: list[Section]) -> str:
    """Write the report.

    Args:
        results: as in results.json.
        tables: from `report`.

    Returns:
        Markdown text.
    """
    data, computer = results["data"], results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in computer["versions"].items())
    head = (
        f"# Benchmark: {data['dataset']}\n\n"
        f"{data['ratings']:,} ratings of {data['movies']:,} movies by {data['users']:,} users, on "
        f"{computer['processor']}, {computer['cores']} cores, {computer['memory_gib']} GiB, {computer['system']}. "
        f"{versions}.\n\nWritten by `make bench`: median (lowest to highest) of {results['rounds']} rounds, each "
        "measuring everything in turn.\n"
    )
    return "\n".join([head, *(table.markdown() for table in tables)])


if __name__ == "__main__":
    run(main)
