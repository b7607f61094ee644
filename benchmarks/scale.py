"""Run every stage in parts on synthetic ratings, and show what each takes: make scale-demo.

Adds the run to benchmarks/scale.json and writes benchmarks/RESULTS.md again. With engines, times training alone with
each of them, in turn.
"""

import argparse
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from benchmarks.__main__ import ITEMS, PYTHON, REPORT, RESULTS, SCALE, USERS, machine, report
from benchmarks.measure import Measurement, measure, run_stage, workspace
from recommender.errors import run
from recommender.paths import FACTORS, METRICS, STAGES
from recommender.storage import checksum, read_json, write_json, write_text
from tools.console import show_markdown
from tools.experiments import data_source

PIECE: Final = 5_000_000  # ratings that are drawn at once
MEASURED_USERS: Final = 10_000  # about as many are measured, and get recommendations
LAYOUT: Final = "ml-32m"


def main() -> None:
    """Measure one size and show all that are known."""
    parser = argparse.ArgumentParser(prog="make scale-demo", description=__doc__)
    parser.add_argument("--ratings", type=int, default=5_000_000)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--engines", nargs="*", default=[], help="values of CLUSTER to time training alone with")
    parser.add_argument("--rounds", type=int, default=3, help="of these")
    arguments = parser.parse_args()
    users, items = (round(start * (arguments.ratings / 1e6) ** power) for start, power in (USERS, ITEMS))
    share = min(1.0, round(MEASURED_USERS / users, 4))
    values = {
        "split.method": "hash",
        "train.mf.optimizer": "lazy_adam",
        "train.mf.global_mean": True,
        "train.mf.epochs": arguments.epochs,
        "train.mf.batch_size": arguments.batch_size,
        "train.mf.learning_rate": 5e-3,
        "evaluate.user_share": share,
        "recommend.user_share": share,
        "baselines.ease_max_items": 0,
        "engine.parts": arguments.parts,
    }
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as folder:
        archive, place = Path(folder) / "archive.zip", Path(folder) / "place"
        shape = ["--users", str(users), "--items", str(items), "--ratings", str(arguments.ratings)]
        pieces = str(-(-arguments.ratings // PIECE))
        synthetic = [
            *PYTHON,
            "recommender.data.synthetic",
            *shape,
            "--pieces",
            pieces,
            "--layout",
            LAYOUT,
            str(archive),
        ]
        measure(synthetic, Path())
        workspace(place, data_source(LAYOUT, str(archive), None) | values)
        size = {"ratings": arguments.ratings, "users": users, "items": items}
        result = size | {"parts": arguments.parts, "epochs": arguments.epochs, "machine": machine()}
        known = read_json(SCALE)
        if arguments.engines:
            for name in ("fetch", "extract", "split"):
                run_stage(name, place)
            known["engines"] = result | _engines(place, arguments.engines, arguments.rounds)
        else:
            result |= _stages(place) | {"cluster": os.environ.get("CLUSTER", ""), "user_share": share}
            runs = [result, *(each for each in known["runs"] if not _same(each, result))]
            known["runs"] = sorted(runs, key=lambda each: (each["ratings"], each["parts"], each["cluster"]))
    write_json(SCALE, known)
    text = report(read_json(RESULTS))
    write_text(REPORT, text)
    show_markdown(text[text.index("## In parts") :])


def _stages(place: Path) -> dict[str, Any]:
    """Run all stages; return what each takes, the most that was on disk, and metrics."""
    disk = Disk(place)
    runs = {name: run_stage(name, place) for name in tqdm(STAGES, desc="stages", disable=None)}
    metrics = read_json(place / METRICS)
    stages = {name: _taken(each) for name, each in runs.items()}
    return {"stages": stages, "disk_gib": disk.peak() / 2**30, "rmse": metrics["rmse"], "map": metrics["map"]}


def _taken(each: Measurement) -> dict[str, float]:
    return {"seconds": each.seconds, "mib": round(each.memory), "written_mib": round(each.written)}


def _engines(place: Path, names: list[str], rounds: int) -> dict[str, Any]:
    """Time training here and elsewhere, in turn; its files must be the same. Return the seconds of each round."""
    runs: dict[str, list[Measurement]] = {name: [] for name in ("", *names)}
    digests = set()
    for _ in tqdm(range(rounds), desc="rounds", disable=None):
        for name, found in runs.items():
            found.append(run_stage("train", place, {"CLUSTER": name}))
            digests.add(checksum(place / FACTORS))
    if len(digests) > 1:
        raise RuntimeError(f"training in {', '.join(runs)} had {len(digests)} results")
    took = {
        name or "this process": {"seconds": [each.seconds for each in found], "cpu": [each.processor for each in found]}
        for name, found in runs.items()
    }
    return {"took": took, "load": os.getloadavg()[0]}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("ratings", "parts", "epochs", "cluster"))


class Disk(threading.Thread):
    """Watches how much a folder's disk holds more than at the start."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.most, self.ended = folder, 0, threading.Event()
        self.before = shutil.disk_usage(folder).used
        self.start()

    def run(self) -> None:
        """Look every quarter of a second."""
        while not self.ended.wait(0.25):
            self.most = max(self.most, shutil.disk_usage(self.folder).used - self.before)

    def peak(self) -> int:
        """Stop, and return the most bytes."""
        self.ended.set()
        self.join()
        return self.most


if __name__ == "__main__":
    run(main)
