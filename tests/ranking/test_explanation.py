"""Shares of rated items in a score against sums written out by hand and slowly, and the nearest items elsewhere."""

import dataclasses
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from recommender.ranking import fold_in as module
from recommender.ranking.explanation import by_nearest, by_shares, parts_of
from recommender.ranking.factors import Factors, similar_items
from recommender.ranking.fold_in import EncodedLoss, FoldIn, RatingLoss, SoftmaxLoss, fold_in
from recommender.ranking.learned import Learned
from recommender.ranking.recommender import Recommender, as_text
from recommender.ranking.user_kernel import UserKernel
from tests.ranking.helpers import ITEMS, make_kernel, numbers

SIZE = 6


def make_factors(seed: int, users: int = 1, items: int = ITEMS, size: int = SIZE) -> Factors:
    random = np.random.default_rng(seed)
    order = np.arange(items, dtype=np.int32)
    return Factors(numbers(random, users, size), numbers(random, items, size), numbers(random, users),
                   numbers(random, items), order, 3.25)  # fmt: skip


def make_ratings(seed: int, items: int = ITEMS) -> sp.csr_array:
    random = np.random.default_rng(seed)
    dense = random.integers(1, 6, (1, items)) * (random.random((1, items)) < 0.5)
    return sp.csr_array(dense.astype(np.float32))


LOSSES: dict[str, FoldIn] = {
    "ridge": RatingLoss(30, 0.01),
    "ridge without a penalty": RatingLoss(30, 0.0),
    "ridge with dropout of an ensemble": RatingLoss(30, 0.01, 1.0, 0.3, 0, 2),
    "lazy ridge": RatingLoss(30, 0.01, 0.5, 0.0, 4),
    "kernel": UserKernel(**make_kernel(5, SIZE)),
    "kernel of some items": UserKernel(**make_kernel(6, SIZE, full=False)),
    "encoded": EncodedLoss(30, 0.01, 1.0, 0.3, **make_kernel(7, 2)),
    "encoded ensemble": EncodedLoss(30, 0.01, 1.0, ensemble_size=2, **make_kernel(8, 1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_base_and_shares_add_up_to_the_score_of_who_is_folded_in(name: str) -> None:
    for seed in range(20):
        factors, ratings = make_factors(seed), make_ratings(seed)
        folded = fold_in(factors, LOSSES[name], ratings)
        parts = parts_of(factors, LOSSES[name], ratings)
        assert parts
        for item in range(ITEMS):
            score = float(folded.pair_scores(np.zeros(1, np.int32), np.array([item], np.int32))[0])
            why = by_shares(factors, parts, ratings, item, score)
            assert sorted(why.items.tolist()) == ratings.indices.tolist()
            assert why.ratings.tolist() == [ratings[0, each] for each in why.items]
            assert (np.diff(np.abs(why.values)) <= 0).all()
            # What is left is the rounding of vectors to float32.
            size = abs(why.base) + np.abs(why.values).sum()
            assert why.base + why.values.sum() + why.rest == pytest.approx(score, rel=1e-12)
            assert abs(why.rest) < 1e-6 * size


def test_shares_of_a_ridge_by_hand() -> None:
    """With one rating (A = [[4 + 1, 2], [2, 1 + 1]], A^-1 (2, 1) = (1/3, 1/6)), and one that is as expected."""
    items = np.array([[2], [0], [3]], np.float32)
    bias, zeros = np.array([0.75, 0.5, 0.25], np.float32), np.zeros((1, 1), np.float32)
    factors = Factors(zeros, items, zeros[0], bias, np.arange(3, dtype=np.int32), 0.25)
    one = sp.csr_array(np.array([[5, 0, 0]], np.float32))
    parts = parts_of(factors, RatingLoss(10, 0.1, 1.0), one)
    assert parts
    why = by_shares(factors, parts, one, 2, 0.5 + 4 * (3 / 3 + 1 / 6))
    assert (why.kind, why.items.tolist(), why.ratings.tolist()) == ("shares", [0], [5.0])
    assert why.base == 0.5
    assert why.values[0] == pytest.approx(4 * (3 / 3 + 1 / 6))
    assert why.rest == pytest.approx(0, abs=1e-12)
    both = sp.csr_array(np.array([[5, 0.75, 0]], np.float32))
    parts = parts_of(factors, RatingLoss(10, 0.1, 1.0), both)
    assert parts
    why = by_shares(factors, parts, both, 2, 0.0)
    # A = [[5, 2], [2, 3]], A^-1 (2, 1) = (4, 1) / 11
    assert why.items.tolist() == [0, 1]
    assert_allclose(why.values, [4 * (3 * 4 + 1) / 11, 0], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 3), st.floats(0.1, 3), st.floats(0, 0.6))
def test_shares_of_a_ridge_are_those_of_its_normal_equations(seed: int, l2: float, bias: float, dropout: float) -> None:
    factors, ratings = make_factors(seed), make_ratings(seed)
    parts = parts_of(factors, RatingLoss(1, l2, bias, dropout), ratings)
    assert parts
    system = np.diag([l2] * SIZE + [bias])
    extended = [np.append(each.astype(float), 1) for each in factors.item_factors]
    for item in ratings.indices:
        system += np.outer(extended[item], extended[item])
        system += dropout / (1 - dropout) * np.diag(np.append(extended[item][:-1] ** 2, 0))
    for item in range(ITEMS):
        why = by_shares(factors, parts, ratings, item, 0.0)
        assert why.base == pytest.approx(3.25 + float(factors.item_bias[item]), rel=1e-12)
        for rated, rating, share in zip(why.items, why.ratings, why.values, strict=True):
            target = float(rating) - 3.25 - float(factors.item_bias[rated])
            expected = target * extended[item] @ np.linalg.inv(system) @ extended[rated]
            assert share == pytest.approx(expected, rel=1e-6, abs=1e-9)


def slow_shares(parts: dict[str, Any], ratings: sp.csr_array, item: NDArray[np.float64]) -> tuple[float, list[float]]:
    """Return what a kernel's score of an item is without ratings, and each rating's share, one number at a time."""
    rated = {int(i): 1.5 ** (float(r) - 4) for i, r in zip(ratings.indices, ratings.data, strict=True)}
    place = {int(landmark): row for row, landmark in enumerate(parts["landmarks"])}

    def into(j: int, other: int) -> float:
        return rated[j] * float(parts["item_weights"][place[j], other]) if j in place else 0.0

    features = {j: [0.0] * ITEMS for j in rated}
    for other in range(ITEMS):
        profile = sum(into(j, other) for j in rated)
        for j in rated:
            filled = 2 * into(j, other) / profile * profile**0.75 if profile > 0 else 0.0
            features[j][other] = float(parts["item_scale"][other]) * (filled + (rated[j] if j == other else 0.0))
    length = math.sqrt(sum(sum(features[j][other] for j in rated) ** 2 for other in range(ITEMS)))
    scale, base, shares = (max(len(rated), 1) / 6) ** 0.2, 0.0, dict.fromkeys(rated, 0.0)
    for row, anchor in enumerate(parts["anchors"].astype(float)):
        weight = scale * float(parts["anchor_scale"][row]) * float(parts["mapping"][row].astype(float) @ item)
        cosines = {j: sum(anchor[other] * features[j][other] for other in range(ITEMS)) / length for j in rated}
        cosine = sum(cosines.values())
        base += weight * math.exp(-3)
        for j in rated:
            shares[j] += weight * (math.exp(3 * (cosine - 1)) - math.exp(-3)) * cosines[j] / cosine
    return base, list(shares.values())


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_shares_of_a_kernel_are_those_of_its_definition(seed: int, full: bool) -> None:
    parts, ratings, factors = make_kernel(seed, SIZE, full=full), make_ratings(seed), make_factors(seed)
    factors = dataclasses.replace(factors, item_bias=np.zeros(ITEMS, np.float32), global_mean=0.0)
    found = parts_of(factors, UserKernel(**parts), ratings)
    assert found
    for item in range(ITEMS):
        base, shares = slow_shares(parts, ratings, factors.item_factors[item].astype(float))
        why = by_shares(factors, found, ratings, item, 0.0)
        assert why.base == pytest.approx(base, rel=1e-6)
        assert_allclose(why.values[np.argsort(why.items)], shares, rtol=1e-5, atol=1e-6)


def test_shares_of_a_kernel_by_hand() -> None:
    """One rating of four stars, weight 1, and one anchor who has the same alone: cosine 1, kernel 1."""
    weights = np.zeros((2, 2), np.float32)
    one = np.ones((1, 1), np.float32)
    parts: dict[str, Any] = make_kernel(0, SIZE) | {"user_scale": 0.0, "item_scale": np.ones(2, np.float32)}
    parts |= {"landmarks": np.arange(2, dtype=np.int32), "item_weights": weights, "anchors": np.eye(2)[:1]}
    kernel = UserKernel(**parts | {"anchor_scale": one[0], "mapping": one})
    ratings = sp.csr_array(np.array([[4, 0]], np.float32))
    assert_allclose(kernel.parts(ratings), [[math.exp(-3)], [1 - math.exp(-3)]], rtol=1e-6)
    # A second item that the anchor does not have adds nothing but length: cosine 1 / sqrt(2).
    ratings = sp.csr_array(np.array([[4, 4]], np.float32))
    kernel_value = math.exp(3 * (math.sqrt(0.5) - 1))
    assert_allclose(kernel.parts(ratings), [[math.exp(-3)], [kernel_value - math.exp(-3)], [0]], rtol=1e-6)
    nobody = sp.csr_array((1, 2), dtype=np.float32)
    assert_allclose(kernel.parts(nobody), kernel.vectors(nobody), rtol=1e-6)


def test_a_softmax_has_no_shares() -> None:
    assert parts_of(make_factors(1), SoftmaxLoss(2.0, 0.1), make_ratings(1)) is None


def make_recommender(factors: Factors, folded: bool, knows: bool) -> Recommender:
    """One user who has rated items, and another one of them whom the model does not know."""
    rated = make_ratings(1)
    known = rated.copy()
    known.data[0] = 0  # in the test part
    known.eliminate_zeros()
    names = [f"Item {item}" for item in range(ITEMS)]
    items = pa.table({"item_id": list(range(ITEMS)), "title": names, "categories": [""] * ITEMS})
    learned = Learned(np.full(ITEMS, 30), np.array([knows]))
    return Recommender(factors, rated, known, np.array([folded]), np.array([1]), items, learned)


@pytest.mark.parametrize(
    ("loss", "folded", "kind"),
    [
        ("ridge", False, "nearest"),
        ("ridge", True, "shares"),
        ("kernel", False, "shares"),
        ("kernel", True, "shares"),
        ("encoded", False, "nearest"),
        ("encoded", True, "shares"),
    ],
)
def test_shares_are_those_of_vectors_that_are_made_of_ratings(
    loss: str, folded: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda: LOSSES[loss])
    recommender = make_recommender(make_factors(3), folded, knows=True)
    rated = fold_in(recommender.factors, LOSSES[loss], recommender.known)
    recommender = dataclasses.replace(recommender, factors=rated)
    shown = recommender.show_user("1", 3, explain=True)
    for item in shown["recommendations"]:
        assert item["why"]["kind"] == kind
        if kind == "shares":
            why = item["why"]
            assert {each["item_id"] for each in why["rated"]} == set(recommender.known.indices.tolist())
            total = why["base"] + why["rest"] + sum(each["share"] for each in why["rated"])
            assert total == pytest.approx(item["score"], abs=1e-5)  # each rounded to 6 decimals
            assert abs(why["rest"]) <= 1e-5


def test_what_a_kernel_leaves_out_of_a_trained_vector_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", lambda: LOSSES["kernel"])
    recommender = make_recommender(make_factors(3), folded=False, knows=True)
    vectors = fold_in(recommender.factors, LOSSES["kernel"], recommender.known).user_factors
    recommender = dataclasses.replace(
        recommender, factors=dataclasses.replace(recommender.factors, user_factors=vectors * np.float32(1.01))
    )
    shown = recommender.show_user("1", 1, explain=True)
    [item] = shown["recommendations"]
    assert "approximation" in as_text(shown)
    bias = float(recommender.factors.item_bias[item["item_id"]] + recommender.factors.user_bias[0]) + 3.25
    expected = float(recommender.factors.user_bias[0]) + (item["score"] - bias) * (1 - 1 / 1.01)
    assert item["why"]["rest"] == pytest.approx(expected, abs=1e-5)


def test_whom_the_model_does_not_know_gets_no_explanation() -> None:
    shown = make_recommender(make_factors(3), folded=False, knows=False).show_user("1", 2, explain=True)
    assert [item["why"] for item in shown["recommendations"]] == [{"kind": "none", "rated": []}] * 2
    lines = as_text(shown).splitlines()
    assert lines[-3] == "Below each: nothing, as the model has learned none of this user's ratings"


def test_the_nearest_are_rated_items_among_the_similar_ones() -> None:
    factors, ratings = make_factors(4), make_ratings(4)
    counts = np.array([30] * (ITEMS - 1) + [19])
    item = int(np.setdiff1d(np.arange(ITEMS), ratings.indices)[0])
    why = by_nearest(factors, counts, ratings, item)
    near, cosines = similar_items(factors, counts, item, ITEMS)
    expected = [(int(each), float(cosine)) for each, cosine in zip(near, cosines, strict=True) if ratings[0, each]]
    assert list(zip(why.items.tolist(), why.values.tolist(), strict=True)) == expected
    assert why.ratings.tolist() == [ratings[0, each] for each in why.items]
    assert ITEMS - 1 not in why.items
    assert (why.kind, why.base, why.rest) == ("nearest", 0, 0)
