"""Top-K lists against a full sort of the exact scores."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from stages.lib import topk
from stages.lib.factors import Factors
from stages.lib.topk import top_k

Lists = tuple[NDArray[np.int32], NDArray[np.float64]]


def full_sort(table: NDArray[np.float64], seen: NDArray[np.bool_], k: int) -> Lists:
    """Sort all candidates of every row by descending score, then ascending index."""
    movies, scores = np.full((len(table), k), -1, dtype=np.int32), np.full((len(table), k), -np.inf)
    for row in range(len(table)):
        candidates = [movie for movie in range(table.shape[1]) if not seen[row, movie]]
        best = sorted(candidates, key=lambda movie: (-table[row, movie], movie))[:k]
        movies[row, : len(best)] = best
        scores[row, : len(best)] = table[row, best]
    return movies, scores


def exact_scores(factors: Factors) -> NDArray[np.float64]:
    """Score all pairs in float64, adding dimension by dimension."""
    table = np.zeros((len(factors.users), len(factors.movies)))
    for left, right in zip(factors.users.T.astype(np.float64), factors.movies.T.astype(np.float64), strict=True):
        table += left[:, None] * right[None, :]
    return table + (
        factors.global_mean
        + factors.user_bias.astype(np.float64)[:, None]
        + factors.movie_bias.astype(np.float64)[None, :]
    )


def near_ties(
    seed: int, users: int = 12, movies: int = 60, size: int = 10, biased: bool = True, scale: float = 1
) -> Factors:
    """Give movies that differ from one another in the last float32 bits only."""
    random = np.random.default_rng(seed)
    vector = random.normal(0, scale, size).astype(np.float32)
    table = np.tile(vector, (movies, 1))
    for _ in range(2):
        step = np.where(random.random(table.shape) < 0.5, np.float32(-np.inf), np.float32(np.inf))
        table = np.where(random.random(table.shape) < 0.4, np.nextafter(table, step), table)
    bias = random.integers(-2, 3, movies).astype(np.float32) * np.float32(2**-24) if biased else np.zeros(movies)
    return Factors(
        random.normal(0, scale, (users, size)).astype(np.float32),
        table,
        random.normal(0, 1, users).astype(np.float32) if biased else np.zeros(users, dtype=np.float32),
        bias.astype(np.float32),
        np.arange(movies, dtype=np.int32),
        global_mean=3.5 if biased else 0.0,
    )


def some_seen(shape: tuple[int, int], seed: int) -> NDArray[np.bool_]:
    """Mark a third as seen, all of the first user's and none of the last one's."""
    seen = np.random.default_rng(seed).random(shape) < 1 / 3
    seen[0], seen[-1] = True, False
    return seen


def everyone(factors: Factors) -> NDArray[np.int32]:
    return np.arange(len(factors.users), dtype=np.int32)


def assert_same(found: Lists, expected: Lists) -> None:
    assert_array_equal(found[0], expected[0])
    assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1, 1e-20, 1e15], ids=["usual", "tiny", "huge"])
def test_lists_are_exact_where_float32_scores_are_in_the_wrong_order(seed: int, scale: float) -> None:
    factors = near_ties(seed, biased=scale == 1, scale=scale)
    table = exact_scores(factors)
    seen = some_seen(table.shape, seed)
    rough = (factors.users @ factors.movies.T + factors.movie_bias).astype(np.float64)
    wrong = full_sort(rough, seen, 60)[0]
    assert (wrong != full_sort(table, seen, 60)[0]).any(), "these scores put nothing to the test"
    for k in range(1, 61):
        assert_same(factors.top_k(everyone(factors), sp.csr_array(seen), k), full_sort(table, seen, k))


def test_lists_are_exact_where_products_vanish_in_float32() -> None:
    # In units of the least float32 number: products of .51 are rounded to 1, those of .499 and .49 to 0.
    size = 100
    rows = [[0.51] * size, [0.499] * size, [0.49] * size, [1.0] * 40 + [0.0] * 60]
    factors = Factors(
        np.full((1, size), 2.0**-75, dtype=np.float32),
        np.array(rows, dtype=np.float32) * np.float32(2**-74),
        np.zeros(1, dtype=np.float32),
        np.zeros(4, dtype=np.float32),
        np.arange(4, dtype=np.int32),
    )
    seen = np.zeros((1, 4), dtype=bool)
    for k in range(1, 5):
        assert_same(factors.top_k(everyone(factors), sp.csr_array(seen), k), full_sort(exact_scores(factors), seen, k))


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
def test_lists_do_not_depend_on_the_size_of_blocks(interaction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ties = near_ties(3, users=23, movies=70)
    factors = Factors(ties.users, ties.movies, ties.user_bias, ties.movie_bias, ties.movie_ids, 0.0, interaction)
    seen = sp.csr_array(some_seen((23, 70), 3))
    users = everyone(factors)[::-1].copy()
    expected = factors.top_k(users, seen, 20)
    for size in (1, 8 * 70, 3 * 8 * 70, 22 * 8 * 70, 23 * 8 * 70, 2**30):
        monkeypatch.setattr(topk, "BLOCK_BYTES", size)
        assert_same(factors.top_k(users, seen, 20), expected)


def test_users_are_scored_in_blocks_that_fit_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int] = []

    def scores(users: NDArray[np.int32], _seen: NDArray[np.bool_]) -> NDArray[np.float64]:
        blocks.append(len(users))
        return np.zeros((len(users), 10))

    monkeypatch.setattr(topk, "BLOCK_BYTES", 4 * 8 * 10)
    top_k(np.arange(9, dtype=np.int32), sp.csr_array((9, 10)), 2, scores)
    assert sorted(blocks) == [1, 4, 4]


@st.composite
def tables(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_], float, int, int]:
    """Draw exact scores with ties, fast scores off by no more than a tolerance, movies seen, a K and a block size."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, movies = draw(st.integers(1, 6)), draw(st.integers(1, 25))
    levels = draw(st.sampled_from((1, 2, 5, 1000)))
    table = random.integers(0, levels, (users, movies)) / 64.0
    tolerance = draw(st.sampled_from((0.0, 1 / 64, 1 / 4)))
    fast = (table + tolerance * random.integers(-1, 2, table.shape)).astype(np.float32)
    seen = random.random(table.shape) < draw(st.sampled_from((0, 0.2, 0.9, 1)))
    k = draw(st.just(movies) | st.integers(1, movies))
    return table, fast, seen, tolerance, k, draw(st.sampled_from((1, 8 * movies * 2, 2**24)))


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
        plain = top_k(users, matrix, k, lambda users, _: table[users])
        corrected = top_k(
            users,
            matrix,
            k,
            lambda users, _: fast[users],
            lambda users: np.full(len(users), tolerance, dtype=np.float32),
            lambda users, movies: table[users, movies],
        )
    expected = full_sort(table[users], seen[users], k)
    assert_same(plain, expected)
    assert_same(corrected, expected)
    assert plain[0].dtype == corrected[0].dtype == np.int32


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
@pytest.mark.parametrize("k", [1, 40])
def test_a_user_who_has_seen_everything_gets_padding(interaction: str, k: int) -> None:
    random = np.random.default_rng(5)
    parts = [random.normal(0, 1, shape).astype(np.float32) for shape in ((3, 4), (40, 4), 3, 40)]
    factors = Factors(*parts, np.arange(40, dtype=np.int32), interaction=interaction)
    seen = np.zeros((3, 40), dtype=bool)
    seen[1] = True
    movies, scores = factors.top_k(everyone(factors), sp.csr_array(seen), k)
    assert (movies[1] == -1).all()
    assert (scores[1] == -np.inf).all()
    assert (movies[[0, 2]] >= 0).all()
    assert np.isfinite(scores[[0, 2]]).all()


def test_a_short_row_is_padded_after_its_candidates() -> None:
    seen = sp.csr_array(np.array([[True, False, True, False]]))
    movies, scores = top_k(np.array([0], dtype=np.int32), seen, 4, lambda *_: np.array([[9.0, 1.0, 8.0, 2.0]]))
    assert movies.tolist() == [[3, 1, -1, -1]]
    assert scores.tolist() == [[2.0, 1.0, -np.inf, -np.inf]]


def test_an_entry_stored_as_zero_counts_as_seen() -> None:
    seen = sp.csr_array((np.zeros(1), np.array([2]), np.array([0, 1])), shape=(1, 3))
    movies, _ = top_k(np.array([0], dtype=np.int32), seen, 3, lambda *_: np.array([[1.0, 2.0, 3.0]]))
    assert movies.tolist() == [[1, 0, -1]]


def test_no_users_make_empty_lists() -> None:
    def never(*_: object) -> NDArray[np.float64]:
        raise AssertionError("scored nobody")

    movies, scores = top_k(np.empty(0, dtype=np.int32), sp.csr_array((3, 5)), 4, never)
    assert movies.shape == scores.shape == (0, 4)


def test_an_error_while_scoring_is_raised() -> None:
    def broken(*_: object) -> NDArray[np.float64]:
        raise ZeroDivisionError

    failing: Callable[..., NDArray[np.float64]] = broken
    with pytest.raises(ZeroDivisionError):
        top_k(np.arange(3, dtype=np.int32), sp.csr_array((3, 5)), 4, failing)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    factors, seen = near_ties(3), sp.csr_array((12, 60), dtype=np.float32)
    expected = factors.top_k(np.arange(12, dtype=np.int32), seen, 5)
    monkeypatch.setattr(topk, "BLOCK_BYTES", 1)  # a user at a time
    monkeypatch.setattr(topk, "PATIENCE", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    found = factors.top_k(np.arange(12, dtype=np.int32), seen, 5)
    for part, other in zip(expected, found, strict=True):
        assert_array_equal(part, other)
    assert ("top-K lists: " in capsys.readouterr().err) is terminal
