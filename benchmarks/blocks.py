"""Measure `mf` trained in blocks against `lazy_adam` on random batches, over seeds; write metrics/blocks.json."""

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.measure import keep, run_stage, split_workspace, workspace
from recommender.errors import run
from recommender.paths import METRICS
from recommender.storage import read_json
from tools.console import show_markdown
from tools.docs import TABLES
from tools.experiments import data_source, source_parser

OUTPUT: Final = Path("metrics/blocks.json")
PARTS: Final = (1, 4, 8)
MEASURED: Final = ("rmse", "map", "precision", "ndcg")
# The default model from the mean rating, in more epochs, as in the other comparisons of optimizers.
SETTINGS: Final[dict[str, Any]] = {
    "split.method": "hash",
    "train.mf.optimizer": "lazy_adam",
    "train.mf.global_mean": True,
    "train.mf.epochs": 8,
}


def main() -> None:
    """Measure one data set and print the table."""
    parser = source_parser("make blocks", __doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256) | SETTINGS
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for parts in PARTS:
            values, found = source | {"engine.parts": parts}, []
            place = split_workspace(Path(folder) / str(parts), values)
            for seed in range(1, arguments.seeds + 1):
                workspace(place, values | {"train.seed": seed})
                for stage in ("train", "evaluate"):
                    run_stage(stage, place)
                found.append(read_json(place / METRICS))
            result[str(parts)] = {name: float(np.mean([each[name] for each in found])) for name in MEASURED}
            keep(OUTPUT, arguments.dataset, {"seeds": arguments.seeds, "parts": result})
    show_markdown(TABLES["blocks"](arguments.dataset))


if __name__ == "__main__":
    run(main)
