"""Ranking in closed form against NumPy in float64, user by user and item by item."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.kernels import (
    KEPT,
    PRODUCTS,
    equal_slices,
    item_weights,
    leading,
    sparse_gram,
    user_kernel,
)
from recommender.models.core.training import train
from recommender.models.kernel import TARGET_BASE, ridge, solve
from recommender.params import Kernel
from recommender.ranking.fold_in import fold_in
from tests.models.helpers import ITEMS, USERS, make_parts, parameters

PARTS = make_parts()
KNOWN = PARTS.train
SIZE = 12


@pytest.fixture(autouse=True)
def converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommender.models.core.kernels.leading.__defaults__", (100,))
    for name in ("ROUNDS", "LANDMARK_ROUNDS"):
        monkeypatch.setattr(f"recommender.models.kernel.{name}", 100)


def section(**changes: float) -> Kernel:
    return parameters("kernel", {"embedding_size": SIZE, **changes}).kernel


def stars(known: Interactions = KNOWN) -> list[dict[int, float]]:
    """Return the stars of each user by item."""
    rows: list[dict[int, float]] = [{} for _ in range(known.num_users)]
    for user, item, rating in zip(known.users, known.items, known.ratings, strict=True):
        rows[user][int(item)] = float(rating)
    return rows


def slow_profiles(params: Kernel, landmarks: list[int]) -> NDArray[np.float64]:
    """Return the profiles, (users, items), of the definition alone."""
    x = [{item: params.rating_base ** (star - 4) for item, star in row.items()} for row in stars()]
    counts = [max(len(row), 1) for row in x]
    mean = sum(counts) / USERS
    columns = [[row.get(item, 0.0) for row in x] for item in range(ITEMS)]
    power = [sum(value**2 for value in column) + 1e-6 for column in columns]
    s = [(value / (sum(power) / ITEMS)) ** params.item_scale for value in power]
    scaled = [
        [value / (count / mean) ** params.user_discount for value, count in zip(column, counts, strict=True)]
        for column in columns
    ]
    kernel = np.zeros((ITEMS, ITEMS))
    for i in range(ITEMS):
        for j in range(ITEMS):
            dot = sum(a * b for a, b in zip(scaled[i], scaled[j], strict=True))
            length = math.hypot(*scaled[i]) * math.hypot(*scaled[j])
            kernel[i, j] = math.exp(params.item_gamma * ((dot / length if length else 0) - 1)) * s[i] * s[j]
    inverse = np.linalg.inv(kernel[np.ix_(landmarks, landmarks)] + params.item_ridge * np.eye(len(landmarks)))
    profiles = np.zeros((USERS, ITEMS))
    for user, row in enumerate(x):
        for j in range(ITEMS):
            for place, i in enumerate(landmarks):
                if j in landmarks:
                    at = landmarks.index(j)
                    weight = 0.0 if i == j else -inverse[place, at] / inverse[at, at]
                else:
                    weight = sum(inverse[place, at] * kernel[k, j] for at, k in enumerate(landmarks))
                profiles[user, j] += row.get(i, 0.0) * weight
    return profiles.clip(min=0)


def slow_kernel(params: Kernel, landmarks: list[int]) -> NDArray[np.float64]:
    """Return the kernel of all users with all."""
    rows, profiles = stars(), slow_profiles(params, landmarks)
    raters = [max(sum(item in row for row in rows), 1) for item in range(ITEMS)]
    counts = [max(len(row), 1) for row in rows]
    features = np.zeros((USERS, ITEMS))
    for user, row in enumerate(rows):
        for item in range(ITEMS):
            x = params.rating_base ** (row[item] - 4) if item in row else 0.0
            share = raters[item] / (sum(raters) / ITEMS)
            features[user, item] = (
                x + params.profile_weight * profiles[user, item] ** 0.75
            ) / share**params.item_discount
        features[user] /= math.hypot(*features[user]) or 1
    scale = [(count / (sum(counts) / USERS)) ** params.user_scale for count in counts]
    return np.array(
        [
            [math.exp(params.user_gamma * (one @ other - 1)) * scale[u] * scale[v] for v, other in enumerate(features)]
            for u, one in enumerate(features)
        ]
    )


def popular(count: int) -> list[int]:
    counts = KNOWN.item_counts()
    return sorted(sorted(range(ITEMS), key=lambda item: (-counts[item], item))[:count])


@pytest.mark.parametrize("count", [ITEMS, 20])
def test_scores_are_those_of_the_definition(count: int) -> None:
    params = section(max_items=count)
    factors, _ = solve(KNOWN, PARTS.item_order, params, 7)
    kernel = slow_kernel(params, popular(count))
    values, vectors = np.linalg.eigh(kernel)
    users = vectors[:, -SIZE:] * np.sqrt(values[-SIZE:])
    assert_allclose(factors.user_factors @ factors.user_factors.T, users @ users.T, rtol=0, atol=2e-3)
    targets = np.zeros((USERS, ITEMS))
    for user, row in enumerate(stars()):
        for item, star in row.items():
            targets[user, item] = TARGET_BASE ** (star - 4)
    items = np.linalg.solve(users.T @ users + params.ridge * np.eye(SIZE), users.T @ targets)
    assert_allclose(factors.user_factors @ factors.item_factors.T, users @ items, rtol=0, atol=2e-3)


def test_profiles_are_those_of_the_definition() -> None:
    inputs = KNOWN.as_stars().matrix()
    inputs.data = np.float32(1.5) ** (inputs.data - 4)
    for count in (ITEMS, 20):
        landmarks = np.array(popular(count), dtype=np.int32)
        weights = item_weights(inputs, landmarks, section())
        assert_allclose(
            (inputs[:, landmarks] @ weights).clip(min=0), slow_profiles(section(), popular(count)), atol=1e-4
        )


def test_half_of_the_products_of_sparse_rows_has_the_bits_of_the_whole() -> None:
    rows = sp.random_array((2 * PRODUCTS + 3, 50), density=0.2, format="csr", rng=np.random.default_rng(9))
    assert_array_equal(sparse_gram(rows), (rows @ rows.T.tocsr()).toarray().astype(np.float32))


def test_a_ridge_leaves_no_gradient() -> None:
    users = np.random.default_rng(1).normal(0, 1, (USERS, SIZE)).astype(np.float32)
    targets = KNOWN.matrix()
    items = ridge(users, targets, 3.0).astype(np.float64)
    gradient = (users @ items.T - targets.toarray()).T @ users + 3.0 * items
    assert np.abs(items).max() > 0.1
    assert_allclose(gradient, 0, atol=1e-3)


def test_leading_features_of_a_singular_kernel_are_those_of_what_is_there() -> None:
    few = np.random.default_rng(2).normal(0, 1, (40, 3)).astype(np.float32)
    kernel = few @ few.T
    mapping, features = leading(kernel, 10, 0)
    assert_allclose(kernel @ mapping, features, rtol=0, atol=1e-3)
    assert_allclose(features @ features.T, kernel, rtol=0, atol=2e-2)


def test_who_was_trained_on_gets_the_trained_vector_folded_in() -> None:
    factors, kernel = solve(KNOWN, PARTS.item_order, section(), 7)
    folded = fold_in(factors, kernel, KNOWN.matrix())
    one, other = (part.user_factors @ factors.item_factors.T for part in (folded, factors))
    assert one.std() > 0.05
    assert_allclose(one, other, rtol=0, atol=0.01)  # as the anchors are kept in half precision
    alone = fold_in(factors, kernel, KNOWN.matrix()[[5]])
    assert_allclose(alone.user_factors[0], folded.user_factors[5], rtol=0, atol=1e-4)
    assert not folded.user_bias.any()


def test_landmarks_stand_for_all_users_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    exact, _ = solve(KNOWN, PARTS.item_order, section(), 7)
    some, kernel = solve(KNOWN, PARTS.item_order, section(max_users=40), 7)
    assert capsys.readouterr().err == (
        "kernel: 40 of 60 users stand for all (train.kernel.max_users); "
        "with less than a twentieth, softmax_mf ranks better\n"
    )
    assert len(kernel.anchors) == 40
    assert some.user_factors.shape == (USERS, SIZE)
    one, other = (part.user_factors @ part.item_factors.T for part in (exact, some))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95
    assert np.abs(one - other).max() > 0.01
    again, _ = solve(KNOWN, PARTS.item_order, section(max_users=40), 7)
    assert_array_equal(again.user_factors, some.user_factors)


def test_many_anchors_are_kept_in_part_with_a_mapping_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    factors, _ = solve(KNOWN, PARTS.item_order, section(), 7)
    monkeypatch.setattr("recommender.models.core.kernels.KEPT", 30)
    _, kernel = solve(KNOWN, PARTS.item_order, section(), 7)
    assert kernel.anchors.shape == (30, ITEMS)
    folded = fold_in(factors, kernel, KNOWN.matrix())
    one, other = (part.user_factors @ factors.item_factors.T for part in (folded, factors))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95
    assert KEPT > 30


def test_the_mapping_of_kept_anchors_is_exact_where_their_kernel_is_nearly_singular(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recommender.models.core.kernels.KEPT", 30)
    monkeypatch.setattr("recommender.models.core.kernels.KEPT_RIDGE", 1e-9)
    flat = section(user_gamma=0.003)  # all users nearly the same
    factors, kernel = solve(KNOWN, PARTS.item_order, flat, 7)
    folded = fold_in(factors, kernel, KNOWN.matrix()).user_factors.astype(np.float64)
    features = kernel.features(kernel.inputs(KNOWN.matrix())).astype(np.float64)
    similar = np.exp(0.003 * (features @ kernel.anchors.T.astype(np.float64) - 1)) * kernel.anchor_scale
    similar *= kernel.scale(np.diff(KNOWN.matrix().indptr))[:, None]
    gram = similar.T @ similar
    ridge = gram + 1e-9 * np.trace(gram) / 30 * np.eye(30)
    best = similar @ np.linalg.solve(ridge, similar.T @ factors.user_factors)
    errors = [np.linalg.norm(each - factors.user_factors) for each in (folded, best)]
    assert errors[0] < 1.5 * errors[1]  # in single precision, thousands of times as large


def test_users_and_items_without_ratings_get_finite_numbers() -> None:
    kept = (KNOWN.users != 3) & (KNOWN.items != 5)
    few = Interactions(KNOWN.users[kept], KNOWN.items[kept], KNOWN.ratings[kept], KNOWN.shape)
    factors, kernel = solve(few, PARTS.item_order, section(), 7)
    assert np.isfinite(factors.user_factors).all()
    assert not factors.item_factors[5].any()
    assert user_kernel(few.matrix(), few.scale, section(), np.arange(3, dtype=np.int32)).mapping.size == 0
    assert np.isfinite(kernel.vectors(few.matrix()[[3]])).all()


def test_scales_other_than_stars_and_implicit_data_give_the_same_as_stars() -> None:
    tens = dataclasses.replace(KNOWN, ratings=KNOWN.ratings * 2, scale=(2.0, 10.0))
    one, other = (solve(known, PARTS.item_order, section(), 7)[0] for known in (KNOWN, tens))
    assert_array_equal(one.user_factors, other.user_factors)
    fours, ones = (
        dataclasses.replace(KNOWN, ratings=np.full_like(KNOWN.ratings, value), scale=scale)
        for value, scale in ((4, (1.0, 5.0)), (1, (1.0, 1.0)))
    )
    one, other = (solve(known, PARTS.item_order, section(), 7)[0] for known in (fours, ones))
    assert_array_equal(one.item_factors, other.item_factors)


def test_validation_is_measured_and_a_final_fit_learns_from_it() -> None:
    parts = make_parts(0.2)
    found = train(parts, parameters("kernel"))
    assert set(found.metrics) > {"weights", "val_map", "val_recall"}
    assert {name: len(column) for name, column in found.history.items()} == {"epoch": 0, "loss": 0}
    final = train(parts, parameters("kernel", final_fit=True))
    assert final.metrics == found.metrics
    known = parts.train.joined(parts.validation)
    expected, _ = solve(known, parts.item_order, parameters("kernel").kernel, 7)
    assert_array_equal(final.factors.user_factors, expected.user_factors)


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (5, 5), (6, 5), (11, 5), (3992, 2048), (7, 1)])
def test_slices_of_one_size_have_every_row(count: int, most: int) -> None:
    found = list(equal_slices(count, most))
    assert sorted({row for part in found for row in range(part.start, part.stop)}) == list(range(count))
    assert len({part.stop - part.start for part in found}) <= 1
    assert len(found) == math.ceil(count / most)
    assert all(0 < part.stop - part.start <= most for part in found)
