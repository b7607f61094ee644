"""Popularity, damped item means and EASE against plain computations."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from stages.baselines import ease_scores, ease_weights, item_means, measure, popularity, positives
from stages.lib.heldout import HeldOut
from stages.lib.metrics import CURVES, relevant_rows
from stages.lib.params import Baselines
from stages.lib.ratings import Ratings
from stages.lib.storage import read_csv, read_json, read_table
from tests import reference
from tests.conftest import refused, set_params, stage

K = 25


def make_ratings(users: int, movies: int, count: int, seed: int) -> Ratings:
    random = np.random.default_rng(seed)
    pairs = random.permutation(users * movies)[:count]
    values = (random.integers(1, 11, count) / 2).astype(np.float32)
    return Ratings((pairs // movies).astype(np.int32), (pairs % movies).astype(np.int32), values, (users, movies))


def as_table(ratings: Ratings) -> pd.DataFrame:
    return pd.DataFrame({"user": ratings.users, "movie": ratings.movies, "rating": ratings.values.astype(np.float64)})


def ridge_by_column(liked: NDArray[np.float64], l2: float) -> NDArray[np.float64]:
    """Regress every movie on all the others, one by one."""
    movies = liked.shape[1]
    weights = np.zeros((movies, movies))
    for movie in range(movies):
        others = [other for other in range(movies) if other != movie]
        inputs = liked[:, others]
        weights[others, movie] = np.linalg.solve(
            inputs.T @ inputs + l2 * np.eye(len(others)), inputs.T @ liked[:, movie]
        )
    return weights


def test_popularity_counts_the_train_ratings() -> None:
    train = make_ratings(9, 12, 40, 1)
    assert popularity(train).tolist() == [(train.movies == movie).sum() for movie in range(12)]


@pytest.mark.parametrize("damping", [0, 0.5, 10])
def test_item_means_are_damped_towards_the_global_mean(damping: float) -> None:
    train = make_ratings(6, 30, 25, 2)
    values = train.values.tolist()
    mean = sum(values) / len(values)
    expected = []
    for movie in range(30):
        own = [value for value, of in zip(values, train.movies.tolist(), strict=True) if of == movie]
        expected.append((sum(own) + damping * mean) / (len(own) + damping) if len(own) + damping else mean)
    assert 0 in np.bincount(train.movies, minlength=30)
    assert_allclose(item_means(train, damping), expected, rtol=0, atol=1e-12)


def test_positives_are_the_ratings_at_or_above_the_least() -> None:
    train = make_ratings(8, 9, 50, 3)
    table = np.zeros((8, 9))
    for user, movie, value in zip(train.users, train.movies, train.values, strict=True):
        table[user, movie] = value >= 4
    assert_array_equal(positives(train, 4).toarray(), table)
    assert positives(train, 0).sum() == 50
    assert 0 < table.sum() < 50


@pytest.mark.parametrize("l2", [0.5, 300])
def test_ease_is_a_ridge_regression_of_each_movie_on_the_others(l2: float) -> None:
    liked = positives(make_ratings(40, 15, 250, 4), 3)
    expected = ridge_by_column(liked.toarray(), l2)
    weights = ease_weights(liked, l2)
    assert_allclose(weights, expected, rtol=0, atol=1e-12)
    assert_array_equal(np.diag(weights), np.zeros(15))
    assert_allclose(ease_scores(liked[[3, 1]], weights), liked.toarray()[[3, 1]] @ expected, rtol=0, atol=6e-10)


def test_ease_handles_movies_that_nobody_likes() -> None:
    weights = ease_weights(positives(make_ratings(3, 20, 10, 5), 4), 1.0)
    assert np.isfinite(weights).all()
    assert (np.abs(weights).sum(axis=0) == 0).any()


def test_movies_liked_by_the_same_users_have_equal_ease_scores() -> None:
    train = make_ratings(30, 10, 200, 6)
    liked = positives(train, 3).toarray()
    liked[:, 7] = liked[:, 2]
    twins = ease_scores(type(positives(train, 3))(liked), ease_weights(type(positives(train, 3))(liked), 2.0))
    nobody = liked[:, 2] == 0
    assert nobody.any()
    assert_array_equal(twins[nobody, 2], twins[nobody, 7])


def test_the_stage_writes_what_the_slow_reference_finds(trained: Path) -> None:
    train, test = (read_table(trained / f"data/processed/{part}.parquet").to_pandas() for part in ("train", "test"))
    users, movies = len(read_table(trained / "data/processed/users.parquet")), 80
    counts = np.zeros(movies)
    liked = np.zeros((users, movies))
    for user, movie, value in train.itertuples(index=False):
        counts[movie] += 1
        liked[user, movie] = value >= 4
    mean = train["rating"].astype(np.float64).mean()
    sums = train.astype({"rating": np.float64}).groupby("movie")["rating"].sum().reindex(range(movies)).fillna(0)
    means = ((sums + 10 * mean) / (counts + 10)).to_numpy()
    ease = np.round(liked @ ridge_by_column(liked, 300), 9)
    relevant = reference.relevant_movies(test, 0.85)
    written = read_json(trained / "metrics/baselines.json")
    assert set(written) == {"popularity", "item_mean", "ease"}
    curves = read_csv(trained / "metrics/baselines_at_k.csv")
    assert curves["k"].tolist() == list(range(1, K + 1))
    assert len(curves) == 1 + len(CURVES) * len(written)
    for name, scores in (
        ("popularity", np.tile(counts, (users, 1))),
        ("item_mean", np.tile(means, (users, 1))),
        ("ease", ease),
    ):
        ranked = reference.lists(
            train,
            sorted(relevant),
            movies,
            K,
            lambda user, candidates, scores=scores: {movie: scores[user, movie] for movie in candidates},
        )
        expected = reference.measure(ranked, relevant, movies, K)
        found = {key: value for key, value in written[name].items() if key not in ("users", "rmse", "mae")}
        assert found == pytest.approx(expected, abs=6e-7, rel=0), name
        assert written[name]["users"] == len(relevant)
        for k in range(1, K + 1):
            expected = reference.measure(ranked, relevant, movies, k)
            at_k = {key: curves[f"{name}_{key}"][k - 1] for key in CURVES}
            assert at_k == pytest.approx({key: expected[key] for key in CURVES}, abs=6e-7, rel=0), (name, k)
    errors = means[test["movie"]] - test["rating"].to_numpy(np.float64)
    assert written["item_mean"]["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), abs=6e-7)
    assert written["item_mean"]["mae"] == pytest.approx(np.abs(errors).mean(), abs=6e-7)
    for name in ("popularity", "ease"):
        assert written[name]["rmse"] is None
        assert written[name]["mae"] is None


@pytest.mark.parametrize(("limit", "left_out"), [(11, True), (12, False)])
def test_ease_is_left_out_of_catalogues_above_the_limit(
    limit: int, left_out: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = make_ratings(9, 12, 40, 7), make_ratings(9, 12, 30, 8)
    held_out = HeldOut(test, train.matrix(), relevant_rows(test.users, test.values, 0.85))
    params = Baselines(item_mean_damping=1, ease_lambda=3, ease_min_rating=4, ease_max_movies=limit)
    results = measure(train, held_out, 5, params)
    message = capsys.readouterr().err
    assert ("ease" not in results) is left_out
    assert {"popularity", "item_mean"} <= set(results)
    if left_out:
        assert "EASE is left out" in message
        assert "12 x 12" in message
        assert "baselines.ease_max_movies allows 11" in message
        assert message.count("\n") == 1
    else:
        assert message == ""


def test_the_stage_leaves_ease_out_and_says_so(finished: Path) -> None:
    before = read_json(finished / "metrics/baselines.json")
    set_params(finished, baselines__ease_max_movies=79)
    result = stage(finished, "baselines")
    assert result.returncode == 0
    assert "EASE is left out" in result.stderr
    del before["ease"]
    assert read_json(finished / "metrics/baselines.json") == before


def test_the_stage_refuses_lists_longer_than_the_catalogue(finished: Path) -> None:
    set_params(finished, evaluate__k=81)
    refused(stage(finished, "baselines"), "params.yaml: evaluate.k: must be at most 80", "found 81")
