"""Top-K lists against a full sort of the exact scores."""

import os
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from recommender.errors import UserError
from recommender.ranking import topk
from recommender.ranking.factors import Factors
from recommender.ranking.topk import CHUNK, check_k, kth_largest_bound, threads, top_k, top_k_of_all

Lists = tuple[NDArray[np.int32], NDArray[np.float64]]
UNIT = 2.0**-24  # relative rounding error of float32


def full_sort(table: NDArray[Any], seen: NDArray[np.bool_], k: int) -> Lists:
    """Sort all candidates of every row by descending score, then ascending index."""
    items, scores = np.full((len(table), k), -1, dtype=np.int32), np.full((len(table), k), -np.inf)
    for row in range(len(table)):
        candidates = [item for item in range(table.shape[1]) if not seen[row, item]]
        best = sorted(candidates, key=lambda item: (-table[row, item], item))[:k]
        items[row, : len(best)] = best
        scores[row, : len(best)] = table[row, best]
    return items, scores


def exact_scores(factors: Factors) -> NDArray[np.float64]:
    """Score all pairs in float64, adding dimension by dimension."""
    wide = factors.user_factors.astype(np.float64), factors.item_factors.astype(np.float64)
    table = np.zeros((len(wide[0]), len(wide[1])))
    for left, right in zip(wide[0].T, wide[1].T, strict=True):
        table += left[:, None] * right[None, :]
    biases = factors.user_bias.astype(np.float64)[:, None] + factors.item_bias.astype(np.float64)[None, :]
    return table + (factors.global_mean + biases)


def fractions(factors: Factors) -> NDArray[np.object_]:
    """Score all pairs without any rounding; factors without user bias and global mean."""
    users, items = (
        [[Fraction(number) for number in row] for row in part.tolist()]
        for part in (factors.user_factors, factors.item_factors)
    )
    bias = [Fraction(number) for number in factors.item_bias.tolist()]
    return np.array(
        [
            [
                sum((a * b for a, b in zip(user, item, strict=True)), extra)
                for item, extra in zip(items, bias, strict=True)
            ]
            for user in users
        ]
    )


def near_ties(
    seed: int,
    users: int = 12,
    items: int = 60,
    size: int = 10,
    biased: bool = True,
    scale: float = 1,
    cancelling: bool = False,
) -> Factors:
    """Return items that differ in the last float32 bits only; `cancelling`: of scores much smaller than their terms."""
    random = np.random.default_rng(seed)
    vector = random.normal(0, scale, size).astype(np.float32)
    people = random.normal(0, scale, (users, size)).astype(np.float32)
    if cancelling:
        vector, people = np.concatenate([vector, -vector]), np.concatenate([people, people], axis=1)
    table = np.tile(vector, (items, 1))
    for _ in range(2):
        step = np.where(random.random(table.shape) < 0.5, np.float32(-np.inf), np.float32(np.inf))
        table = np.where(random.random(table.shape) < 0.4, np.nextafter(table, step), table)
    bias = random.integers(-2, 3, items).astype(np.float32) * np.float32(UNIT) if biased else np.zeros(items)
    return Factors(
        people,
        table,
        random.normal(0, 1, users).astype(np.float32) if biased else np.zeros(users, dtype=np.float32),
        bias.astype(np.float32),
        np.arange(items, dtype=np.int32),
        global_mean=3.5 if biased else 0.0,
    )


def without_bias(user_factors: Any, item_factors: Any, item_bias: Any) -> Factors:  # noqa: ANN401 - array-like
    """Return factors without user bias and global mean."""
    users, items, bias = (np.array(part, dtype=np.float64) for part in (user_factors, item_factors, item_bias))
    for part in (users, items, bias):
        assert_array_equal(part.astype(np.float32), part)
    return Factors(
        users.astype(np.float32),
        items.astype(np.float32),
        np.zeros(len(users), dtype=np.float32),
        bias.astype(np.float32),
        np.arange(len(items), dtype=np.int32),
    )


def some_seen(shape: tuple[int, int], seed: int) -> NDArray[np.bool_]:
    """Mark a third as seen, all of the first user's and none of the last one's."""
    seen = np.random.default_rng(seed).random(shape) < 1 / 3
    seen[0], seen[-1] = True, False
    return seen


def everyone(factors: Factors) -> NDArray[np.int32]:
    return np.arange(len(factors.user_factors), dtype=np.int32)


def assert_same(found: Lists, expected: Lists) -> None:
    assert_array_equal(found[0], expected[0])
    assert_array_equal(found[1], expected[1])


NEAR_TIES = {
    "usual": {},
    "tiny": {"biased": False, "scale": 1e-20},
    "huge": {"biased": False, "scale": 1e15},
    "cancelling": {"size": 32, "cancelling": True},
    "cancelling, huge": {"size": 5, "biased": False, "scale": 1e15, "cancelling": True},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", NEAR_TIES)
def test_lists_are_exact_where_float32_scores_are_in_the_wrong_order(seed: int, kind: str) -> None:
    factors = near_ties(seed, **NEAR_TIES[kind])
    table = exact_scores(factors)
    seen = some_seen(table.shape, seed)
    rough = (factors.user_factors @ factors.item_factors.T + factors.item_bias).astype(np.float64)
    wrong = full_sort(rough, seen, 60)[0]
    assert (wrong != full_sort(table, seen, 60)[0]).any(), "the float32 scores are in the right order"
    for k in range(1, 61):
        assert_same(factors.top_k(everyone(factors), sp.csr_array(seen), k), full_sort(table, seen, k))


def added_in_order(factors: Factors) -> NDArray[np.float32]:
    """Return float32 scores, added dimension by dimension: one of the orders that a matrix product may choose."""
    table = np.zeros((len(factors.user_factors), len(factors.item_factors)), dtype=np.float32)
    for left, right in zip(factors.user_factors.T, factors.item_factors.T, strict=True):
        table += left[:, None] * right[None, :]
    return table + factors.item_bias


def worst_roundings(size: int) -> Factors:
    """Return an item 0 of the higher score, where all operations round down, and an item 1, where all round up.

    Their float32 scores are (2 size + 1) u apart in the wrong order, u = 2^-24: more than twice size u, what the errors
    would amount to if only `size` operations rounded.
    """
    # First products (1 + 2^-12) q = a float32 number plus u (1 -+ 2^-11), which round by almost u: down and up.
    first = [1 + 2**-12 - 2**-23, 1 + 2**-12 + 2**-23]
    rounded = [1 + 2**-11 - 2**-23, 1 + 2**-11 + 2**-22]
    # All others are almost u, and vanish beside these.
    rest = 2**-12 * (1 - 2**-12)
    # The sums with the biases round from 1 - u / 2 down to 1 - u, and by almost u up to 1 + 2 size u.
    bias = [
        1 - UNIT / 2 * (1 + 2**-8) - rounded[0],
        1 + 2 * size * UNIT - UNIT * (1 - 2**-8) - rounded[1],
    ]
    vectors = [[first[0], *[rest] * (size - 1)], [first[1], *[-rest] * (size - 1)]]
    return without_bias([[1 + 2**-12, *[2**-12] * (size - 1)]], vectors, bias)


def rounded_beside_a_large_bias(size: int) -> Factors:
    """Return an item 0 of the higher score and an item 1, which rounding beside a bias near 1 puts 2 u apart.

    The dot products are near 2^-12, and so small are their own errors.
    """
    small, rest = 2**-12, 2**-24 * (1 - 2**-12)
    vectors = [
        [small * (1 + 2**-12), *[rest] * (size - 1)],
        [small * (1 + 2**-12 + 2**-23), *[-rest] * (size - 1)],
    ]
    return without_bias([[1, *[2**-12] * (size - 1)]], vectors, [1 - 2**-12] * 2)


@pytest.mark.parametrize(
    ("make", "sizes"), [(worst_roundings, range(1, 65)), (rounded_beside_a_large_bias, range(3, 65))]
)
def test_lists_are_exact_where_every_operation_rounds_the_wrong_way(
    make: Any,  # noqa: ANN401 - either function
    sizes: range,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Factors, "_fast_scores", lambda factors, _: added_in_order(factors))
    for size in sizes:
        factors = make(size)
        exact, rough = fractions(factors), added_in_order(factors)
        assert exact[0, 0] > exact[0, 1]
        assert rough[0, 0] < rough[0, 1]
        items, _ = factors.top_k(everyone(factors), sp.csr_array((1, 2)), 1)
        assert items.tolist() == [[0]], size


def test_lists_are_exact_where_products_vanish_in_float32() -> None:
    # In units of the least float32 number: products of .51 are rounded to 1, those of .499 and .49 to 0.
    size = 100
    rows = np.array([[0.51] * size, [0.499] * size, [0.49] * size, [1.0] * 40 + [0.0] * 60], dtype=np.float32)
    factors = without_bias(np.full((1, size), 2.0**-75), rows * np.float32(2**-74), np.zeros(4))
    seen = np.zeros((1, 4), dtype=bool)
    for k in range(1, 5):
        assert_same(factors.top_k(everyone(factors), sp.csr_array(seen), k), full_sort(exact_scores(factors), seen, k))


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
def test_lists_do_not_depend_on_the_size_of_blocks(interaction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ties = near_ties(3, users=23, items=70)
    factors = Factors(
        ties.user_factors, ties.item_factors, ties.user_bias, ties.item_bias, ties.item_order, 0.0, interaction
    )
    seen = sp.csr_array(some_seen((23, 70), 3))
    users = everyone(factors)[::-1].copy()
    expected = factors.top_k(users, seen, 20)
    for size in (1, 8 * 70, 3 * 8 * 70, 22 * 8 * 70, 23 * 8 * 70, 2**30):
        monkeypatch.setattr(topk, "BLOCK_BYTES", size)
        assert_same(factors.top_k(users, seen, 20), expected)


def test_users_are_scored_in_blocks_that_fit_the_limit_with_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []

    def scores(users: NDArray[np.int32]) -> NDArray[np.float64]:
        blocks.append(len(users))
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"} == {1}
        return np.zeros((len(users), 10))

    for users, expected in ((4, [1, 4, 4]), (0.1, [1] * 9)):
        blocks.clear()
        monkeypatch.setattr(topk, "BLOCK_BYTES", int(users * 8 * 10))
        top_k(np.arange(9, dtype=np.int32), sp.csr_array((9, 10)), 2, scores)
        assert sorted(blocks) == expected


@st.composite
def tables(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_], float, int, int]:
    """Draw exact scores with ties, fast scores off by no more than a tolerance, seen items, a K and a block size."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, items = draw(st.integers(1, 6)), draw(st.integers(1, 25) | st.sampled_from((127, 128, 129, 300)))
    levels = draw(st.sampled_from((1, 2, 5, 1000)))
    table = random.integers(0, levels, (users, items)) / 64.0
    tolerance = draw(st.sampled_from((0.0, 1 / 64, 1 / 4)))
    fast = (table + tolerance * random.integers(-1, 2, table.shape)).astype(np.float32)
    seen = random.random(table.shape) < draw(st.sampled_from((0, 0.2, 0.9, 1)))
    k = draw(st.just(items) | st.just(items + 3) | st.integers(1, items))
    return table, fast, seen, tolerance, k, draw(st.sampled_from((1, 8 * items * 2, 2**24)))


@settings(max_examples=200, deadline=None)
@given(tables())
def test_the_best_are_found_whatever_errors_within_the_tolerance(
    case: tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_], float, int, int],
) -> None:
    table, fast, seen, tolerance, k, block = case
    users = np.random.default_rng(0).permutation(len(table)).astype(np.int32)
    matrix = sp.csr_array(seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "BLOCK_BYTES", block)
        plain = top_k(users, matrix, k, lambda users: table[users])
        corrected = top_k(
            users,
            matrix,
            k,
            lambda users: fast[users],
            lambda users: np.full(len(users), tolerance, dtype=np.float32),
            lambda users, items: table[users, items],
        )
    expected = full_sort(table[users], seen[users], k)
    assert_same(plain, expected)
    assert_same(corrected, expected)
    assert plain[0].dtype == corrected[0].dtype == np.int32


# Catalogues just around multiples of CHUNK, and lists just around half the number of chunks.
WIDTHS = st.integers(1, 12) | st.builds(
    lambda chunks, off: max(1, CHUNK * chunks + off), st.integers(1, 9), st.integers(-1, 1)
)


@settings(max_examples=300, deadline=None)
@given(WIDTHS, st.integers(1, 8) | st.integers(1, 700), st.sampled_from((1, 2, 30, 10**6)), st.data())
def test_the_bound_is_an_entry_that_k_entries_reach(width: int, k: int, levels: int, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    table = random.integers(0, levels, (4, width)).astype(np.float32)
    table[random.random(table.shape) < data.draw(st.sampled_from((0, 0.5, 0.95)))] = -np.inf
    table[3] = -np.inf
    if data.draw(st.booleans()):  # ascending, so that all of the largest are in neighbouring columns
        table.sort(axis=1)
    bound = kth_largest_bound(table.copy(), k)
    assert bound.shape == (4,)
    for row, least in zip(table, bound, strict=True):
        assert np.count_nonzero(row >= least) >= min(k, width)
        assert least in row


@pytest.mark.parametrize("k", [25, CHUNK + 6])
def test_the_bound_of_long_rows_is_close_to_the_kth_largest(k: int) -> None:
    table = np.random.default_rng(3).random((20, 10_000), dtype=np.float32)
    reached = (table >= kth_largest_bound(table.copy(), k)[:, None]).sum(axis=1)
    assert reached.min() >= k
    assert reached.max() < 2 * k


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_lists_of_scores_that_all_users_share_are_those_of_a_full_sort(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    users, items = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 30))
    scores = random.integers(0, data.draw(st.sampled_from((1, 3, 1000))), items) / 4
    share = data.draw(st.sampled_from((0, 0.2, 0.9, 1)))
    seen = random.random((users, items)) < share
    k = data.draw(st.integers(1, items))
    if data.draw(st.booleans()):  # one user has seen all of the best
        seen[0] = scores >= np.sort(scores)[::-1][: k + 1].min()
    order = random.permutation(users)[: data.draw(st.integers(0, users))].astype(np.int32)
    found = top_k_of_all(order, sp.csr_array(seen), k, scores)
    assert found.dtype == np.int32
    assert_array_equal(found, full_sort(np.tile(scores, (len(order), 1)), seen[order], k)[0].reshape(len(order), k))


def test_an_entry_stored_as_zero_counts_as_seen() -> None:
    seen = sp.csr_array((np.zeros(1), np.array([2]), np.array([0, 1])), shape=(1, 3))
    items, scores = top_k(np.array([0], dtype=np.int32), seen, 3, lambda _: np.array([[1.0, 2.0, 3.0]]))
    assert items.tolist() == [[1, 0, -1]]
    assert scores.tolist() == [[2.0, 1.0, -np.inf]]
    assert top_k_of_all(np.array([0], dtype=np.int32), seen, 3, np.array([1.0, 2.0, 3.0])).tolist() == [[1, 0, -1]]


def broken(_: object) -> NDArray[np.float64]:
    raise ZeroDivisionError


def test_no_users_make_empty_lists_and_an_error_while_scoring_is_raised() -> None:
    items, scores = top_k(np.empty(0, dtype=np.int32), sp.csr_array((3, 5)), 4, broken)
    assert items.shape == scores.shape == (0, 4)
    assert items.dtype == np.int32
    with pytest.raises(ZeroDivisionError):
        top_k(np.arange(3, dtype=np.int32), sp.csr_array((3, 5)), 4, broken)


def test_lists_longer_than_the_catalogue_are_refused() -> None:
    check_k("params.yaml: evaluate.k", 80, 80)
    with pytest.raises(UserError) as raised:
        check_k("params.yaml: evaluate.k", 81, 80)
    assert str(raised.value) == "params.yaml: evaluate.k: must be at most 80, the number of rated items; found 81"


@pytest.mark.parametrize(("terminal", "delay"), [(True, 0), (True, 1000), (False, 0)])
def test_progress_is_shown_on_a_terminal_after_a_while_and_disappears(
    terminal: bool, delay: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    factors, seen = near_ties(3), sp.csr_array((12, 60), dtype=np.float32)
    expected = factors.top_k(everyone(factors), seen, 5)
    monkeypatch.setattr(topk, "BLOCK_BYTES", 1)  # a user at a time
    monkeypatch.setattr(topk, "PROGRESS_DELAY", delay)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert_same(factors.top_k(everyone(factors), seen, 5), expected)
    shown = capsys.readouterr().err
    if terminal and not delay:
        assert re.search(r"top-K lists: .*/12 \[.*block/s\]", shown)
        assert shown.endswith("\r")
    else:
        assert shown == ""


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), ("5,4", 5), ("", os.cpu_count()), ("0", os.cpu_count()), ("x", os.cpu_count())]
)
def test_threads_are_as_many_as_omp_num_threads_says(
    value: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads() == expected
