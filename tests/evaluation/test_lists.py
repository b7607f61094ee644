"""What lists are like, against a slow implementation and against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.evaluation import lists as measures
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.lists import BY_ITEMS, LISTS, Categories, ListMeasures
from recommender.evaluation.metrics import RANKING, Measured, exposure, places
from tests import reference

Table = list[tuple[int, int, float]]


def held_out_of(known: Table, test: Table, shape: tuple[int, int]) -> HeldOut:
    parts = []
    for rows in (test, known):
        users, items, ratings = (np.array(column) for column in zip(*rows, strict=True)) if rows else [np.empty(0)] * 3
        parts.append(Interactions(users.astype(np.int32), items.astype(np.int32), ratings.astype(np.float32), shape))
    return HeldOut.of(*parts, 0.0)


# Four users know items as follows; item 3 is known to nobody. User 3 knows nothing.
KNOWN = [(0, 0, 1.0), (1, 0, 1.0), (2, 0, 1.0), (0, 1, 1.0), (1, 1, 1.0), (0, 2, 1.0)]
TEST = [(2, 1, 1.0), (2, 3, 1.0), (3, 2, 1.0)]  # all of which are relevant
RANKED = np.array([[3, 1, 2], [2, 0, -1]], dtype=np.int32)  # of users 2 and 3


def test_one_list_matches_what_was_worked_out_by_hand() -> None:
    held_out = held_out_of(KNOWN, TEST, (4, 4))
    found = ListMeasures(held_out, Categories.of(pa.array(["A", "A|B", "B|C|B", ""])), 3).measure(RANKED)
    # Of three users with known ratings item 0 is known to 3, item 1 to 2, item 2 to 1, item 3 to none, as if to 1.
    information = [0, math.log2(3 / 2), math.log2(3), math.log2(3)]
    assert_allclose(
        found.users["novelty"], [(information[3] + information[1] + information[2]) / 3, information[2] / 2]
    )
    assert_allclose(found.users["popularity_percentile"], [(0.125 + 0.625 + 0.375) / 3, (0.375 + 0.875) / 2])
    # Ratings of more popular items: item 0 none of 6, item 1 three, item 2 five, item 3 six: head, middle, tail, tail.
    assert_allclose(found.users["tail_share"], [2 / 3, 1 / 2])
    assert_allclose(found.users["recall_middle"], [1, np.nan])
    assert_allclose(found.users["recall_tail"], [1, 1])
    assert np.isnan(found.users["recall_head"]).all()
    assert "recall_head" not in found.curves
    # Popularity lists 1 and 2 for user 2, not item 3, and 0, 1, 2 for user 3, item 2 as the third.
    assert_allclose(found.curves["serendipity"], [(1 + 1) / 2, (1 / 2 + 1 / 2) / 2, (1 / 3 + 0) / 2])
    # Jaccard of 3 and 1, 3 and 2: 0; of 1 = {A, B} and 2 = {B, C}: 1/3; of 2 and 0: 0.
    assert_allclose(found.users["diversity"], [1 - 1 / 9, 1])
    assert_allclose(found.curves["diversity"], [0, 1, (8 / 9 + 1) / 2])
    # User 2 knows item 0: A alone. Its list has A, B, C and none at 1/6, 2/6, 1/6 and 2/6.
    assert_allclose(found.users["miscalibration"], [-math.log(0.99 / 6 + 0.01), np.nan])
    assert_allclose(found.curves["miscalibration"][0], -math.log(0.01))
    # 4 items, in 0, 1, 2 and 1 places after the second rank: the mean difference of two items, by twice the mean.
    assert_allclose(found.curves["coverage"], [2 / 4, 4 / 4, 4 / 4])
    assert_allclose(found.curves["gini"], [0.5, 0.0, (2 * 3 * 1) / (2 * 4 * 5)])


def test_gini_is_0_where_all_are_listed_as_often_and_close_to_1_for_one_item() -> None:
    def gini(lists: NDArray[np.int32], items: int) -> list[float]:
        found: list[float] = exposure(places(lists, items))["gini"].tolist()
        return found

    assert gini(np.array([[0, 1], [1, 0]], dtype=np.int32), 2) == [0, 0]
    assert gini(np.zeros((5, 1), dtype=np.int32), 100) == [pytest.approx(0.99)]
    assert gini(np.full((5, 1), -1, dtype=np.int32), 100) == [0]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Table, Table, NDArray[np.int32], list[str] | None, tuple[int, int]]:
    """Draw known and held-out ratings, distinct items in lists, some of them short, and categories or none."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, items = draw(st.integers(1, 6)), draw(st.integers(2, 12))
    pairs = random.permutation(users * items)[: draw(st.integers(2, users * items))]
    cut = draw(st.integers(1, len(pairs) - 1))
    known, test = (
        [(pair // items, pair % items, 1.0) for pair in part.tolist()] for part in (pairs[:cut], pairs[cut:])
    )
    k = draw(st.integers(1, items))
    lists = np.full((len({user for user, _, _ in test}), k), -1, dtype=np.int32)
    for row in lists:
        length = draw(st.integers(0, k))
        row[:length] = random.permutation(items)[:length]
    names = ["", "A", "B", "A|B", "B|A", "C|A|B", "D"]
    categories = [names[each] for each in random.integers(0, 7, items)] if draw(st.booleans()) else None
    return known, test, lists, categories, (users, items)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_lists_agree_with_the_slow_reference(
    case: tuple[Table, Table, NDArray[np.int32], list[str] | None, tuple[int, int]],
) -> None:
    known, test, ranked, categories, shape = case
    held_out, k = held_out_of(known, test, shape), ranked.shape[1]
    read = Categories.of(pa.array(categories or [""] * shape[1]))
    found = ListMeasures(held_out, read, k).measure(ranked)
    train = pd.DataFrame(known, columns=["user", "item", "rating"])
    relevant = reference.relevant_items(pd.DataFrame(test, columns=["user", "item", "rating"]), 0.0)
    rows = {
        int(user): [item for item in row.tolist() if item >= 0]
        for user, row in zip(held_out.users, ranked, strict=True)
    }
    for length in range(1, k + 1):
        expected = reference.describe(rows, relevant, train, shape[1], length, categories if read else None)
        expected |= reference.measure(rows, relevant, shape[1], length)
        assert {name: curve[length - 1] for name, curve in found.curves.items()} == pytest.approx(expected, abs=1e-9)


def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    known = [(user, int(item), 1.0) for user in range(50) for item in random.permutation(30)[:9]]
    test = [(user, item, 1.0) for user in range(50) for item in range(30) if random.random() < 0.2]
    held_out = held_out_of(known, test, (50, 30))
    ranked = np.array([random.permutation(30)[:8] for _ in held_out.users], dtype=np.int32)
    categories = Categories.of(pa.array([f"{item % 4}|{item % 3}" for item in range(30)]))
    whole = ListMeasures(held_out, categories, 8).measure(ranked)
    monkeypatch.setattr(measures, "BLOCK_BYTES", 8 * 8 * 8 * 7)
    blocks = ListMeasures(held_out, categories, 8).measure(ranked)
    assert set(whole.users) == {*LISTS, *BY_ITEMS, *RANKING} - {"coverage"}
    for name, values in whole.users.items():
        np.testing.assert_array_equal(values, blocks.users[name])
    for name, values in whole.curves.items():
        assert_allclose(values, blocks.curves[name], rtol=0, atol=1e-12)


def test_without_categories_or_with_too_many_some_metrics_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = held_out_of(KNOWN, TEST, (4, 4))

    def measured(categories: list[str]) -> Measured:
        return ListMeasures(held_out, Categories.of(pa.array(categories)), 3).measure(RANKED)

    assert "miscalibration" not in measured([""] * 4).curves
    # Items 1 and 2 are known to users {0, 1} and {0}, item 3 to nobody, item 0 to all: cosines 1/√2, 0 and 1/√3.
    assert_allclose(measured([""] * 4).users["diversity"], [1 - math.sqrt(0.5) / 3, 1 - math.sqrt(1 / 3)])
    monkeypatch.setattr(measures, "MOST_CATEGORIES", 2)
    assert "miscalibration" not in measured(["A", "B", "C", "A"]).curves
    monkeypatch.setattr(measures, "MOST_KINDS", 3)
    assert not {"miscalibration", "diversity"} & set(measured([""] * 4).curves)
