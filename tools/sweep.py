"""Run every combination of some parameters as queued DVC experiments, and show the experiments, best first."""

import argparse
import csv
import re
import subprocess
import time
import uuid
from collections.abc import Collection
from typing import Final

from dvc.repo import Repo
from rapidfuzz import process

from recommender.errors import UserError, run
from recommender.params import MODELS
from recommender.params_file import RENAMED, flatten, load_params
from tools.compare import TOLERANCES, read_rules
from tools.console import call, show_table

METRICS: Final = ("map", "recall", "rmse")  # shown besides the one to sort by


def main() -> None:
    """Queue the combinations and run them, if there are any settings; show the experiments."""
    parser = argparse.ArgumentParser(prog="make sweep", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="section.key=value,value,...", help="none: only show")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    parser.add_argument("--sort", default="map", help="metric to sort by")
    arguments = parser.parse_args()
    rule = read_rules().get(arguments.sort.split(".")[-1])
    if rule is None:
        raise UserError(f"SORT: {arguments.sort} is not a metric; {TOLERANCES} lists them")
    if arguments.jobs < 1:
        raise UserError(f"JOBS: must be at least 1; found {arguments.jobs}")
    order = "desc" if rule.better == "higher" else "asc"
    known = [name for name, _ in flatten(load_params())]
    if not arguments.settings:
        show(arguments.sort, order, known)
        return
    parameters = check_settings(arguments.settings, known)
    names, reasons = run_all(arguments.settings, arguments.jobs)
    show(arguments.sort, order, parameters, names)
    print(f"\nTo remove these experiments: dvc exp remove {' '.join(names)}")
    if reasons:
        raise UserError(f"{len(reasons)} of {len(names)} experiments failed: {'; '.join(reasons)}")


def check_settings(settings: list[str], known: list[str]) -> list[str]:
    """Return the parameters' names; one that is unknown, or of a model that is not used, raises a `UserError`."""
    values = {}
    for setting in settings:
        if not re.fullmatch(r"[\w.]+=.+", setting):
            raise UserError(f"SET: {setting!r} is not section.key=value,value,...")
        name, _, values[name] = setting.partition("=")
    models = re.findall(r"\w+", values.get("train.model", load_params().train.model))
    for name in values:
        if name not in known:
            old = next((old for old in RENAMED if f"{name}.".startswith(f"{old}.")), None)
            hint = f"is not a parameter; did you mean {process.extractOne(name, known)[0]!r}?"
            raise UserError(f"SET: {old} is now {RENAMED[old]}" if old else f"SET: {name} {hint}")
        model = name.split(".")[1]
        if model in MODELS and model not in models:
            used = " or ".join(models)
            raise UserError(f"SET: {name} changes nothing while train.model is {used}; add train.model={model}")
    return list(values)


def run_all(settings: list[str], jobs: int) -> tuple[list[str], list[str]]:
    """Queue every combination and run the queue; return the experiments' names and what the failed ones ended in."""
    with Repo() as repo:
        queue = repo.experiments.celery_queue
        if list(queue.iter_queued()):
            raise UserError(
                "the queue has other experiments: run them with `dvc queue start`, or remove them with "
                "`dvc queue remove --queued`"
            )
        options = [part for setting in settings for part in ("--set-param", setting)]
        call("dvc", "exp", "run", "--queue", "--name", f"sweep-{uuid.uuid4().hex[:4]}", *options)
        names = [entry.name for entry in queue.iter_queued()]
        try:
            call("dvc", "exp", "run", "--run-all", "--jobs", str(jobs))
        except BaseException:
            call("dvc", "queue", "stop", "--kill", "--quiet")
            raise
        finally:
            # DVC's workers stop some seconds after the last experiment; a worker that is stopping would take the next
            # sweep's first experiment and leave the others.
            while queue.worker_status():
                time.sleep(1)
        failed = [entry.name for entry, _ in queue.iter_failed() if entry.name in names]
    return names, [f"{name}: {reason(name)}" for name in failed]


def reason(name: str) -> str:
    """Return the error line of a failed experiment, or where its whole output is."""
    logs = subprocess.run(["dvc", "queue", "logs", name], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return next(iter(re.findall("^error: (.+)$", logs.stdout, re.MULTILINE)), f"see `dvc queue logs {name}`")


def show(sort: str, order: str, parameters: list[str], names: Collection[str] = ()) -> None:
    """Print the commit and its experiments, or those with these names, with parameters and metrics that differ."""
    columns = "|".join(re.escape(name) for name in ("Experiment", "rev", *METRICS, sort, *parameters))
    options = ["--hide-workspace", "--hide-failed", "--hide-queued", "--only-changed", "--drop", f"^(?!({columns})$)"]
    command = ["dvc", "exp", "show", *options, "--sort-by", sort, "--sort-order", order, "--csv", "--precision", "4"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if shown.returncode:
        raise UserError(f"SORT: {shown.stderr.removeprefix('ERROR: ')}")
    header, *rows = csv.reader(shown.stdout.splitlines())
    if not header:
        print("This commit has no experiments: `make sweep` or `dvc exp run` makes some.")
        return
    # DVC's own table would cut parameters off at 80 columns.
    titles = [name.replace(".", ".\n") for name in header[2:]]
    cells = ([name or rev, *values] for name, rev, *values in rows if not (name and names) or name in names)
    show_table(f"The commit and its experiments, by {sort}", ["", *titles], cells)


if __name__ == "__main__":
    run(main)
