"""Run the pipeline for every combination of some parameters, as queued DVC experiments, and show the sorted results."""

import argparse
import difflib
import re
import subprocess
import sys
import uuid
from typing import Any

import dvc.api
from dvc.repo import Repo
from rich.console import Console
from rich.table import Table

from stages.lib.errors import UserError, run
from stages.lib.metrics import LOWER_IS_BETTER
from stages.lib.params import flat, load_params

SUCCESS = "Success"
METRICS = ("map", "precision", "recall", "ndcg", "rmse")


def main() -> None:
    """Queue the grid, run it, and print its table."""
    parser = argparse.ArgumentParser(prog="make sweep", description=__doc__)
    parser.add_argument("settings", nargs="+", metavar="section.key=value,value,...")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    parser.add_argument("--sort", choices=METRICS, default="map", help="metric to sort by, best first")
    arguments = parser.parse_args()
    known = [name for name, _ in flat(load_params())]
    for setting in arguments.settings:
        if not re.fullmatch(r"[\w.]+=.+", setting):
            raise UserError(f"SET: {setting!r} is not section.key=value,value,...")
        parameter = setting.split("=")[0]
        if parameter not in known:
            close = difflib.get_close_matches(parameter, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "params.yaml holds them all"
            raise UserError(f"SET: {parameter} is not a parameter; {hint}")
    if arguments.jobs < 1:
        raise UserError(f"JOBS: must be at least 1; found {arguments.jobs}")
    with Repo() as repo:
        if list(repo.experiments.celery_queue.iter_queued()):
            raise UserError("the queue holds other experiments; run them with `dvc queue start` or remove them first")
    name = f"sweep-{uuid.uuid4().hex[:6]}"
    options = [part for setting in arguments.settings for part in ("--set-param", setting)]
    _dvc("exp", "run", "--queue", "--name", name, *options)
    try:
        _dvc("exp", "run", "--run-all", "--jobs", str(arguments.jobs))
    finally:
        # The workers wait for more to do, and would outlive this command.
        _dvc("queue", "stop", "--kill")
    rows = results(name)
    show(rows, [setting.split("=")[0] for setting in arguments.settings], arguments.sort)
    done = [str(row["Experiment"]) for row in rows if row["State"] == SUCCESS]
    failed = [str(row["Experiment"]) for row in rows if row["State"] != SUCCESS]
    commands = (("dvc exp remove", done), ("dvc queue remove", failed))
    print("\nTo forget them: " + " && ".join(" ".join((command, *names)) for command, names in commands if names))
    if failed:
        reasons = "; ".join(f"{name}: {reason(name)}" for name in failed)
        raise UserError(f"{len(failed)} of {len(rows)} experiments failed: {reasons}")


def reason(name: str) -> str:
    """Give the line that a failed experiment ended in, or say where all that it printed is."""
    logs = subprocess.run(["dvc", "queue", "logs", name], capture_output=True, text=True, check=False)  # noqa: S603, S607
    errors = [line.removeprefix("error: ") for line in logs.stdout.splitlines() if line.startswith("error: ")]
    return errors[-1] if errors else f"see `dvc queue logs {name}`"


def results(name: str) -> list[dict[str, Any]]:
    """Give parameters and metrics of every experiment of a sweep.

    Args:
        name: what their names begin with.

    Returns:
        One row an experiment, as `dvc.api.exp_show` gives them.
    """
    return [row for row in dvc.api.exp_show() if str(row.get("Experiment") or "").startswith(name)]


def show(rows: list[dict[str, Any]], parameters: list[str], sort: str) -> None:
    """Print the table, best first.

    Args:
        rows: from `results`.
        parameters: the ones that differ.
        sort: the metric to sort by.
    """

    def value(row: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - a metric or parameter
        if row["State"] != SUCCESS and name in METRICS:  # what is there is the commit's that it began from
            return None
        return row.get(name, row.get(f"metrics/evaluate.json:{name}", row.get(f"params.yaml:{name}")))

    def order(row: dict[str, Any]) -> float:
        found = value(row, sort)
        if found is None:
            return float("inf")
        return float(found) if sort in LOWER_IS_BETTER else -float(found)

    table = Table(title=f"{len(rows)} experiments, by {sort}", title_justify="left")
    for position, column in enumerate(("experiment", *parameters, *METRICS)):
        table.add_column(column, justify="right" if position else "left")
    for row in sorted(rows, key=order):
        metrics = (value(row, name) for name in METRICS)
        cells = ["-" if found is None else f"{found:.4f}" for found in metrics]
        # `exp_show` gives integers as floats.
        chosen = (value(row, name) for name in parameters)
        texts = (f"{found:g}" if isinstance(found, float) else str(found) for found in chosen)
        table.add_row(str(row["Experiment"]), *texts, *cells)
    console = Console()
    Console(width=None if console.is_terminal else 120).print(table)


def _dvc(*command: str) -> None:
    if subprocess.run(["dvc", *command], stdout=sys.stderr, check=False).returncode:  # noqa: S603, S607 - no shell
        raise UserError(f"`dvc {' '.join(command)}` failed: see above")


if __name__ == "__main__":
    run(main)
