"""Print this run's metrics beside those of the last commit and of the baselines."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from recommender.errors import run
from recommender.evaluation.metrics import COLUMNS, ERRORS
from recommender.params_file import load_params
from recommender.paths import BASELINES, METRICS, REPORT, SPLIT_METRICS
from recommender.storage import read_json
from tools.console import show_table

THIS: Final = "this model"
COMMITTED: Final = "last committed"


def main() -> None:
    """Print the table of the metrics in the workspace."""
    section = load_params().train.section  # also finds misspelled parameters, which DVC ignores
    this, before = read_json(METRICS), committed(METRICS)
    rows = {THIS: this if section.scores == "ratings" else this | dict.fromkeys(ERRORS)}
    if before not in (None, this):
        rows[COMMITTED] = before
    counts = "{ratings:,} ratings of {items:,} movies by {users:,} users".format(**read_json(SPLIT_METRICS))
    show(counts, rows | read_json(BASELINES))
    print(f"\nThe data, the model and its recommendations on one page: {REPORT}")


def committed(path: Path) -> Any:  # noqa: ANN401 - JSON
    """Return the content of a JSON file in the last commit, or None."""
    command = ["git", "show", f"HEAD:./{path.as_posix()}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    return None if result.returncode else json.loads(result.stdout)


def show(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the metrics of each model; arrows show how this one has changed since the last commit, if that is there."""
    table = []
    for name, metrics in rows.items():
        before = rows.get(COMMITTED, {}) if name == THIS else {}
        cells = [_cell(column, metrics.get(column), before.get(column)) for column in COLUMNS]
        table.append([name.replace("_", " "), *cells])
    show_table(title, ["", *COLUMNS], table)


def _cell(column: str, value: float | None, before: float | None) -> str:
    if value is None:
        return "-"
    if before is None or value == before:
        return f"{value:.4f}"
    better = (value < before) == (column in ERRORS)
    return f"[{'green' if better else 'red'}]{'↑' if value > before else '↓'} {value:.4f}[/]"


if __name__ == "__main__":
    run(main)
