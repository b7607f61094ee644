"""Popularity, damped item means and EASE against plain computations."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.ranking.baselines import ItemSums, ease_top_k, ease_weights, item_means, liked
from recommender.storage import read_csv, read_json, read_table
from tests import reference
from tests.conftest import set_params, stage

K = 25


def make_ratings(users: int, items: int, count: int, seed: int) -> Interactions:
    random = np.random.default_rng(seed)
    pairs = random.permutation(users * items)[:count]
    ratings = (random.integers(1, 11, count) / 2).astype(np.float32)
    return Interactions((pairs // items).astype(np.int32), (pairs % items).astype(np.int32), ratings, (users, items))


def ridge_by_column(liked: NDArray[np.float64], l2: float) -> NDArray[np.float64]:
    """Regress every item on all the others, one by one."""
    items = liked.shape[1]
    weights = np.zeros((items, items))
    for item in range(items):
        others = [other for other in range(items) if other != item]
        inputs = liked[:, others]
        weights[others, item] = np.linalg.solve(inputs.T @ inputs + l2 * np.eye(len(others)), inputs.T @ liked[:, item])
    return weights


@pytest.mark.parametrize("damping", [0, 0.5, 10])
def test_item_means_are_damped_towards_the_global_mean(damping: float) -> None:
    train = make_ratings(6, 30, 25, 2)
    ratings = train.ratings.tolist()
    mean = sum(ratings) / len(ratings)
    expected = []
    for item in range(30):
        own = [rating for rating, rated in zip(ratings, train.items.tolist(), strict=True) if rated == item]
        expected.append((sum(own) + damping * mean) / (len(own) + damping) if len(own) + damping else mean)
    assert 0 in train.item_counts()
    assert_allclose(item_means(ItemSums.of(train), damping), expected, rtol=0, atol=1e-12)


def test_liked_are_the_ratings_at_or_above_the_least() -> None:
    train = make_ratings(8, 9, 50, 3)
    table = np.zeros((8, 9))
    for user, item, rating in zip(train.users, train.items, train.ratings, strict=True):
        table[user, item] = rating >= 4
    assert_array_equal(liked(train, 4).toarray(), table)
    assert liked(train, 0).sum() == 50
    assert 0 < table.sum() < 50


@pytest.mark.parametrize("l2", [0.5, 300])
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(l2: float) -> None:
    interactions = liked(make_ratings(40, 15, 250, 4), 3)
    expected = ridge_by_column(interactions.toarray(), l2)
    weights = ease_weights(interactions, l2)
    assert_allclose(weights, expected, rtol=0, atol=1e-12)
    assert_array_equal(np.diag(weights), np.zeros(15))
    users = np.array([3, 1], dtype=np.int32)
    found, _ = ease_top_k(interactions, weights, users, sp.csr_array((40, 15)), 15)
    assert_array_equal(found, np.argsort(-np.round(interactions[users] @ expected, 9), axis=1, kind="stable"))


def test_ease_weights_of_items_that_nobody_likes_are_0() -> None:
    weights = ease_weights(liked(make_ratings(3, 20, 10, 5), 4), 1.0)
    assert np.isfinite(weights).all()
    assert (np.abs(weights).sum(axis=0) == 0).any()


def test_ease_lists_items_liked_by_the_same_users_in_the_order_of_their_indices() -> None:
    interactions = liked(make_ratings(30, 10, 200, 6), 3).toarray()
    interactions[:, 7] = interactions[:, 2]
    matrix = sp.csr_array(interactions)
    everybody = np.arange(30, dtype=np.int32)
    lists, _ = ease_top_k(matrix, ease_weights(matrix, 2.0), everybody, sp.csr_array((30, 10)), 10)
    neither = np.flatnonzero(interactions[:, 2] == 0)
    assert len(neither)
    assert (np.argmax(lists[neither] == 2, axis=1) < np.argmax(lists[neither] == 7, axis=1)).all()


def test_the_stage_writes_what_the_slow_reference_finds(trained: Path) -> None:
    train, test = (read_table(trained / f"data/processed/{part}.parquet").to_pandas() for part in ("train", "test"))
    users, items = len(read_table(trained / "data/processed/users.parquet")), 80
    counts, sums, interactions = np.zeros(items), np.zeros(items), np.zeros((users, items))
    for user, item, rating in train[["user", "item", "rating"]].itertuples(index=False):
        counts[item] += 1
        sums[item] += rating
        interactions[user, item] = rating >= 4
    means = (sums + 10 * sums.sum() / counts.sum()) / (counts + 10)
    scores = {
        "popularity": np.tile(counts, (users, 1)),
        "item_mean": np.tile(means, (users, 1)),
        "ease": np.round(interactions @ ridge_by_column(interactions, 300), 9),
    }
    relevant = reference.relevant_items(test, 0.85)
    written = read_json(trained / "metrics/baselines.json")
    assert set(written) == set(scores)
    curves = read_csv(trained / "metrics/baselines_at_k.csv")
    assert curves["k"].tolist() == list(range(1, K + 1))
    categories = read_table(trained / "data/processed/items.parquet")["categories"].to_pylist()
    errors = means[test["item"]] - test["rating"].to_numpy(np.float64)
    for name, table in scores.items():
        ranked = reference.lists(
            train,
            sorted(relevant),
            items,
            K,
            lambda user, those, table=table: {item: table[user, item] for item in those},
        )
        for k in (1, 2, 10, K):
            expected = reference.measure(ranked, relevant, items, k)
            expected |= reference.describe(ranked, relevant, train, items, k, categories)
            at_k = {key: curves[f"{name}_{key}"][k - 1] for key in expected}
            assert at_k == pytest.approx(expected, abs=6e-7, rel=0), (name, k)
        expected |= {"users": len(relevant)}
        if name == "item_mean":
            expected |= {"rmse": np.sqrt((errors**2).mean()), "mae": np.abs(errors).mean()}
        assert written[name] == pytest.approx(expected, abs=6e-7, rel=0), name


def test_the_stage_skips_ease_for_catalogues_above_the_limit_and_says_so(finished: Path) -> None:
    before = read_json(finished / "metrics/baselines.json")
    for limit in (80, 79):
        set_params(finished, baselines__ease_max_items=limit)
        result = stage(finished, "baselines")
        assert result.returncode == 0
        if limit == 80:
            assert result.stderr == ""
            assert read_json(finished / "metrics/baselines.json") == before
    assert result.stderr.startswith(
        "EASE is skipped: it inverts a 80 x 80 matrix, and baselines.ease_max_items allows 79"
    )
    assert result.stderr.count("\n") == 1
    del before["ease"]
    assert read_json(finished / "metrics/baselines.json") == before
