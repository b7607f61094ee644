"""Measure the default model, the tuned ones and the baselines under every way to split; write metrics/splits.json."""

import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import keep, run_stage, split_workspace, workspace
from recommender.data.splitting import METHODS
from recommender.errors import run
from recommender.paths import BASELINES, METRICS, SPLIT_METRICS
from recommender.storage import read_json
from tools.console import show_markdown
from tools.docs import TABLES
from tools.experiments import data_source, source_parser
from tools.preset import PURPOSES, presets

OUTPUT: Final = Path("metrics/splits.json")
Values = dict[str, Any]


def main() -> None:
    """Measure everything on one data set and print the table."""
    arguments = source_parser("make splits", __doc__).parse_args()
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            found[method] = measured(Path(folder) / method, source | {"split.method": method})
            keep(OUTPUT, arguments.dataset, found)
    show_markdown(TABLES["splits"](arguments.dataset))


def measured(place: Path, source: Values) -> Values:
    """Return, of one way to split, what split counts and the metrics of each model."""
    tuned = presets(source["data.dataset"])
    split_workspace(place, source)
    counts = read_json(place / SPLIT_METRICS)  # now: below, a workspace gets the repository's own files
    models = {}
    chosen: dict[str, Values] = {"default": {}}
    chosen |= {name: tuned[name] for name in PURPOSES if name in tuned}
    for name, values in chosen.items():
        workspace(place, source | values)
        for stage in ("train", "evaluate"):
            run_stage(stage, place)
        models[f"our {name} model"] = read_json(place / METRICS) | ({"model": values["train.model"]} if values else {})
        print(f"{source['split.method']}, {name}: map {models[f'our {name} model']['map']:.4f}", flush=True)
    run_stage("baselines", place)
    return {"split": counts, "models": models | read_json(place / BASELINES)}


if __name__ == "__main__":
    run(main)
