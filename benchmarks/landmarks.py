"""Measure `kernel` where fewer and fewer users stand for all, and at the size of ml-10m; write metrics/landmarks.json.

Models have the parameters tuned on the data set; the large size, of synthetic ratings, those of params.yaml.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import keep, measure, run_stage, split_workspace, workspace
from recommender.errors import run
from recommender.paths import METRICS, SPLIT_METRICS
from recommender.storage import read_json
from tools.console import show_markdown
from tools.docs import TABLES
from tools.experiments import data_source, source_parser
from tools.preset import presets

OUTPUT: Final = Path("metrics/landmarks.json")
SHARES: Final = (1.0, 0.5, 0.25, 0.1, 0.05)  # of the users
LARGE: Final = ("--users", "69878", "--items", "10677", "--ratings", "10000000")  # ml-10m
Values = dict[str, Any]


def main() -> None:
    """Measure one data set, and the large one."""
    arguments = source_parser("make landmarks", __doc__).parse_args()
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    tuned = presets(arguments.dataset)["ranking"]
    with tempfile.TemporaryDirectory() as folder:
        place, archive = Path(folder) / "split", Path(folder) / "large.zip"
        split_workspace(place, source)
        users = read_json(place / SPLIT_METRICS)["users"]
        result = {"softmax_mf": trained(place, source | {"train.model": "softmax_mf"})}
        for share in SHARES:
            values = tuned | {"train.model": "kernel", "train.kernel.max_users": max(round(share * users), 1)}
            result[f"kernel, {share:.0%} of the users"] = trained(place, source | values)
        measure([sys.executable, "-m", "recommender.data.synthetic", *LARGE, str(archive)], Path())
        source = data_source("ml-1m", str(archive), None)
        large = trained(split_workspace(Path(folder) / "large", source), source | {"train.model": "kernel"})
    keep(OUTPUT, arguments.dataset, result)
    keep(OUTPUT, "synthetic, the size of ml-10m", {"kernel": large})
    show_markdown(TABLES["landmarks"](arguments.dataset))


def trained(place: Path, values: Values) -> Values:
    """Train and evaluate where split has run; return the metrics, and the seconds and peak MiB of training."""
    workspace(place, values)
    training = run_stage("train", place)
    run_stage("evaluate", place)
    found = read_json(place / METRICS)
    print(f"{values['train.model']}: map {found['map']:.4f}, {training.seconds:.0f} s", flush=True)
    return found | {"seconds": training.seconds, "mib": round(training.memory)}


if __name__ == "__main__":
    run(main)
