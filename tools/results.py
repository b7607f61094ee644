"""Print this run's metrics beside those of the last commit and of the baselines."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from recommender.data.movielens import RELEASES
from recommender.errors import run
from recommender.evaluation.lists import JUDGED, LISTS
from recommender.evaluation.metrics import COLUMNS, ERRORS
from recommender.evaluation.results import UserResults
from recommender.evaluation.statistics import Statistics, as_text
from recommender.params_file import load_params
from recommender.paths import BASELINES, BASELINES_USERS, METRICS, PARAMS, REPORT, SPLIT_METRICS, USER_METRICS
from recommender.storage import read_json
from tools.console import show_table

THIS: Final = "this model"
COMMITTED: Final = "last committed"


def main() -> None:
    """Print the table of the metrics in the workspace."""
    train = load_params().train
    rows = {THIS: read_json(METRICS)}
    before, note = json.loads(committed(METRICS) or "null"), ""
    if before not in (None, rows[THIS]):
        differences = other_data(yaml.safe_load(committed(PARAMS)), yaml.safe_load(PARAMS.read_text(encoding="utf-8")))
        if differences:
            note = f"The last commit is not shown: it was measured on other data, with {', '.join(differences)}\n"
        else:
            rows[COMMITTED] = before
    counts = "{ratings:,} ratings of {items:,} items by {users:,} users".format(**read_json(SPLIT_METRICS))
    if rows[THIS]:
        baselines = read_json(BASELINES)
        names = {THIS: train.model} | {name: name for name in baselines}
        found = UserResults.read(USER_METRICS, BASELINES_USERS).of_models(names).statistics((*COLUMNS, *LISTS))
        title = f"{counts}; models and baselines learned from {' and '.join(train.learned_from)}"
        show(title, rows | baselines, COLUMNS, found)
        show("What kind of lists", rows | baselines, (*LISTS, "gini"), found)
        print(
            "Below a metric is its 95 % interval over users; * are the best and those that are not known to be worse."
        )
    else:
        print(f"{counts}; nothing is measured, because the model has learned all of them (train.final_fit: all)")
    print(f"{note}The data, the model and its recommendations on one page: {REPORT}")


def committed(path: Path) -> str:
    """Return the text of a file in the last commit, empty where there is none."""
    command = ["git", "show", f"HEAD:./{path.as_posix()}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - no shell


def other_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the settings of data and split in an earlier version of the parameters that differ now.

    Metrics of runs that differ here are measured on other ratings, and cannot be compared.
    """
    then, here = (
        {f"{section}.{name}": value for section in ("data", "split") for name, value in params[section].items()}
        for params in (before, now)
    )
    for values in (then, here):
        values.pop("data.archive")  # where the bytes come from; the checksum says which
        own = values.pop("data.own", {})
        if values["data.dataset"] == "own":
            values |= {f"data.own.{name}": own[name] for name in own if name not in ("ratings", "items")}
        else:
            values["data.sha256"] = values["data.sha256"] or RELEASES[values["data.dataset"]].sha256
    return [f"{name}: {then.get(name)}" for name in then if then[name] != here.get(name)]


def show(title: str, rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str], found: Statistics) -> None:
    """Print metrics of each model; arrows show how this one has changed since the last commit, if that is there."""
    table = []
    for name, metrics in rows.items():
        before = rows.get(COMMITTED, {}) if name == THIS else {}
        cells = [_cell(column, metrics.get(column), before.get(column)) for column in columns]
        for place, column in enumerate(columns):
            if estimate := found.estimates.get(name, {}).get(column):
                best = "*" if column in (*COLUMNS, *JUDGED) and name in found.best(column) else " "
                cells[place] += f"{best}\n{as_text(estimate, 3)} "
        table.append([name.replace("_", " "), *cells])
    show_table(title, ["", *columns], table)


def _cell(column: str, value: float | None, before: float | None) -> str:
    if value is None:
        return "-"
    if before is None or value == before:
        return f"{value:.4f}"
    better = (value < before) == (column in ERRORS)
    return f"[{'green' if better else 'red'}]{'↑' if value > before else '↓'} {value:.4f}[/]"


if __name__ == "__main__":
    run(main)
