"""Metrics against an independent implementation and against numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.metrics import (
    ACCURACY,
    ERRORS,
    RANKING,
    Measured,
    accuracy,
    rating_errors,
    reduced,
    relevant_rows,
    summary,
    user_errors,
)
from recommender.paths import TEST, TRAIN, VALIDATION
from recommender.ranking.factors import Factors
from recommender.ranking.learned import Learned
from recommender.storage import read_json, read_table
from tests import reference
from tests.samples import write_split

EXACT = {"rtol": 0, "atol": 1e-12}


def interactions(table: pd.DataFrame, shape: tuple[int, int]) -> Interactions:
    return Interactions(
        table["user"].to_numpy(np.int32), table["item"].to_numpy(np.int32), table["rating"].to_numpy(np.float32), shape
    )


def ranking_metrics(
    lists: NDArray[np.int32], hits: NDArray[np.bool_], relevant: NDArray[np.int64], items: int
) -> Measured:
    return Measured.of([reduced(accuracy(hits, relevant))], lists, items)


def held_out_of(train: pd.DataFrame, test: pd.DataFrame, shape: tuple[int, int], quantile: float) -> HeldOut:
    return HeldOut.of(interactions(test, shape), interactions(train, shape), quantile)


@st.composite
def cases(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame, Factors, float, int]:
    """Draw a split, factors in quarters (sums of which are exact, and many of them equal), a quantile and a K."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, items, size = draw(st.integers(1, 7)), draw(st.integers(1, 90)), draw(st.integers(1, 4))
    pairs = random.permutation(users * items)[: max(1, int(users * items * draw(st.floats(0, 1))))]
    ratings = pd.DataFrame(
        {"user": pairs // items, "item": pairs % items, "rating": random.integers(1, 11, len(pairs)) / 2}
    )
    cut = draw(st.integers(0, len(pairs) - 1))
    spread = draw(st.sampled_from((0, 1, 2, 8)))

    def quarters(*shape: int) -> NDArray[np.float32]:
        return (random.integers(-spread, spread + 1, shape) / 4).astype(np.float32)

    factors = Factors(
        quarters(users, size),
        quarters(items, size),
        quarters(users),
        quarters(items),
        random.permutation(items).astype(np.int32),
        interaction=draw(st.sampled_from(("dot", "batch_sum"))),
    )
    quantile = draw(st.sampled_from((0.0, 0.5, 0.85, 1.0)) | st.floats(0, 1))
    k = draw(st.just(items) | st.integers(1, items))
    return ratings[:cut], ratings[cut:], factors, quantile, k


def assert_evaluates_like_the_reference(
    train: pd.DataFrame, test: pd.DataFrame, factors: Factors, quantile: float, k: int
) -> None:
    shape = len(factors.user_factors), len(factors.item_factors)
    ranking, errors = evaluate(factors, held_out_of(train, test, shape, quantile), k)
    expected = reference.evaluate(train, test, factors, quantile, k)
    for name in RANKING:
        assert_allclose(ranking.curves[name], [row[name] for row in expected], err_msg=name, **EXACT)
    found = summary(ranking, errors)
    assert found.pop("users") == len(ranking.users["map"]) == test["user"].nunique()
    assert found.pop("gini") == ranking.curves["gini"][-1]
    assert found == pytest.approx(expected[-1], rel=0, abs=1e-12)
    for name in ACCURACY:
        assert_allclose(ranking.users[name].mean(), expected[-1][name], err_msg=name, **EXACT)
    ratings = test.groupby("user").size()
    assert_allclose(np.average(ranking.users["rmse"] ** 2, weights=ratings), errors["rmse"] ** 2)
    assert_allclose(np.average(ranking.users["mae"], weights=ratings), errors["mae"])


@settings(max_examples=120, deadline=None)
@given(cases())
def test_evaluate_agrees_with_the_slow_reference(
    case: tuple[pd.DataFrame, pd.DataFrame, Factors, float, int],
) -> None:
    assert_evaluates_like_the_reference(*case)


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
@pytest.mark.parametrize("k", [1, 10, 150])
def test_evaluate_agrees_with_the_slow_reference_on_arbitrary_floats(interaction: str, k: int) -> None:
    random = np.random.default_rng(11)
    users, items, size = 25, 150, 10
    pairs = random.permutation(users * items)[:1500]
    table = pd.DataFrame({"user": pairs // items, "item": pairs % items, "rating": random.integers(1, 6, 1500)})
    factors = Factors(
        *(random.normal(0, 0.4, shape).astype(np.float32) for shape in ((users, size), (items, size), users, items)),
        random.permutation(items).astype(np.int32),
        interaction=interaction,
    )
    assert_evaluates_like_the_reference(table[:1000], table[1000:], factors, 0.85, k)


def test_the_stage_writes_what_the_slow_reference_finds(trained: Path) -> None:
    train, test = (
        read_table(trained / f"data/processed/{part}.parquet").to_pandas().astype({"rating": np.float64})
        for part in ("train", "test")
    )
    factors = Factors.load(trained / "models/factors.npz")
    expected = reference.evaluate(train, test, factors, 0.85, 25)
    written = read_json(trained / "metrics/evaluate.json")
    assert written.pop("users") == test["user"].nunique()
    curves = pd.read_csv(trained / "metrics/at_k.csv")
    assert curves["k"].tolist() == list(range(1, 26))
    assert set(written) == {*curves.columns[1:], "rmse", "mae"}
    relevant = reference.relevant_items(test, 0.85)
    ranked = reference.lists(train, sorted(relevant), 80, 25, reference.score(factors))
    categories = read_table(trained / "data/processed/items.parquet")["categories"].to_pylist()
    for k in (1, 2, 10, 25):
        row = expected[k - 1]
        row |= reference.describe(ranked, relevant, train, 80, k, categories)
        assert {name: curves[name][k - 1] for name in curves.columns[1:]} == pytest.approx(
            {name: row[name] for name in row if name not in ERRORS}, abs=6e-7, rel=0
        )
    assert written == pytest.approx(expected[-1], abs=6e-7, rel=0)


@pytest.mark.usefixtures("workspace")
def test_train_and_validation_ratings_count_as_known() -> None:
    write_split(
        {TRAIN: [(0, 1, 4.0), (2, 0, 3.0)], VALIDATION: [(1, 3, 5.0)], TEST: [(1, 2, 2.0), (1, 1, 3.0)]}, (3, 4)
    )
    held_out = HeldOut.read(1.0)
    assert held_out.seen.toarray().tolist() == [[0, 4, 0, 0], [0, 0, 0, 5], [3, 0, 0, 0]]
    assert (held_out.ratings.items.tolist(), held_out.relevant.tolist()) == ([2, 1], [False, True])
    assert held_out.learned.users.tolist() == [True, False, True]
    assert HeldOut.read(1.0, ["train", "validation"]).learned.users.tolist() == [True, True, True]


@st.composite
def rated_rows(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    stars = st.integers(1, 10).map(lambda half: half / 2) | st.floats(0.5, 5, width=32)
    rows = draw(st.lists(st.tuples(st.integers(0, 3), stars), min_size=1, max_size=40))
    return [user for user, _ in rows], [rating for _, rating in rows]


@settings(max_examples=300, deadline=None)
@given(rated_rows(), st.sampled_from((0.0, 0.25, 0.5, 0.75, 0.85, 0.9, 1.0)) | st.floats(0, 1))
def test_relevant_rows_are_those_at_or_above_numpys_quantile(rows: tuple[list[int], list[float]], q: float) -> None:
    users, ratings = np.array(rows[0], dtype=np.int32), np.array(rows[1], dtype=np.float32)
    expected = [
        bool(rating >= np.quantile(ratings[users == user].astype(np.float64), q))
        for user, rating in zip(users.tolist(), ratings.astype(np.float64).tolist(), strict=True)
    ]
    relevant = relevant_rows(users, ratings, q)
    assert relevant.tolist() == expected
    assert set(users[relevant].tolist()) == set(users.tolist())


def test_every_rating_tied_with_the_quantile_is_relevant() -> None:
    users = np.array([4, 9, 4, 4, 9, 4], dtype=np.int32)
    ratings = np.array([5, 3, 4, 5, 3, 1], dtype=np.float32)
    assert relevant_rows(users, ratings, 0.85).tolist() == [True, True, False, True, True, False]
    assert relevant_rows(users, ratings, 0.0).all()


def test_metrics_of_one_list_match_those_worked_out_by_hand() -> None:
    # Hits at ranks 2, 3 and 5; 4 relevant items.
    lists = np.array([[10, 11, 12, 13, 14]], dtype=np.int32)
    hits = np.array([[False, True, True, False, True]])
    metrics = ranking_metrics(lists, hits, np.array([4]), 20)
    assert_allclose(metrics.curves["precision"], [0, 1 / 2, 2 / 3, 2 / 4, 3 / 5], **EXACT)
    assert_allclose(metrics.curves["recall"], [0, 0.25, 0.5, 0.5, 0.75], **EXACT)
    assert_allclose(metrics.curves["map"], [0, 0.25, 7 / 18, 7 / 24, (1 / 2 + 2 / 3 + 3 / 5) / 4], **EXACT)
    # Gains 1, .6309297535714575, .5, .43067655807339306 and .38685280723454163 at ranks 1 to 5.
    expected = [0, 0.38685280723454163, 1.1309297535714575 / 2.1309297535714575]
    expected += [1.1309297535714575 / 2.5616063116448506, 1.5177825608059992 / 2.5616063116448506]
    assert_allclose(metrics.curves["ndcg"], expected, **EXACT)
    assert [metrics.at(name) for name in ("mrr", "hit_rate", "coverage")] == [0.5, 1.0, 0.25]
    assert_allclose(metrics.curves["mrr"], [0, 0.5, 0.5, 0.5, 0.5], **EXACT)
    assert_allclose(metrics.curves["coverage"], [0.05, 0.1, 0.15, 0.2, 0.25], **EXACT)


def test_metrics_are_means_over_users_with_and_without_hits() -> None:
    # First user: both relevant items on top. Second: none found. Third: one candidate only, and it is relevant.
    lists = np.array([[0, 1, 2], [2, 1, 0], [3, -1, -1]], dtype=np.int32)
    hits = np.array([[True, True, False], [False, False, False], [True, False, False]])
    metrics = ranking_metrics(lists, hits, np.array([2, 1, 1]), 8)
    assert_allclose(metrics.curves["precision"], [2 / 3, 3 / 6, 3 / 9], **EXACT)
    assert_allclose(metrics.curves["recall"], [0.5, 2 / 3, 2 / 3], **EXACT)
    assert_allclose(metrics.curves["map"], [2 / 3, 2 / 3, 2 / 3], **EXACT)
    assert_allclose(metrics.curves["ndcg"], [2 / 3, 2 / 3, 2 / 3], **EXACT)
    assert_allclose([metrics.at("mrr"), metrics.at("hit_rate")], [2 / 3, 2 / 3], **EXACT)
    assert metrics.at("coverage") == 0.5
    assert_array_equal(metrics.users["map"], [1, 0, 1])
    assert_array_equal(metrics.users["recall"], [1, 0, 1])


def test_measure_looks_up_hits_by_user_and_item() -> None:
    # User 2 likes item 1, user 0 likes items 0 and 3; nobody else has test ratings.
    test = pd.DataFrame({"user": [2, 0, 0, 0], "item": [1, 3, 0, 2], "rating": [4.0, 5.0, 5.0, 1.0]})
    held_out = held_out_of(test[:0], test, (4, 5), 0.5)
    assert held_out.users.tolist() == [0, 2]
    metrics = held_out.measure(np.array([[3, 2], [0, 1]], dtype=np.int32))
    assert_array_equal(metrics.curves["precision"], [0.5, 0.5])
    assert_array_equal(metrics.curves["recall"], [0.25, 0.75])
    assert metrics.at("mrr") == 0.75
    assert metrics.at("coverage") == 4 / 5
    padding = held_out.measure(np.full((2, 3), -1, dtype=np.int32))
    assert [padding.at(name) for name in RANKING] == [0] * len(RANKING)


def test_hits_are_exact_where_pairs_are_too_many_for_float64() -> None:
    users, items, ratings = np.array([2**23 - 1]), np.array([7]), np.ones(1, dtype=np.float32)
    shape = 2**23, 2**31 - 1
    test = Interactions(users.astype(np.int32), items.astype(np.int32), ratings, shape)
    everybody = Learned(np.empty(0, np.int64), np.ones(shape[0], dtype=bool))
    held_out = HeldOut(test, sp.csr_array((1, 1)), ratings > 0, everybody)
    assert held_out.hits(np.array([[6, 8, 7]], dtype=np.int32)).tolist() == [[False, False, True]]


def test_rating_errors_match_those_worked_out_by_hand() -> None:
    errors = rating_errors(np.array([3.0, 4.5, 2.0]), np.array([4, 4, 4], dtype=np.float32))
    assert errors == {"rmse": math.sqrt(5.25 / 3), "mae": pytest.approx(3.5 / 3, abs=1e-15)}
    by_user = user_errors(np.array([1, 0, 1]), np.array([3.0, 4.5, 2.0]), np.array([4, 4, 4], dtype=np.float32))
    assert_allclose(by_user["rmse"], [0.5, math.sqrt(2.5)], **EXACT)
    assert_allclose(by_user["mae"], [0.5, 1.5], **EXACT)


def test_a_summary_of_every_k_is_of_the_last() -> None:
    metrics = ranking_metrics(np.array([[0, 1]], dtype=np.int32), np.array([[False, True]]), np.array([1]), 4)
    last = summary(metrics, {"rmse": 2.0})
    assert list(last) == ["users", *RANKING, "gini", "rmse"]
    assert [metrics.curves[name].tolist() for name in ("recall", "map")] == [[0, 1], [0, 0.5]]
    assert (last["users"], last["recall"], last["map"], last["rmse"]) == (1, 1, 0.5, 2)
    assert last["ndcg"] == pytest.approx(1 / math.log2(3), abs=1e-12)
