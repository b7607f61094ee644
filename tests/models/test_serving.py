"""The exported model against the lists that it must repeat, and as others load it."""

import ast
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.errors import UserError
from recommender.models.core.backend import tf
from recommender.models.serving import graph
from recommender.models.serving.graph import Serving
from recommender.models.serving.saving import save
from recommender.paths import RECOMMENDATIONS, SERVING
from recommender.ranking.factors import Factors, similar_items
from recommender.ranking.fold_in import EncodedLoss, FoldIn, RatingLoss, SoftmaxLoss, fold_in
from recommender.ranking.learned import Learned
from recommender.ranking.recommender import Recommender
from recommender.ranking.user_kernel import UserKernel
from recommender.storage import read_table
from stages import export
from tests.conftest import REPOSITORY
from tests.ranking.helpers import ITEMS, make_kernel, numbers
from tools.snippet import output

USERS, SIZE = 40, 6
NOBODY: dict[str, Any] = {"int32": -7, "int64": 2**40, "text": "nobody"}
Answer = dict[str, NDArray[Any]]
Signatures = dict[str, Callable[..., dict[str, Any]]]
LOSSES: dict[str, FoldIn] = {
    "ridge": RatingLoss(30, 0.01),
    "ridge without a penalty": RatingLoss(30, 0.0),
    "ridge with dropout of an ensemble": RatingLoss(30, 0.01, 1.0, 0.3, 0, 2),
    "lazy ridge": RatingLoss(9, 0.01, 0.5, 0.0, 4),
    "kernel": UserKernel(**make_kernel(5, SIZE)),
    "kernel of some items": UserKernel(**make_kernel(6, SIZE, full=False) | {"lowest": 0.5, "highest": 5.0}),
    "encoded": EncodedLoss(30, 0.01, 1.0, 0.3, **make_kernel(7, 2)),
    "encoded ensemble": EncodedLoss(30, 0.01, 1.0, ensemble_size=2, **make_kernel(8, 1)),
}


def make_ids(kind: str, count: int, seed: int) -> NDArray[Any]:
    """Return ids in no order: numbers, among them 0 and negative ones, or text."""
    order = np.random.default_rng(seed).permutation(count)
    return np.array([f"é {number}" for number in order], object) if kind == "text" else (order - 3).astype(kind)


def make_recommender(seed: int = 0, kind: str = "int32", *, ties: bool = False, items: int = ITEMS) -> Recommender:
    """Users of whom some are not learned of, and items of which some are not; with `ties` many scores are equal."""
    random = np.random.default_rng(seed)

    def make(*shape: int) -> NDArray[np.float32]:
        return random.integers(-1, 2, shape).astype(np.float32) if ties else numbers(random, *shape)

    order = np.arange(items, dtype=np.int32)
    factors = Factors(make(USERS, SIZE), make(items, SIZE), make(USERS), make(items), order, 3.25)
    stars = random.integers(1, 6, (USERS, items)) * (random.random((USERS, items)) < np.linspace(0.3, 0.9, items))
    stars[0] = 5  # has rated everything
    rated = sp.csr_array(stars.astype(np.float32))
    counts = np.where(order % 5 == 2, 0, random.integers(1, 4 if ties else 40, items))
    learned = Learned(counts, random.random(USERS) < 0.8)
    names = pa.array([f"Title {item} ({1990 + item})" for item in range(items)])
    table = pa.table({"item_id": pa.array(make_ids(kind, items, 2)), "title": names, "categories": names})
    return Recommender(factors, rated, rated, np.zeros(USERS, bool), make_ids(kind, USERS, 1), table, learned)


def asked(function: Callable[..., dict[str, Any]], **inputs: object) -> Answer:
    """Return a signature's answer as arrays."""
    types = {spec.name: spec.dtype for spec in function.input_signature}
    return {name: np.array(part) for name, part in function(**{
        name: tf.constant(value, types[name]) for name, value in inputs.items()
    }).items()}  # fmt: skip


def item_ids(recommender: Recommender) -> NDArray[Any]:
    found: NDArray[Any] = recommender.items["item_id"].to_numpy()
    return found


def check_lists(found: Answer, recommender: Recommender, lists: list[tuple[list[int], list[float]]], k: int) -> None:
    """Compare an answer with lists of item indices and scores: bit by bit, and what stands behind them."""
    width = min(k, len(recommender.items))
    assert found["item_id"].shape == found["title"].shape == found["score"].shape == (len(lists), width)
    assert found["score"].dtype == np.float64
    assert found["count"].tolist() == [min(k, len(items)) for items, _ in lists]
    for row, (items, scores) in enumerate(lists):
        count = found["count"][row]
        shown = found["item_id"][row].tolist()
        texts = [each.decode() if isinstance(each, bytes) else each for each in shown]
        nothing = "" if isinstance(shown[0], bytes) else -1
        assert texts == item_ids(recommender)[items[:k]].tolist() + [nothing] * (width - count)
        titles = [recommender.titles[item] for item in items[:k]] + [""] * (width - count)
        assert [title.decode() for title in found["title"][row]] == titles
        assert found["score"][row].tolist() == scores[:k] + [0.0] * (width - count)


def own_lists(recommender: Recommender, excluded: list[list[int]]) -> list[tuple[list[int], list[float]]]:
    """Return each user's whole list without some items."""
    everybody = np.arange(USERS, dtype=np.int32)
    lists = recommender.learned.lists(recommender.factors.top_k, everybody, recommender.rated, len(recommender.items))
    kept = [(items >= 0) & ~np.isin(items, out) for items, out in zip(lists[0], excluded, strict=True)]
    return [(items[keep].tolist(), scores[keep].tolist()) for items, scores, keep in zip(*lists, kept, strict=True)]


@pytest.mark.parametrize("kind", NOBODY)
@pytest.mark.parametrize("ties", [False, True])
def test_lists_of_all_users_are_ours_to_the_bit(kind: str, ties: bool) -> None:
    for seed in range(3):
        recommender = make_recommender(seed, kind, ties=ties)
        assert 0 < recommender.learned.users.sum() < USERS
        function = Serving(recommender, LOSSES["ridge"]).signatures()["recommend"]
        whole = own_lists(recommender, [[]] * USERS)
        assert whole[0] == ([], [])
        for k in (1, 3, ITEMS, 2**31 - 1):
            found = asked(function, user_id=recommender.user_ids, k=k, exclude=np.empty((USERS, 0)))
            assert found["known"].all()
            check_lists(found, recommender, whole, k)


def test_scores_that_single_precision_cannot_tell_apart_are_ordered() -> None:
    recommender, random = make_recommender(items=900), np.random.default_rng(1)
    vectors = np.zeros((900, SIZE), np.float32)
    vectors[:, 0], vectors[:, 1] = 1, random.permutation(np.arange(900) // 2) * 1e-6  # and each score twice
    users = np.tile(np.array([1, 1e-4, 0, 0, 0, 0], np.float32), (USERS, 1))
    factors = dataclasses.replace(recommender.factors, user_factors=users, item_factors=vectors)
    factors = dataclasses.replace(factors, item_bias=np.full(900, 0.1, np.float32))
    recommender = dataclasses.replace(recommender, factors=factors)
    function = Serving(recommender, LOSSES["ridge"]).signatures()["recommend"]
    found = asked(function, user_id=recommender.user_ids, k=20, exclude=np.empty((USERS, 0)))
    single = found["score"].astype(np.float32)
    assert (single[recommender.learned.users, 0] == single[recommender.learned.users, -1]).sum() > USERS / 2
    check_lists(found, recommender, own_lists(recommender, [[]] * USERS), 20)


@pytest.mark.parametrize("kind", NOBODY)
def test_excluded_items_are_left_out(kind: str) -> None:
    recommender = make_recommender(1, kind)
    function, ids = Serving(recommender, LOSSES["ridge"]).signatures()["recommend"], item_ids(recommender)
    out = np.random.default_rng(1).integers(0, ITEMS, (USERS, 3))
    exclude = np.column_stack([ids[out], np.full(USERS, NOBODY[kind], ids.dtype)])
    found = asked(function, user_id=recommender.user_ids, k=4, exclude=exclude)
    check_lists(found, recommender, own_lists(recommender, out.tolist()), 4)
    found = asked(function, user_id=recommender.user_ids, k=4, exclude=exclude[:1])  # of all alike
    check_lists(found, recommender, own_lists(recommender, [out[0].tolist()] * USERS), 4)


@pytest.mark.parametrize("kind", NOBODY)
def test_unknown_users_and_items_get_empty_lists(kind: str) -> None:
    recommender = make_recommender(2, kind)
    signatures, nobody = Serving(recommender, LOSSES["ridge"]).signatures(), NOBODY[kind]
    whole = own_lists(recommender, [[]] * USERS)
    users = [nobody, recommender.user_ids[7], nobody, "" if kind == "text" else -1]
    found = asked(signatures["recommend"], user_id=users, k=5, exclude=[[nobody]])
    known = users[3] in recommender.user_ids  # where ids are numbers, as everybody else's
    last = whole[recommender.user_ids.tolist().index(-1)] if known else ([], [])
    assert found["known"].tolist() == [False, True, False, known]
    check_lists(found, recommender, [([], []), whole[7], ([], []), last], 5)
    for k in (0, -1):
        assert asked(signatures["recommend"], user_id=users, k=k, exclude=[[nobody]])["item_id"].shape == (4, 0)
    found = asked(signatures["recommend"], user_id=[], k=5, exclude=np.empty((0, 2)))
    assert found["item_id"].shape == (0, 5)
    found = asked(signatures["similar_items"], item_id=[nobody], k=5)
    assert (found["known"].tolist(), found["count"].tolist()) == ([False], [0])
    check_lists(found, recommender, [([], [])], 5)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("recommend", {"user_id": [[1], [2]], "k": 3, "exclude": [[4]]}),
        ("recommend", {"user_id": 1, "k": 3, "exclude": [[4]]}),
        ("recommend", {"user_id": [1, 2], "k": 3, "exclude": [4]}),
        ("recommend_new", {"item_id": [4], "rating": [[5.0]], "k": 3, "exclude": [[4]]}),
        ("similar_items", {"item_id": [[4]], "k": 3}),
    ],
)
def test_a_wrong_shape_is_an_error_and_no_end_of_the_process(name: str, inputs: dict[str, object]) -> None:
    """Servers check no shapes before they run the graph, so that here nothing checks them either."""
    signatures: dict[str, Any] = Serving(make_recommender(), LOSSES["ridge"]).signatures()
    function = signatures[name].get_concrete_function()
    specs = function.inputs[: len(inputs)]
    values = [tf.constant(inputs[spec.name.partition(":")[0]], spec.dtype) for spec in specs]
    types = [part.dtype for part in function.outputs]
    arguments = [*values, *function.captured_inputs]
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not compatible with expected shape"):
        tf.raw_ops.StatefulPartitionedCall(args=arguments, Tout=types, f=function._inference_function)


def test_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "HASHES", 3)
    ids = make_ids("text", USERS, 1)
    found = graph.Ids(ids, "users")
    assert found.most_of_a_key > 5
    assert_array_equal(found.find(tf.constant(ids[None, ::-1].tolist())), np.arange(USERS)[None, ::-1])
    assert found.find(tf.constant(["é", "é 40", ""])).numpy().tolist() == [USERS] * 3


@pytest.mark.parametrize("seed", range(3))
def test_similar_items_are_ours(seed: int) -> None:
    recommender = make_recommender(seed, ties=seed == 0)
    factors, counts = recommender.factors, recommender.item_counts
    vectors = factors.item_factors.copy()
    vectors[4] = 0
    vectors[6] = vectors[5] * 2
    factors = dataclasses.replace(factors, item_factors=vectors)
    recommender = dataclasses.replace(recommender, factors=factors)
    assert 0 < (counts < 20).sum() < ITEMS - 3
    function, ids = Serving(recommender, LOSSES["ridge"]).signatures()["similar_items"], item_ids(recommender)
    for k in (2, ITEMS):
        lists = [similar_items(factors, counts, item, k) for item in range(ITEMS)]
        check_lists(asked(function, item_id=ids, k=k), recommender, [(a.tolist(), b.tolist()) for a, b in lists], k)


@pytest.mark.parametrize("name", LOSSES)
def test_new_users_get_the_lists_that_they_get_folded_in(name: str) -> None:
    recommender, loss = make_recommender(3, "text"), LOSSES[name]
    function, ids = Serving(recommender, loss).signatures()["recommend_new"], item_ids(recommender)
    dense = recommender.rated.toarray()[1:21]
    rows = [np.flatnonzero(row)[::-1] for row in dense]
    width = max(map(len, rows)) + 1
    items = [[*ids[row], *["nothing"] * (width - len(row))] for row in rows]
    stars = [[*each[row], *[9.0] * (width - len(row))] for each, row in zip(dense, rows, strict=True)]
    ratings = sp.csr_array(dense)
    folded = fold_in(recommender.factors, loss, ratings)
    everybody = np.arange(20, dtype=np.int32)
    lists = folded.top_k(everybody, ratings, ITEMS, recommender.learned.candidates)
    found = asked(function, item_id=items, rating=stars, k=ITEMS, exclude=[["nothing"]])
    assert found["known"].all()
    exact = folded.pair_scores(everybody[:, None], np.arange(ITEMS, dtype=np.int32)[None])
    index = {each: item for item, each in enumerate(ids)}
    for user, (best, scores) in enumerate(zip(*lists, strict=True)):
        count = (best >= 0).sum()
        assert found["count"][user] == count
        shown = [index[each.decode()] for each in found["item_id"][user, :count]]
        assert sorted(shown) == sorted(best[:count])
        # Another solver may exchange items whose scores differ by rounding.
        assert_allclose(exact[user, shown], scores[:count], rtol=1e-5, atol=1e-5)
        assert_allclose(found["score"][user, :count], scores[:count], rtol=1e-5, atol=1e-5)
    left_out = ids[lists[0][0, 0]]
    less = asked(function, item_id=items, rating=stars, k=ITEMS, exclude=[[left_out]])
    assert left_out.encode() not in less["item_id"]
    assert less["count"][0] == found["count"][0] - 1


@pytest.mark.parametrize("name", ["ridge without a penalty", "kernel", "encoded"])
def test_what_new_users_rate_wrongly_is_no_error(name: str) -> None:
    recommender = make_recommender(4)
    function, ids = Serving(recommender, LOSSES[name]).signatures()["recommend_new"], item_ids(recommender)

    def answer(items: list[list[int]], stars: list[list[float]]) -> Answer:
        return asked(function, item_id=items, rating=stars, k=4, exclude=[[NOBODY["int32"]]])

    one, two, nobody = int(ids[3]), int(ids[8]), NOBODY["int32"]
    right = answer([[one, two]], [[5, 1]])
    for items, stars in (
        ([two, one, nobody], [1, 5, 3]),
        ([one, one, two], [2, 5, 1]),  # of several ratings the highest
        ([one, two, two], [9e30, -4, np.nan]),  # beyond the scale, and none at all
    ):
        for part, values in answer([items], [stars]).items():
            assert_array_equal(values, right[part])
    for items, stars in (([[nobody]], [[5]]), ([[one]], [[np.inf]]), ([[]], [[]])):
        found = answer(items, stars)
        assert (found["known"].tolist(), found["count"].tolist()) == ([False], [0])
        check_lists(found, recommender, [([], [])], 4)


def test_signatures_that_a_model_cannot_have_are_absent() -> None:
    recommender = make_recommender()
    assert list(Serving(recommender, SoftmaxLoss(2.0, 0.1)).signatures()) == ["recommend", "similar_items"]
    factors = dataclasses.replace(recommender.factors, interaction="batch_sum")
    recommender = dataclasses.replace(recommender, factors=factors)
    assert list(Serving(recommender, LOSSES["ridge"]).signatures()) == ["similar_items"]


@pytest.mark.usefixtures("no_arguments")
def test_the_stage_says_what_it_cannot_export(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataclasses.replace(Factors.load(), interaction="batch_sum").save()
    export.main()
    assert capsys.readouterr().err == (
        "models/serving: has similar_items alone: with train.mf.interaction: batch_sum a score depends on what else is "
        "scored\n"
    )
    assert list(tf.saved_model.load(str(here / SERVING)).signatures) == ["similar_items"]


def test_the_bytes_are_the_same_after_whatever_the_process_did_before(tmp_path: Path) -> None:
    recommender = make_recommender(kind="text")
    for name in ("first", "second"):
        serving = Serving(recommender, LOSSES["encoded ensemble"])
        save(serving, serving.signatures(), tmp_path / name)
        tf.function(lambda number: number + 1)(tf.constant(1))
    paths = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    data = "variables/variables.data-00000-of-00001"
    assert list(map(str, paths)) == ["fingerprint.pb", "saved_model.pb", data, "variables/variables.index"]
    for path in paths:
        content = (tmp_path / "first" / path).read_bytes()
        assert content == (tmp_path / "second" / path).read_bytes(), path
        assert str(REPOSITORY).encode() not in content
    fingerprint = tf.saved_model.experimental.read_fingerprint(str(tmp_path / "first"))
    assert (
        fingerprint.singleprint()
        == tf.saved_model.experimental.read_fingerprint(str(tmp_path / "second")).singleprint()
    )


def test_tables_are_not_in_the_graph(tmp_path: Path) -> None:
    """A graph must stay below 2 GiB, whatever the number of items."""
    sizes = []
    for items in (ITEMS, 50 * ITEMS):
        serving = Serving(make_recommender(items=items), LOSSES["ridge"])
        save(serving, serving.signatures(), tmp_path / str(items))
        sizes.append((tmp_path / str(items) / "saved_model.pb").stat().st_size)
    assert sizes[1] - sizes[0] < 2000


def test_a_full_disk_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "part.tempstate7; No space left on device [Op:SaveV2]")

    monkeypatch.setattr(tf.saved_model, "save", full)
    expected = "cannot be written: No space left on device; make room for temporary files, then retry"
    with pytest.raises(UserError, match=expected):
        save(tf.Module(), {}, tmp_path / "serving")
    assert not (tmp_path / "serving").exists()


LOAD = """
import importlib.util, json, sys
import tensorflow as tf
assert importlib.util.find_spec("recommender") is None
recommend = tf.saved_model.load(sys.argv[1]).signatures["recommend"]
users = tf.constant(json.load(sys.stdin), tf.int32)
found = recommend(user_id=users, k=tf.constant(10), exclude=tf.constant([[-1]]))
print(json.dumps({name: part.numpy().tolist() for name, part in found.items() if name != "title"}))
"""


def load_elsewhere(folder: Path, users: list[int]) -> dict[str, Any]:
    """Ask a Python process that has TensorFlow and nothing of this repository."""
    command = [sys.executable, "-I", "-c", LOAD, str(folder)]
    result = subprocess.run(
        command, input=json.dumps(users), cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def check_recommendations(project: Path, folder: Path) -> int:
    """Compare the lists of all users with data/recommendations.parquet; return how many there are."""
    users = read_table(project / "data/processed/users.parquet")["user_id"].to_pylist()
    found = load_elsewhere(folder, users)
    table = read_table(project / RECOMMENDATIONS).to_pylist()
    lists = [(row["user_id"], row["rank"], row["item_id"], row["score"]) for row in table]
    shown = [
        (user, rank, item, float(np.float32(score)))
        for user, items, scores, count in zip(users, found["item_id"], found["score"], found["count"], strict=True)
        for rank, (item, score) in enumerate(zip(items[:count], scores[:count], strict=True), start=1)
    ]
    assert shown == lists
    assert all(found["known"])
    return len(users)


def test_it_loads_where_there_is_nothing_of_ours(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained / SERVING, tmp_path / "model"))
    assert check_recommendations(trained, folder) == 60


def test_the_page_alone_says_how_to_load_it(trained: Path, tmp_path: Path) -> None:
    """The snippets of docs/serving.md, in a folder with the model and nothing else."""
    shutil.copytree(trained / SERVING, tmp_path / SERVING)
    printed = dict(line.split(" ", 1) for line in output(REPOSITORY / "docs/serving.md", tmp_path).splitlines())
    table = read_table(trained / RECOMMENDATIONS).to_pandas()
    rows = table[(table["user_id"] == 42) & ~table["item_id"].isin([50, 100])][:3]
    assert ast.literal_eval(printed["item_id"]) == [rows["item_id"].tolist(), [-1] * 3]
    assert ast.literal_eval(printed["title"]) == [[title.encode() for title in rows["title"]], [b""] * 3]
    assert ast.literal_eval(printed["score"]) == [pytest.approx(rows["score"].tolist()), [0.0] * 3]
    assert (printed["count"], printed["known"]) == ("[3, 0]", "[True, False]")
    lists = output(REPOSITORY / "docs/serving.md", tmp_path, 2).splitlines()
    assert [len(set(ast.literal_eval(line))) for line in lists] == [3, 3]


@pytest.mark.slow
@pytest.mark.skipif(not (REPOSITORY / RECOMMENDATIONS).exists(), reason="needs the outputs of `make repro`")
def test_the_lists_of_all_users_of_the_data_in_the_workspace_are_ours() -> None:
    assert check_recommendations(REPOSITORY, REPOSITORY / SERVING) > 100
