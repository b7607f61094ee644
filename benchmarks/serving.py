"""Measure what a request of the exported model costs, and compare its lists with ours; write metrics/serving.json.

Beside it: this repository's own lists, and FAISS's flat index of the same item vectors, which is exact as well. One
request asks for one user's list, the other for those of a thousand, all without the items that the users have rated.
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import keep, run_stage, split_workspace, workspace
from recommender.errors import run
from recommender.models.core.backend import tf
from recommender.paths import SERVING
from recommender.ranking.recommender import Recommender
from recommender.ranking.topk import Items, Users, stored_entries
from tools.console import show_markdown
from tools.docs import TABLES
from tools.experiments import data_source, source_parser
from tools.preset import PURPOSES, presets

OUTPUT: Final = Path("metrics/serving.json")
K: Final = 10
MANY: Final = 1000  # users in a request
ROUNDS: Final = {1: 200, MANY: 7}
SEED: Final = 7
Lists = Callable[[Users], NDArray[Any]]  # of users, by item index or id: (n, k)
Values = dict[str, Any]


def main() -> None:
    """Measure the default model and the tuned ones on one data set and print the table."""
    arguments = source_parser("make serving", __doc__).parse_args()
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    tuned = presets(arguments.dataset)
    result: Values = {"cores": os.cpu_count()}
    result["versions"] = {name: version(name) for name in ("tensorflow", "faiss-cpu", "numpy")}
    with tempfile.TemporaryDirectory() as folder:
        place = split_workspace(Path(folder), source)
        for values in ({"train.model": "mf"}, *(tuned[name] for name in PURPOSES if name in tuned)):
            workspace(place, source | values)
            run_stage("train", place)
            exporting = run_stage("export", place)
            size = sum(path.stat().st_size for path in (place / SERVING).rglob("*") if path.is_file())
            with contextlib.chdir(place):
                found = measured() | {"export_seconds": exporting.seconds, "mib": size / 2**20}
            result[values["train.model"]] = found
            print(f"{values['train.model']}: {found}", flush=True)
    keep(OUTPUT, arguments.dataset, result)
    show_markdown(TABLES["serving"](arguments.dataset))


def measured() -> Values:
    """Measure where export has run.

    Returns:
        How many users there are, and of how many the exported model's lists, ids and scores, are ours; for each way to
        make lists the median, lowest and highest milliseconds of a request for one user and for `MANY`; the share of
        our lists that FAISS finds.
    """
    recommender = Recommender.read()
    everybody = np.arange(len(recommender.user_ids), dtype=np.int32)
    item_ids = recommender.items["item_id"].to_numpy()
    recommend = tf.saved_model.load(str(SERVING)).signatures["recommend"]
    ways: dict[str, Lists] = {
        "ours": lambda users: ours(recommender, users)[0],
        "exported": lambda users: answer(recommend, recommender.user_ids[users])["item_id"],
        "faiss": flat_index(recommender, leave_out=True),
        "faiss, all items": flat_index(recommender, leave_out=False),
    }
    items, scores = ours(recommender, everybody)
    equal = 0
    for start in range(0, len(everybody), MANY):
        part = slice(start, start + MANY)
        found = answer(recommend, recommender.user_ids[part])
        here = items[part] >= 0
        same = (found["item_id"] == item_ids[items[part]]) & (found["score"] == scores[part])
        equal += int((np.where(here, same, True).all(axis=1) & (found["count"] == here.sum(axis=1))).sum())
    seconds: dict[str, dict[int, list[float]]] = {name: {1: [], MANY: []} for name in ways}
    random = np.random.default_rng(SEED)
    for count, rounds in ROUNDS.items():
        for _ in range(rounds):
            users = random.choice(everybody, min(count, len(everybody)), replace=False)
            for name, lists in ways.items():  # in turn, on the same users
                start_time = time.perf_counter()
                lists(users)
                seconds[name][count].append(time.perf_counter() - start_time)
    recall = [np.isin(*pair).mean() for pair in zip(items, ways["faiss"](everybody), strict=True)]
    return {
        "users": len(everybody),
        "equal": equal,
        "faiss_recall": float(np.mean(recall)),
        "milliseconds": {name: {str(n): summary(took) for n, took in each.items()} for name, each in seconds.items()},
    }


def summary(seconds: list[float]) -> list[float]:
    """Return median, lowest and highest in milliseconds, without the first, which loads code."""
    later = [1000 * each for each in seconds[1:]]
    return [statistics.median(later), min(later), max(later)]


def ours(recommender: Recommender, users: Users) -> tuple[Items, NDArray[np.float64]]:
    """Return the lists of the recommend stage."""
    return recommender.learned.lists(recommender.factors.top_k, users, recommender.rated, K)


def answer(recommend: Any, user_ids: NDArray[Any]) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - TensorFlow has no types
    """Return what the exported model answers about users by their ids."""
    types = recommend.structured_input_signature[1]
    exclude = tf.zeros([1, 0], types["exclude"].dtype)
    found = recommend(user_id=tf.constant(user_ids, types["user_id"].dtype), k=tf.constant(K), exclude=exclude)
    return {name: part.numpy() for name, part in found.items()}


def flat_index(recommender: Recommender, *, leave_out: bool) -> Lists:
    """Return lists by FAISS's flat index, of all items or without those rated.

    The bias of an item is one more number of its vector, by which every user has 1. For as many items as anybody among
    the users has rated the lists are longer, and are cut afterwards.
    """
    factors = recommender.factors
    listed = np.flatnonzero(recommender.learned.candidates).astype(np.int32)
    index = faiss.IndexFlatIP(factors.item_factors.shape[1] + 1)
    index.add(np.ascontiguousarray(np.column_stack([factors.item_factors, factors.item_bias])[listed]))
    queries = np.column_stack([factors.user_factors, np.ones_like(factors.user_bias)])
    counts = np.diff(recommender.rated.indptr)

    def lists(users: Users) -> Items:
        length = min(K + int(counts[users].max()), len(listed)) if leave_out else K
        found: Items = listed[index.search(queries[users], length)[1]]
        if not leave_out:
            return found
        rated = np.zeros((len(users), len(recommender.items)), bool)
        rated[stored_entries(recommender.rated, users)] = True
        last = np.argsort(np.take_along_axis(rated, found, axis=1), axis=1, kind="stable")[:, :K]
        return np.take_along_axis(found, last, axis=1)

    return lists


if __name__ == "__main__":
    run(main)
