"""Print the table of this run's metrics beside the baselines' and the last committed run's."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stages.lib.errors import run
from stages.lib.metrics import COLUMNS, LOWER_IS_BETTER
from stages.lib.params import load_params
from stages.lib.storage import read_json

METRICS = Path("metrics")
REPORT = Path("reports/index.html")
THIS = "this model"
COMMITTED = "last committed"


def main() -> None:
    """Print the table of the metrics in the workspace."""
    params = load_params()  # DVC passes over what no stage reads, such as a name with a slip in it
    split, this = read_json(METRICS / "split.json"), read_json(METRICS / "evaluate.json")
    before = committed(METRICS / "evaluate.json")
    shown = this | dict.fromkeys(LOWER_IS_BETTER) if params.train.loss == "softmax" else this  # no ratings, no errors
    rows = {THIS: shown}
    if before is not None and before != this:
        rows[COMMITTED] = before
    rows |= read_json(METRICS / "baselines.json")
    show("{ratings:,} ratings of {movies:,} movies by {users:,} users".format(**split), rows)
    print(f"\nThe data, the model and its recommendations on one page: {REPORT}")


def committed(path: Path) -> dict[str, Any] | None:
    """Give the metrics in the last commit.

    Args:
        path: of a JSON file, from the top of the repository.

    Returns:
        Its content in HEAD; None where there is none.
    """
    command = ["git", "show", f"HEAD:./{path.as_posix()}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    try:
        found = json.loads(result.stdout)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def show(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one line a model; arrows show where this model has gone since the last commit, if that is among the rows.

    Args:
        title: above the table.
        rows: the metrics of each model; those that it lacks are shown as a dash.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    before = rows.get(COMMITTED, {})
    for name, metrics in rows.items():
        cells = (_cell(column, metrics.get(column), before.get(column) if name == THIS else None) for column in COLUMNS)
        table.add_row(name.replace("_", " "), *cells)
    console = Console()
    # A pipe has no width of its own; the default of 80 columns would cut the table.
    Console(width=None if console.is_terminal else 120).print(table)


def _cell(column: str, value: float | None, before: float | None) -> str:
    if value is None:
        return "-"
    if before is None or value == before:
        return f"{value:.4f}"
    better = (value < before) == (column in LOWER_IS_BETTER)
    return f"[{'green' if better else 'red'}]{'↑' if value > before else '↓'} {value:.4f}[/]"


if __name__ == "__main__":
    run(main)
