"""Print the table of this run's metrics beside the baselines'."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stages.lib.errors import run
from stages.lib.storage import read_json

METRICS = Path("metrics")
COLUMNS = ("precision", "recall", "map", "ndcg", "mrr", "hit_rate", "coverage", "rmse", "mae")


def main() -> None:
    """Print the table of the metrics in the workspace."""
    split = read_json(METRICS / "split.json")
    rows = {"this model": read_json(METRICS / "evaluate.json"), **read_json(METRICS / "baselines.json")}
    title = "{ratings:,} ratings of {movies:,} movies by {users:,} users".format(**split)
    show(title, rows)


def show(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one line a model.

    Args:
        title: above the table.
        rows: the metrics of each model; those that it lacks are shown as a dash.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, metrics in rows.items():
        cells = (metrics.get(column) for column in COLUMNS)
        table.add_row(name.replace("_", " "), *("-" if cell is None else f"{cell:.4f}" for cell in cells))
    console = Console()
    # A pipe has no width of its own; the default of 80 columns would cut the table.
    Console(width=None if console.is_terminal else 120).print(table)


if __name__ == "__main__":
    run(main)
