"""Files of factors, predictions from them, means of several, and cosines."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

from recommender.errors import RERUN, UserError
from recommender.paths import FACTORS
from recommender.ranking.factors import Factors
from recommender.storage import write_arrays

FIELDS = ("user_factors", "item_factors", "user_bias", "item_bias", "item_order")


def make_factors(users: int = 5, items: int = 7, size: int = 3, **others: Any) -> Factors:  # noqa: ANN401
    random = np.random.default_rng(2)
    parts = [random.normal(0, 1, shape).astype(np.float32) for shape in ((users, size), (items, size), users, items)]
    return Factors(*parts, random.permutation(items).astype(np.int32), **others)


@pytest.mark.parametrize(("interaction", "scores"), [("dot", "order"), ("batch_sum", "ratings")])
def test_saved_factors_load_as_they_were(tmp_path: Path, interaction: str, scores: str) -> None:
    factors = make_factors(interaction=interaction, global_mean=3.25, scores=scores)
    factors.save(tmp_path / "factors.npz")
    loaded = Factors.load(tmp_path / "factors.npz")
    for name in FIELDS:
        before, after = getattr(factors, name), getattr(loaded, name)
        assert_array_equal(after, before)
        assert after.dtype == before.dtype
    assert (loaded.interaction, loaded.global_mean, loaded.scores) == (interaction, 3.25, scores)
    assert loaded.predicts_ratings is (scores == "ratings")


def test_the_same_factors_are_saved_as_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_factors().save(tmp_path / "first.npz")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    make_factors().save(tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    make_factors(global_mean=1.0).save(tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() != (tmp_path / "second.npz").read_bytes()


Arrays = dict[str, Any]
Change = Callable[[Arrays], object]
CHANGES: dict[str, Change] = {
    **{
        f"no {name}": lambda arrays, name=name: arrays.pop(name)
        for name in (*FIELDS, "global_mean", "interaction", "scores")
    },
    "flat users": lambda arrays: arrays.update(user_factors=arrays["user_factors"].ravel()),
    "vectors of two lengths": lambda arrays: arrays.update(user_factors=arrays["user_factors"][:, :2]),
    "a user without a bias": lambda arrays: arrays.update(user_bias=arrays["user_bias"][1:]),
    "an item without a bias": lambda arrays: arrays.update(item_bias=arrays["item_bias"][1:]),
    "biases in a column": lambda arrays: arrays.update(item_bias=arrays["item_bias"][:, None]),
    "an item without a rank": lambda arrays: arrays.update(item_order=arrays["item_order"][1:]),
    "two global means": lambda arrays: arrays.update(global_mean=np.zeros(2, dtype=np.float32)),
    "a global mean in words": lambda arrays: arrays.update(global_mean=np.array("3.5")),
    "float64 vectors": lambda arrays: arrays.update(user_factors=arrays["user_factors"].astype(np.float64)),
    "float64 biases": lambda arrays: arrays.update(item_bias=arrays["item_bias"].astype(np.float64)),
    "ranks in words": lambda arrays: arrays.update(item_order=arrays["item_order"].astype(str)),
    "another interaction": lambda arrays: arrays.update(interaction=np.array("cosine")),
    "another kind of scores": lambda arrays: arrays.update(scores=np.array("stars")),
}


def change_saved(path: Path, change: Change) -> None:
    """Save factors, and change the arrays of the file."""
    make_factors().save(path)
    with np.load(path) as loaded:
        arrays = dict(loaded)
    change(arrays)
    write_arrays(path, arrays)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "factors.npz"
    change_saved(path, change)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*not a file of factors.*dvc repro"):
        Factors.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [*FIELDS[:4], "global_mean"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    path = tmp_path / "factors.npz"
    change_saved(path, lambda arrays: arrays[name].__setitem__((-1,) * arrays[name].ndim, value))
    with pytest.raises(UserError, match=r"NaN or infinite.*lower the learning rate"):
        Factors.load(path)


@pytest.mark.parametrize(("share", "refused"), [(1, False), (1.01, True)])
def test_scores_of_at_most_an_eighth_of_the_largest_float32_are_allowed(
    tmp_path: Path, share: float, refused: bool
) -> None:
    # The vectors' lengths, a half and the limit, multiply to half of the limit; a bias adds the rest.
    limit = float(np.finfo(np.float32).max) / 8
    users, items = np.full((2, 4), 0.25, dtype=np.float32), np.full((3, 4), limit / 2, dtype=np.float32)
    bias = np.array([0, limit * (share - 0.5), 0], dtype=np.float32)
    factors = Factors(users, items, np.zeros(2, dtype=np.float32), bias, np.arange(3, dtype=np.int32))
    factors.save(tmp_path / "factors.npz")
    if refused:
        with pytest.raises(UserError, match="so large that scores overflow; lower the learning rate"):
            Factors.load(tmp_path / "factors.npz")
        return
    _, scores = Factors.load(tmp_path / "factors.npz").top_k(np.arange(2, dtype=np.int32), sp.csr_array((2, 3)), 3)
    assert np.isfinite(scores).all()


def test_a_file_of_no_users_and_items_is_read_and_then_refused_for_its_shape(tmp_path: Path) -> None:
    make_factors(users=0, items=0).save(tmp_path / "factors.npz")
    with pytest.raises(UserError, match=r"was trained on 0 users and 0 items, but data/processed has 1 and 2; "):
        Factors.load(tmp_path / "factors.npz").check_shape((1, 2))


@pytest.mark.parametrize("users", [slice(1, 4), slice(0, 5, 2), slice(2, 2)])
def test_some_users_are_read_alone(tmp_path: Path, users: slice) -> None:
    path, factors = tmp_path / "factors.npz", make_factors()
    factors.save(path)
    found = Factors.load(path, users, (5, 7))
    assert_array_equal(found.user_factors, factors.user_factors[users])
    assert_array_equal(found.user_bias, factors.user_bias[users])
    assert_array_equal(found.item_factors, factors.item_factors)
    assert found.user_factors.flags.writeable  # read, and not in the file
    with pytest.raises(UserError, match=r"was trained on 5 users and 7 items, but data/processed has 5 and 8; "):
        Factors.load(path, users, (5, 8))


@pytest.mark.parametrize("name", FIELDS[:4])
def test_all_numbers_are_checked_where_some_users_are_read(tmp_path: Path, name: str) -> None:
    factors = make_factors()
    getattr(factors, name)[2] = np.nan
    factors.save(tmp_path / "factors.npz")
    with pytest.raises(UserError, match="contains NaN or infinite numbers"):
        Factors.load(tmp_path / "factors.npz", slice(1, 4), (5, 7))


def test_only_numbers_of_users_that_are_read_are_checked(tmp_path: Path) -> None:
    factors = make_factors()
    factors.user_factors[4] = np.nan
    factors.save(tmp_path / "factors.npz")
    Factors.load(tmp_path / "factors.npz", slice(4), (5, 7))
    with pytest.raises(UserError, match="contains NaN or infinite numbers"):
        Factors.load(tmp_path / "factors.npz", slice(1, 5), (5, 7))


def test_factors_of_another_split_are_refused() -> None:
    make_factors().check_shape((5, 7))
    with pytest.raises(UserError) as raised:
        make_factors().check_shape((5, 8))
    expected = f"{FACTORS}: was trained on 5 users and 7 items, but data/processed has 5 and 8; {RERUN}"
    assert str(raised.value) == expected


def test_a_prediction_is_the_mean_the_biases_and_the_dot_product() -> None:
    factors = Factors(
        np.array([[1, 2], [3, 4]], dtype=np.float32),
        np.array([[5, 6], [7, 8], [0, 1]], dtype=np.float32),
        np.array([0.5, -0.5], dtype=np.float32),
        np.array([0.25, 0, -0.25], dtype=np.float32),
        np.array([2, 0, 1], dtype=np.int32),
        global_mean=3.0,
    )
    users, items = np.array([0, 1, 1], dtype=np.int32), np.array([0, 1, 2], dtype=np.int32)
    expected = [3 + 0.5 + 0.25 + 17, 3 - 0.5 + 53, 3 - 0.5 - 0.25 + 4]
    assert factors.predict(users, items).tolist() == expected
    assert factors.pair_scores(users, items).tolist() == expected


def test_batch_sum_predicts_the_sum_of_every_32_pairs_in_order() -> None:
    factors = make_factors(interaction="batch_sum")
    random = np.random.default_rng(4)
    users, items = random.integers(0, 5, 70).astype(np.int32), random.integers(0, 7, 70).astype(np.int32)
    wide = factors.user_factors[users].astype(np.float64), factors.item_factors[items].astype(np.float64)
    dots = np.einsum("nd,nd->n", *wide)
    sums = np.concatenate([np.full(32, dots[:32].sum()), np.full(32, dots[32:64].sum()), np.full(6, dots[64:].sum())])
    expected = sums + factors.user_bias[users].astype(np.float64) + factors.item_bias[items].astype(np.float64)
    assert_allclose(factors.predict(users, items), expected, rtol=0, atol=1e-12)
    nobody = np.empty(0, dtype=np.int32)
    assert factors.predict(nobody, nobody).shape == (0,)


def test_the_mean_of_several_models_scores_as_the_mean_of_their_scores() -> None:
    first = make_factors(global_mean=3.5, scores="order")
    second = dataclasses.replace(first, item_factors=first.item_factors[::-1], user_bias=first.user_bias[::-1])
    mean = Factors.mean([first, second, second])
    assert (mean.global_mean, mean.scores) == (3.5, "order")
    assert_array_equal(mean.item_order, first.item_order)
    users, items = np.arange(5, dtype=np.int32), np.arange(5, dtype=np.int32)
    expected = (first.pair_scores(users, items) + 2 * second.pair_scores(users, items)) / 3
    assert_allclose(mean.pair_scores(users, items), expected, rtol=0, atol=1e-6)
    assert {getattr(mean, name).dtype for name in FIELDS[:4]} == {np.dtype(np.float32)}
    assert Factors.mean([first]) is first


def test_biases_are_averaged_in_float64() -> None:
    first, second, third = (
        dataclasses.replace(make_factors(), item_bias=np.full(7, bias, dtype=np.float32))
        for bias in (1, 2**-24, 2**-24)
    )
    assert set(Factors.mean([first, second, third]).item_bias) == {np.float32((1 + 2**-23) / 3)}


def test_cosines_are_those_of_the_angles() -> None:
    vectors = np.array([[1, 0], [3, 0], [0, 2], [-1, 0], [1, 1], [0, 0]], dtype=np.float32)
    factors = dataclasses.replace(make_factors(), item_factors=vectors)
    for item in (0, 1):
        assert_allclose(factors.cosines(item), [1, 1, 0, -1, 0.5**0.5, 0], atol=1e-12)
    assert factors.cosines(5).tolist() == [0.0] * 6


def test_cosines_are_never_outside_minus_one_to_one() -> None:
    vectors = np.random.default_rng(5).normal(0, 1, (100, 3)).astype(np.float32)
    factors = dataclasses.replace(make_factors(), item_factors=np.concatenate([vectors, -vectors]))
    assert max(np.abs(factors.cosines(item)).max() for item in range(200)) == 1


def test_the_tolerance_is_the_bound_on_rounding_errors_worked_out_by_hand() -> None:
    # 2^14 operations: 2^-10 / (1 - 2^-10) = 1 / 1023; vectors of length 5, 1 and 10, a bias of 7; 1.001 in reserve.
    size = 2**14 - 2
    users, items = np.zeros((2, size), dtype=np.float32), np.zeros((2, size), dtype=np.float32)
    users[0, :2], users[1, 0], items[1, :2] = (3, 4), 1, (6, 8)
    bias, everyone = np.array([-7, 0], dtype=np.float32), np.arange(2, dtype=np.int32)
    factors = Factors(users, items, bias, bias, everyone)
    tolerance = factors._tolerance(everyone)
    assert_allclose(tolerance, [1.001 * (5 * 10 + 7) / 1023, 1.001 * (10 + 7) / 1023], rtol=1e-6)
    vanishing = dataclasses.replace(factors, user_factors=users * 0, item_bias=bias * 0)._tolerance(everyone)
    assert_allclose(vanishing, 1.001 * 2.0**14 * 2.0**-126, rtol=1e-6)
    assert tolerance.dtype == factors._fast_scores(everyone).dtype == np.float32
