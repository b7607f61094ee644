"""Measure folding in: users left out of training against the same users trained, and write metrics/fold_in.json.

A tenth of the users is left out, the model is trained on the others, and they are folded in from their train ratings.
Their lists are measured on their test ratings, and so are those that they get from a model trained on everybody. What
the others lose, who are trained in both, is what fewer users to learn from cost and not what folding in does.
"""

import contextlib
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.comparison import QUANTILE, K
from benchmarks.measure import keep, run_stage, split_workspace, workspace
from recommender.data.interactions import Interactions
from recommender.errors import run
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.statistics import statistics
from recommender.paths import FACTORS, FOLD_IN, TEST, TRAIN, USERS
from recommender.ranking import fold_in
from recommender.ranking.factors import Factors
from recommender.ranking.learned import Learned
from recommender.storage import read_table, write_table
from tools.console import show_markdown
from tools.docs import TABLES
from tools.experiments import data_source, source_parser
from tools.preset import PURPOSES, presets

OUTPUT: Final = Path("metrics/fold_in.json")
SHARE: Final = 0.1  # of the users who are left out
SEED: Final = 7
Values = dict[str, Any]


def main() -> None:
    """Measure the presets and the other models, as in params.yaml, on one data set and print the table."""
    arguments = source_parser("make fold-in", __doc__).parse_args()
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), source)
    keep(OUTPUT, arguments.dataset, result)
    show_markdown(TABLES["fold-in"](arguments.dataset))


def compare(folder: Path, source: Values) -> Values:
    """Measure each model on one data set, in two scratch copies under a folder: see `measured`."""
    everybody, others = split_workspace(folder / "everybody", source), folder / "others"
    shutil.copytree(everybody, others)
    with contextlib.chdir(everybody):
        train, test, users = Interactions.read(TRAIN), Interactions.read(TEST), read_table(USERS)
    people = left_out(train.num_users)
    rest = np.setdiff1d(np.arange(train.num_users, dtype=np.int32), people)
    for path, part in ((TRAIN, of_users(train, rest)), (TEST, of_users(test, rest))):
        write_table(others / path, pa.table({"user": part.users, "item": part.items, "rating": part.ratings}))
    write_table(others / USERS, users.take(pa.array(rest)))
    known, staying = of_users(train, people), of_users(train, rest)
    learned = Learned(staying.item_counts(), np.ones(len(people), dtype=bool))
    held_out = HeldOut.of(of_users(test, people), known, QUANTILE, learned)
    of_staying = HeldOut.of(of_users(test, rest), staying, QUANTILE)
    tuned = presets(source["data.dataset"])
    models: list[Values] = [{"train.model": name} for name in ("mf", "softmax_mf")]
    models += [tuned[name] for name in PURPOSES if name in tuned]
    return {
        values["train.model"]: measured(everybody, others, source | values, people, known, held_out, of_staying)
        for values in models
    }


def left_out(num_users: int) -> NDArray[np.int32]:
    """Draw the users who are left out, ascending."""
    drawn = np.random.default_rng(SEED).permutation(num_users)[: round(num_users * SHARE)]
    return np.sort(drawn).astype(np.int32)


def of_users(ratings: Interactions, users: NDArray[np.int32]) -> Interactions:
    """Return the ratings of some users, ascending, renumbered in their order."""
    kept = np.isin(ratings.users, users)
    numbers = np.searchsorted(users, ratings.users[kept]).astype(np.int32)
    return Interactions(numbers, ratings.items[kept], ratings.ratings[kept], (len(users), ratings.num_items))


def measured(
    everybody: Path,
    others: Path,
    values: Values,
    people: NDArray[np.int32],
    known: Interactions,
    held_out: HeldOut,
    of_staying: HeldOut,
) -> Values:
    """Train at `everybody` with these people and at `others` without, and measure their lists.

    `people` are their indices among all users, `known` their train ratings, and `held_out` has their test ratings;
    `of_staying` has those of the others.

    Returns:
        How many people have test ratings; mean recall trained and folded in, their ratio, and the 95 % interval over
        people of their difference; the same of the rating error; by how much the recall of the others changes without
        these people; the seconds that folding one in took.
    """
    for place in (everybody, others):
        run_stage("train", workspace(place, values))
    whole, rest = Factors.load(everybody / FACTORS), Factors.load(others / FACTORS)
    start = time.perf_counter()
    folded = fold_in.fold_in(rest, fold_in.load(others / FOLD_IN), known.matrix())
    seconds = time.perf_counter() - start
    trained = some_users(whole, people)
    staying = some_users(whole, np.setdiff1d(np.arange(len(whole.user_factors), dtype=np.int32), people))
    recall_of_staying = [evaluate(model, of_staying, K)[0].at("recall") for model in (staying, rest)]
    found = {name: evaluate(model, held_out, K) for name, model in (("trained", trained), ("folded_in", folded))}
    recall = {name: ranking.users["recall"] for name, (ranking, _) in found.items()}
    users = {name: {"recall": recall[name]} for name in ("folded_in", "trained")}
    gain = statistics(users, ["recall"], np.bincount(held_out.ratings.users)[held_out.users]).differences[
        "folded_in", "trained"
    ]["recall"]
    return {
        "people": len(held_out.users),
        "recall": {name: values.mean() for name, values in recall.items()},
        "ratio": recall["folded_in"].mean() / recall["trained"].mean(),
        "difference_interval_95": [gain.low, gain.high],
        "rmse": {name: errors["rmse"] for name, (_, errors) in found.items() if whole.predicts_ratings},
        "others_change": recall_of_staying[1] - recall_of_staying[0],
        "seconds_a_person": seconds / len(people),
    }


def some_users(factors: Factors, users: NDArray[np.int32]) -> Factors:
    """Return the factors of some of the users and of all items."""
    return dataclasses.replace(factors, user_factors=factors.user_factors[users], user_bias=factors.user_bias[users])


if __name__ == "__main__":
    run(main)
