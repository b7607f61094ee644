"""Metrics against an independent implementation and against numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from stages.evaluate import evaluate
from stages.lib.factors import Factors
from stages.lib.heldout import HeldOut, summary
from stages.lib.metrics import at_k, ranking_metrics, rating_errors, relevant_rows
from stages.lib.ratings import Ratings
from stages.lib.storage import read_json, read_table
from tests import reference
from tests.conftest import refused, set_params, stage

CURVES = ("precision", "recall", "map", "ndcg")
EXACT = {"rtol": 0, "atol": 1e-12}


def ratings_of(table: pd.DataFrame, shape: tuple[int, int]) -> Ratings:
    return Ratings(
        table["user"].to_numpy(np.int32), table["movie"].to_numpy(np.int32), table["rating"].to_numpy(np.float32), shape
    )


def held_out_of(train: pd.DataFrame, test: pd.DataFrame, shape: tuple[int, int], quantile: float) -> HeldOut:
    rows = ratings_of(test, shape)
    return HeldOut(rows, ratings_of(train, shape).matrix(), relevant_rows(rows.users, rows.values, quantile))


@st.composite
def cases(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame, Factors, float, int]:
    """Draw a split, factors in quarters (sums of which are exact, and many of them equal), a quantile and a K."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, movies, size = draw(st.integers(1, 7)), draw(st.integers(1, 90)), draw(st.integers(1, 4))
    pairs = random.permutation(users * movies)[: max(1, int(users * movies * draw(st.floats(0, 1))))]
    ratings = pd.DataFrame(
        {"user": pairs // movies, "movie": pairs % movies, "rating": random.integers(1, 11, len(pairs)) / 2}
    )
    cut = draw(st.integers(0, len(pairs) - 1))
    spread = draw(st.sampled_from((0, 1, 2, 8)))

    def quarters(*shape: int) -> NDArray[np.float32]:
        return (random.integers(-spread, spread + 1, shape) / 4).astype(np.float32)

    factors = Factors(
        quarters(users, size),
        quarters(movies, size),
        quarters(users),
        quarters(movies),
        random.permutation(movies * 3)[:movies].astype(np.int32),
        interaction=draw(st.sampled_from(("dot", "batch_sum"))),
    )
    quantile = draw(st.sampled_from((0.0, 0.5, 0.85, 1.0)) | st.floats(0, 1))
    k = draw(st.just(movies) | st.integers(1, movies))
    return ratings[:cut], ratings[cut:], factors, quantile, k


def as_model(factors: Factors) -> reference.Model:
    arrays = (factors.users, factors.movies, factors.user_bias, factors.movie_bias)
    return reference.Model(*(a.astype(np.float64) for a in arrays), factors.movie_ids, factors.interaction)


def assert_evaluates_like_the_reference(
    train: pd.DataFrame, test: pd.DataFrame, factors: Factors, quantile: float, k: int
) -> None:
    shape = len(factors.users), len(factors.movies)
    ranking, errors = evaluate(factors, held_out_of(train, test, shape, quantile), k)
    expected = reference.evaluate(train, test, as_model(factors), quantile, k)
    for name in CURVES:
        assert_allclose(getattr(ranking, name), [row[name] for row in expected], err_msg=name, **EXACT)
    for name in ("mrr", "hit_rate", "coverage"):
        assert_allclose(getattr(ranking, name), expected[-1][name], err_msg=name, **EXACT)
    assert_allclose([errors["rmse"], errors["mae"]], [expected[-1]["rmse"], expected[-1]["mae"]], **EXACT)
    assert_allclose(ranking.average_precision.mean(), expected[-1]["map"], **EXACT)
    assert_allclose(ranking.user_recall.mean(), expected[-1]["recall"], **EXACT)
    assert len(ranking.average_precision) == test["user"].nunique()


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
    users, movies, size = 25, 150, 10
    pairs = random.permutation(users * movies)[:1500]
    table = pd.DataFrame({"user": pairs // movies, "movie": pairs % movies, "rating": random.integers(1, 6, 1500)})
    factors = Factors(
        *(random.normal(0, 0.4, shape).astype(np.float32) for shape in ((users, size), (movies, size), users, movies)),
        random.permutation(movies).astype(np.int32),
        interaction=interaction,
    )
    assert_evaluates_like_the_reference(table[:1000], table[1000:], factors, 0.85, k)


def test_the_stage_writes_what_the_slow_reference_finds(trained: Path) -> None:
    train, test = (
        read_table(trained / f"data/processed/{part}.parquet").to_pandas().astype({"rating": np.float64})
        for part in ("train", "test")
    )
    factors = Factors.load(trained / "models/factors.npz")
    expected = reference.evaluate(train, test, as_model(factors), 0.85, 25)
    written = read_json(trained / "metrics/evaluate.json")
    assert written.pop("users") == test["user"].nunique()
    assert written == pytest.approx(expected[-1], abs=6e-7, rel=0)
    curves = pd.read_csv(trained / "metrics/at_k.csv")
    assert curves.columns.tolist() == ["k", *CURVES]
    assert curves["k"].tolist() == list(range(1, 26))
    for name in CURVES:
        assert_allclose(curves[name], [row[name] for row in expected], rtol=0, atol=6e-7)


def test_the_stage_refuses_lists_longer_than_the_catalogue(finished: Path) -> None:
    before = (finished / "metrics/evaluate.json").read_bytes()
    set_params(finished, evaluate__k=1000)
    refused(stage(finished, "evaluate"), "params.yaml: evaluate.k: must be at most 80", "found 1000")
    assert (finished / "metrics/evaluate.json").read_bytes() == before


def test_the_stage_refuses_factors_of_another_split(finished: Path) -> None:
    factors = Factors.load(finished / "models/factors.npz")
    fewer = Factors(factors.users[:-1], factors.movies, factors.user_bias[:-1], factors.movie_bias, factors.movie_ids)
    fewer.save(finished / "models/factors.npz")
    for name in ("evaluate", "recommend"):
        refused(stage(finished, name), "models/factors.npz", "dvc repro")


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
    # Hits at ranks 2, 3 and 5; 4 relevant movies.
    lists = np.array([[10, 11, 12, 13, 14]], dtype=np.int32)
    hits = np.array([[False, True, True, False, True]])
    metrics = ranking_metrics(lists, hits, np.array([4]), 20)
    assert_allclose(metrics.precision, [0, 1 / 2, 2 / 3, 2 / 4, 3 / 5], **EXACT)
    assert_allclose(metrics.recall, [0, 0.25, 0.5, 0.5, 0.75], **EXACT)
    assert_allclose(metrics.map, [0, 0.25, 7 / 18, 7 / 24, (1 / 2 + 2 / 3 + 3 / 5) / 4], **EXACT)
    # Gains 1, .6309297535714575, .5, .43067655807339306 and .38685280723454163 at ranks 1 to 5.
    expected = [0, 0.38685280723454163, 1.1309297535714575 / 2.1309297535714575]
    expected += [1.1309297535714575 / 2.5616063116448506, 1.5177825608059992 / 2.5616063116448506]
    assert_allclose(metrics.ndcg, expected, **EXACT)
    assert (metrics.mrr, metrics.hit_rate, metrics.coverage) == (0.5, 1.0, 0.25)


def test_metrics_are_means_over_users_with_and_without_hits() -> None:
    # First user: both relevant movies on top. Second: none found. Third: one candidate only, and it is relevant.
    lists = np.array([[0, 1, 2], [2, 1, 0], [3, -1, -1]], dtype=np.int32)
    hits = np.array([[True, True, False], [False, False, False], [True, False, False]])
    metrics = ranking_metrics(lists, hits, np.array([2, 1, 1]), 8)
    assert_allclose(metrics.precision, [2 / 3, 3 / 6, 3 / 9], **EXACT)
    assert_allclose(metrics.recall, [0.5, 2 / 3, 2 / 3], **EXACT)
    assert_allclose(metrics.map, [2 / 3, 2 / 3, 2 / 3], **EXACT)
    assert_allclose(metrics.ndcg, [2 / 3, 2 / 3, 2 / 3], **EXACT)
    assert_allclose([metrics.mrr, metrics.hit_rate], [2 / 3, 2 / 3], **EXACT)
    assert metrics.coverage == 0.5
    assert_array_equal(metrics.average_precision, [1, 0, 1])
    assert_array_equal(metrics.user_recall, [1, 0, 1])


def test_measure_looks_up_hits_by_user_and_movie() -> None:
    # User 2 likes movie 1, user 0 likes movies 0 and 3; nobody else has test ratings.
    test = pd.DataFrame({"user": [2, 0, 0, 0], "movie": [1, 3, 0, 2], "rating": [4.0, 5.0, 5.0, 1.0]})
    held_out = held_out_of(test[:0], test, (4, 5), 0.5)
    assert held_out.users.tolist() == [0, 2]
    metrics = held_out.measure(np.array([[3, 2], [0, 1]], dtype=np.int32))
    assert_array_equal(metrics.precision, [0.5, 0.5])
    assert_array_equal(metrics.recall, [0.25, 0.75])
    assert metrics.mrr == 0.75
    assert metrics.coverage == 4 / 5


def test_padding_is_never_a_hit() -> None:
    test = pd.DataFrame({"user": [0, 1], "movie": [4, 4], "rating": [5.0, 5.0]})
    metrics = held_out_of(test[:0], test, (2, 5), 0.5).measure(np.full((2, 3), -1, dtype=np.int32))
    assert (metrics.hit_rate, metrics.mrr, metrics.coverage) == (0, 0, 0)


def test_rating_errors_match_those_worked_out_by_hand() -> None:
    errors = rating_errors(np.array([3.0, 4.5, 2.0]), np.array([4, 4, 4], dtype=np.float32))
    assert errors == {"rmse": math.sqrt(5.25 / 3), "mae": pytest.approx(3.5 / 3, abs=1e-15)}


def test_a_table_of_every_k_and_a_summary_of_the_last() -> None:
    lists = np.array([[0, 1]], dtype=np.int32)
    metrics = ranking_metrics(lists, np.array([[False, True]]), np.array([1]), 4)
    table = at_k(metrics)
    columns = {name: column.tolist() for name, column in table.items() if name != "ndcg"}
    assert columns == {"k": [1, 2], "precision": [0, 0.5], "recall": [0, 1], "map": [0, 0.5]}
    shown = summary(metrics, None)
    assert (shown["users"], shown["precision"], shown["recall"], shown["map"]) == (1, 0.5, 1, 0.5)
    assert (shown["rmse"], shown["mae"]) == (None, None)
