"""Intervals and tests of differences against SciPy's, exact enumerations, hand calculation and simulation."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.errors import UserError
from recommender.evaluation import statistics as own
from recommender.evaluation.results import BY_USER, UserResults, no_users
from recommender.evaluation.statistics import Estimate, as_text, holm, p_value, statistics
from recommender.storage import read_json, read_table

Values = NDArray[np.float64]


def of_means(**models: Values) -> own.Statistics:
    """Return the statistics of models with one metric."""
    counts = np.arange(len(next(iter(models.values()))))  # of ratings, which count in errors alone
    return statistics({name: {"map": values} for name, values in models.items()}, ["map"], counts)


def test_intervals_are_those_of_scipy() -> None:
    random = np.random.default_rng(3)
    a, b = random.random(301), random.random(301)
    found = of_means(a=a, b=b)
    difference = found.differences["a", "b"]["map"]
    for values, ours in ((a, found.estimates["a"]["map"]), (a - b, difference)):
        theirs = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=10_000, batch=100, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        assert ours.value == pytest.approx(values.mean(), abs=1e-12)
        assert [ours.low, ours.high] == pytest.approx(list(theirs), abs=1e-12)
    assert (difference.gain, difference.lose) == (np.mean(a > b), np.mean(a < b))


def test_rating_errors_are_of_all_ratings_together_as_scipy_resamples_them() -> None:
    random = np.random.default_rng(4)
    counts = random.integers(1, 9, 120)
    rows = np.repeat(np.arange(120), counts)
    errors = random.normal(0, 1, len(rows))
    by_user = np.sqrt(np.bincount(rows, errors**2) / counts)
    found = statistics({"a": {"rmse": by_user}, "b": {"rmse": by_user + 1}}, ["rmse"], counts)
    estimate = found.estimates["a"]["rmse"]
    assert estimate.value == pytest.approx(np.sqrt(np.mean(errors**2)), abs=1e-12)

    def pooled(squares: Values, ratings: Values, axis: int) -> Values:
        return np.sqrt(squares.sum(axis=axis) / ratings.sum(axis=axis))

    theirs = scipy.stats.bootstrap(
        (by_user**2 * counts, counts.astype(float)), pooled, n_resamples=10_000, batch=100, paired=True,
        method="percentile", vectorized=True, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert [estimate.low, estimate.high] == pytest.approx(list(theirs), abs=1e-9)
    assert found.differences["a", "b"]["rmse"].gain == 1  # lower is better
    assert found.best("rmse") == ["a"]


def test_users_of_whom_a_metric_says_nothing_are_left_out() -> None:
    values = np.random.default_rng(5).random(200)
    values[::3] = np.nan
    ours = of_means(a=values).estimates["a"]["map"]
    theirs = scipy.stats.bootstrap(
        (values,), np.nanmean, n_resamples=10_000, batch=100, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert [ours.value, ours.low, ours.high] == pytest.approx([np.nanmean(values), *theirs], abs=1e-12)
    assert of_means(a=values, b=np.full(200, np.nan)).estimates["b"] == {}


def test_a_metric_of_one_user_has_an_interval_whatever_resamples_miss_that_user(
    recwarn: pytest.WarningsRecorder,
) -> None:
    estimate = of_means(a=np.array([np.nan, 0.25, np.nan])).estimates["a"]["map"]
    assert (estimate.value, estimate.low, estimate.high) == (0.25, 0.25, 0.25)
    assert list(recwarn) == []


def test_metrics_of_one_table_are_those_of_tables_of_their_own() -> None:
    random, counts = np.random.default_rng(10), np.arange(1, 41)
    users = {model: {metric: random.random(40) for metric in ("map", "rmse", "ndcg")} for model in "abc"}
    del users["b"]["rmse"]
    found = statistics(users, ["map", "rmse", "ndcg"], counts)
    for metric in ("map", "rmse", "ndcg"):
        alone = statistics(users, [metric], counts)
        for model in "abc":
            assert found.estimates[model].get(metric) == alone.estimates[model].get(metric)
        for pair, row in found.differences.items():
            assert row.get(metric) == alone.differences.get(pair, {}).get(metric)
    unpaired = statistics(users, ["map", "rmse", "ndcg"], counts, pairs=False)
    assert (unpaired.estimates, unpaired.differences) == (found.estimates, {})


def test_users_with_the_same_value_gain_and_lose_nothing() -> None:
    found = of_means(a=np.array([0.1, 0.5, 0.5, 0.9]), b=np.array([0.1, 0.25, 0.25, 1.0])).differences["a", "b"]["map"]
    assert (found.gain, found.lose) == (0.5, 0.25)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 0.6])
def test_p_values_are_those_of_scipy_and_of_all_exchanges(shift: float) -> None:
    gain = np.random.default_rng(6).normal(shift, 0.5, 12)
    ours = of_means(a=gain, b=np.zeros(12)).differences["a", "b"]["map"].p
    signs = np.array(list(itertools.product((1, -1), repeat=12)))
    chance, found = (signs * gain).mean(axis=1), gain.mean()
    exact = min(1, 2 * min((chance <= found + 1e-12).mean(), (chance >= found - 1e-12).mean()))
    theirs = scipy.stats.permutation_test((gain,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert theirs == pytest.approx(exact)
    assert ours == pytest.approx(exact, abs=0.015)  # of 10,000 exchanges


def test_a_p_value_counts_what_was_found_and_is_never_0() -> None:
    assert p_value(np.zeros(99), 1.0) == 2 * 1 / 100
    assert p_value(np.array([1.0, 2.0, 3.0, 4.0]), 2.0) == 1.0  # 2 below or level, 4 - 1 above or level
    assert p_value(np.arange(100.0), 97.0) == pytest.approx(2 * 4 / 101)


def test_holm_by_hand() -> None:
    # .01 x 4, .02 x 3, .03 x 2 and .04, each at least the one before.
    assert_allclose(holm(np.array([0.03, 0.01, 0.04, 0.02])), [0.06, 0.04, 0.06, 0.06])
    assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])


def test_the_best_are_all_that_are_not_known_to_be_worse() -> None:
    good = np.random.default_rng(7).random(400)
    found = of_means(bad=good - 0.1, level=good[::-1] - 0.001, good=good)
    assert found.best("map") == ["good", "level"]
    assert found.best("recall") == []
    estimates = {name: {"map": Estimate(value, 0, 1)} for name, value in {"a": 0.5, "b": 0.6, "c": 0.4}.items()}
    differences = {
        pair: {"map": own.Difference(0, 0, 0, gain=0, lose=0, p=0, holm=holm)}
        for pair, holm in {("a", "b"): 0.05, ("a", "c"): 1, ("b", "c"): 0.049}.items()
    }
    assert own.Statistics(estimates, differences).best("map") == ["b", "a"]


def test_sums_do_not_depend_on_the_order_of_users() -> None:
    terms = np.random.default_rng(8).random((3, 5000)) * np.array([[1e-9], [1], [1e6]])
    for row in terms:
        grid = own._on_grid(row[None])[0]
        assert_allclose(grid, row, rtol=0, atol=5000 * row.max() * 2.0**-51)
        assert len({float(np.sum(part)) for part in (grid, np.sort(grid), np.sort(grid)[::-1])}) == 1
        assert float(np.add.accumulate(grid)[-1]) == float(np.sum(grid))


def test_terms_are_as_fine_as_leaves_their_sums_exact() -> None:
    terms = np.array([[1 / 3, 2 / 3]])  # whose sums are less than 2
    grid = own._on_grid(terms)
    assert_array_equal(grid, np.round(terms * 2.0**51) / 2.0**51)
    assert (grid * 2.0**50 % 1 != 0).any()
    assert own._on_grid(np.empty((1, 0))).shape == (1, 0)


def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(9).integers(0, 9, (40, 3)).astype(np.float64)
    whole = own.resampled_sums(table), own.flipped_sums(table)
    monkeypatch.setattr(own, "BLOCK_VALUES", 40 * 77)
    monkeypatch.setattr(own, "BLOCK_RESAMPLES", 1)
    assert_array_equal(own.resampled_sums(table), whole[0])
    assert_array_equal(own.flipped_sums(table), whole[1])


@pytest.mark.parametrize("count", [63, 64, 65, 130])
def test_every_user_is_drawn_as_often_as_any_other(count: int) -> None:
    halves, drawn = own.flipped_sums(np.eye(count)), own.resampled_sums(np.eye(count))
    assert set(np.unique(halves)) == {0, 1}
    assert_allclose(halves.mean(axis=0), 0.5, atol=0.025)  # 5 standard deviations
    assert_allclose(drawn.mean(axis=0), 1, atol=0.05)
    assert (drawn.sum(axis=1) == count).all()


def test_an_interval_as_text() -> None:
    assert as_text(Estimate(0, 0.08123, 0.1)) == ".0812\N{EN DASH}.1000"
    assert as_text(Estimate(0, -0.5, 12.0), 1) == "-.5\N{EN DASH}12.0"


def test_the_stages_write_results_by_user_that_make_their_means(trained: Path) -> None:
    names = ("metrics/users.parquet", "metrics/baselines_users.parquet")
    results = UserResults.read(*(trained / name for name in names))
    expected = {"mf": read_json(trained / "metrics/evaluate.json"), **read_json(trained / "metrics/baselines.json")}
    assert set(results.metrics) == set(expected)
    test = read_table(trained / "data/processed/test.parquet")["user"].to_numpy()
    assert_array_equal(results.user, np.unique(test))
    assert_array_equal(results.test_ratings, np.bincount(test)[results.user])
    known = read_table(trained / "data/processed/train.parquet")["user"].to_numpy()
    assert_array_equal(results.known_ratings, np.bincount(known, minlength=max(test) + 1)[results.user])
    found = results.statistics(pairs=False)
    for model, metrics in expected.items():
        for name in set(metrics) & set(BY_USER):
            estimate = found.estimates[model][name]
            assert estimate.value == pytest.approx(metrics[name], abs=1e-6), (model, name)
            assert estimate.low <= estimate.value <= estimate.high
    assert results.lists["ease"].shape == (len(results.user), 25)


def test_results_of_other_users_are_refused() -> None:
    columns = {name: [0.5, 0.5] for name in BY_USER} | {"model": ["a", "b"], "items": [[1], [2]]}
    counts = {"known_ratings": [1, 1], "test_ratings": [1, 1], "cold": [False, False]}
    schema = no_users(1).schema
    UserResults.of(pa.table(columns | counts | {"user": [3, 3]}, schema))
    with pytest.raises(UserError, match="results by user: b was measured on other users than a; run `dvc repro`"):
        UserResults.of(pa.table(columns | counts | {"user": [3, 4]}, schema))


def simulated(random: np.random.Generator, users: int, gain: float) -> tuple[Values, Values]:
    """Return lumpy, skewed metrics of two models that go together, as MAP does, the second better by `gain`."""
    ease = random.beta(0.4, 2, users) * (random.random(users) < 0.7)
    other = np.where(random.random(users) < 0.6, ease, random.beta(0.4, 2, users) * (random.random(users) < 0.7))
    return ease, other + gain


@pytest.mark.slow
def test_intervals_hold_the_truth_and_tests_reject_as_often_as_they_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "RESAMPLES", 2000)  # of 10,000: the ends of an interval are a little less steady
    random, runs, gain = np.random.default_rng(10), 1000, 0.01
    held = rejected = 0
    for _ in range(runs):
        a, b = simulated(random, 300, gain)
        difference = of_means(b=b, a=a).differences["b", "a"]["map"]
        held += difference.low <= gain <= difference.high
        rejected += of_means(b=b - gain, a=a).differences["b", "a"]["map"].p < 0.05
    assert 0.93 <= held / runs <= 0.97
    assert 0.035 <= rejected / runs <= 0.065
