"""Measure folding in: people left out of training against the same people trained, and write metrics/fold_in.json.

A tenth of the users is left out, the model is trained on the others, and they are folded in from their train ratings.
Their lists are measured on their test ratings, and so are those that they get from a model trained on everybody.
"""

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.comparison import QUANTILE, K, has_preset, interval, rounded
from benchmarks.measure import measure as run_command
from benchmarks.measure import workspace
from stages.lib.errors import run
from stages.lib.factors import Factors
from stages.lib.fold_in import fold_in
from stages.lib.heldout import HeldOut, evaluate
from stages.lib.params import load_params
from stages.lib.ratings import TEST, TRAIN, USERS, Ratings
from stages.lib.releases import RELEASES
from stages.lib.storage import atomic, read_table, write_table
from tools.experiments import data_source
from tools.preset import PURPOSES, preset

OUTPUT: Final = Path("metrics/fold_in.json")
SHARE: Final = 0.1  # of the users who are left out
SEED: Final = 7
Values = dict[str, Any]


def main() -> None:
    """Measure the default model and the presets on one data set and print the table."""
    parser = argparse.ArgumentParser(prog="make fold-in", description=__doc__)
    parser.add_argument("--dataset", choices=sorted(RELEASES), default="ml-100k")
    parser.add_argument("--archive", help="a path or address in place of the release's own")
    parser.add_argument("--sha256", help="its checksum; computed from a file where not given")
    arguments = parser.parse_args()
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), source)
    whole = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {}
    whole[arguments.dataset] = result
    with atomic(OUTPUT) as temporary:
        temporary.write_text(json.dumps(rounded(whole), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    show(arguments.dataset, result)


def compare(folder: Path, source: Values) -> Values:
    """Measure every kind of model on one data set.

    Args:
        folder: for two scratch copies.
        source: the parameters that select the data.

    Returns:
        By model what `measured` gives.
    """
    everybody, others = folder / "everybody", folder / "others"
    workspace(everybody, source)
    for name in ("fetch", "extract", "split"):
        run_command([sys.executable, "-m", f"stages.{name}"], everybody)
    shutil.copytree(everybody, others)
    with contextlib.chdir(everybody):
        train, test = Ratings.read(TRAIN), Ratings.read(TEST)
        users = read_table(USERS)
    people = left_out(train.shape[0])
    rest = np.setdiff1d(np.arange(train.shape[0], dtype=np.int32), people)
    for path, ratings in ((TRAIN, of_users(train, rest)), (TEST, of_users(test, rest))):
        columns = {"user": ratings.users, "movie": ratings.movies, "rating": ratings.values}
        write_table(others / path, pa.table(columns))
    write_table(others / USERS, users.take(pa.array(rest)))
    known = of_users(train, people)
    held_out = HeldOut.of(of_users(test, people), known, QUANTILE)
    purposes = [name for name in PURPOSES if has_preset(name, source["data.dataset"])]
    models = {"default": {}, **{name: preset(name, source["data.dataset"]) for name in purposes}}
    return {
        name: measured(everybody, others, {**source, **values}, people, known, held_out)
        for name, values in models.items()
    }


def left_out(users: int) -> NDArray[np.int32]:
    """Draw the users who are left out, ascending."""
    drawn = np.random.default_rng(SEED).permutation(users)[: round(users * SHARE)]
    return np.sort(drawn).astype(np.int32)


def of_users(ratings: Ratings, users: NDArray[np.int32]) -> Ratings:
    """Give the ratings of some users, ascending, who are numbered anew in their order."""
    kept = np.isin(ratings.users, users)
    numbers = np.searchsorted(users, ratings.users[kept]).astype(np.int32)
    return Ratings(numbers, ratings.movies[kept], ratings.values[kept], (len(users), ratings.shape[1]))


def measured(
    everybody: Path, others: Path, values: Values, people: NDArray[np.int32], known: Ratings, held_out: HeldOut
) -> Values:
    """Train with these people and without, and measure their lists.

    Args:
        everybody: the scratch copy with all users.
        others: the scratch copy without these people.
        values: parameters.
        people: their indices among all users.
        known: their train ratings.
        held_out: their test ratings.

    Returns:
        How many people have test ratings; mean recall trained and folded in, their ratio, and the 95 % interval over
        people of their difference; the same of the rating error; the seconds that folding one in took.
    """
    factors = {}
    for place in (everybody, others):
        workspace(place, values)
        run_command([sys.executable, "-m", "stages.train"], place)
        factors[place] = Factors.load(place / "models/factors.npz")
    with contextlib.chdir(others):
        params, trained_on = load_params().train, len(Ratings.read(TRAIN).values)
    start = time.perf_counter()
    folded = fold_in(factors[others], known.matrix(), params, trained_on)
    seconds = time.perf_counter() - start
    whole = factors[everybody]
    trained = dataclasses.replace(whole, users=whole.users[people], user_bias=whole.user_bias[people])
    (trained_ranking, trained_errors), (folded_ranking, folded_errors) = (
        evaluate(model, held_out, K) for model in (trained, folded)
    )
    # The scores of a ranking model are no ratings, so that their errors mean nothing.
    errors = {} if params.loss == "softmax" else {"trained": trained_errors["rmse"], "folded_in": folded_errors["rmse"]}
    means = [float(ranking.user_recall.mean()) for ranking in (trained_ranking, folded_ranking)]
    return {
        "people": len(held_out.users),
        "recall": {"trained": means[0], "folded_in": means[1]},
        "ratio": means[1] / means[0],
        "difference_interval_95": interval(folded_ranking.user_recall - trained_ranking.user_recall),
        "rmse": errors,
        "seconds_a_person": seconds / len(people),
    }


def show(dataset: str, result: Values) -> None:
    """Print the table."""
    table = Table(title=f"{dataset}: people left out of training, trained and folded in, K = {K}", title_justify="left")
    columns = ("people", "recall, trained", "folded in", "ratio", "rmse, trained", "folded in", "ms a person")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, found in result.items():
        recall, errors = (
            [f"{found[metric][way]:.4f}" if found[metric] else "-" for way in ("trained", "folded_in")]
            for metric in ("recall", "rmse")
        )
        milliseconds = f"{1000 * found['seconds_a_person']:.1f}"
        table.add_row(name, str(found["people"]), *recall, f"{found['ratio']:.3f}", *errors, milliseconds)
    console = Console()
    console = Console(width=None if console.is_terminal else 120)
    console.print(table)
    for name, found in result.items():
        low, high = found["difference_interval_95"]
        console.print(f"{name}: recall folded in minus trained, 95 % interval over people {low:+.4f} to {high:+.4f}")


if __name__ == "__main__":
    run(main)
