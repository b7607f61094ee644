"""Filters keep exactly the ratings that a slow filter keeps, and count what they remove."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommender.data.filters import filter_ratings, number
from recommender.errors import UserError
from recommender.params import Data
from recommender.params_file import load_params
from tests.conftest import REPOSITORY

DEFAULT = load_params(REPOSITORY / "params.yaml").data


def settings(user: int, item: int, value: float | None = None) -> Data:
    changed = {"min_ratings": {"user": user, "item": item}, "min_rating_value": value}
    return Data.model_validate(DEFAULT.model_dump() | changed)


def table(rows: list[tuple[int, str, int]]) -> pa.Table:
    users, items, ratings = zip(*rows, strict=True)
    ids = {"user_id": pa.array(users), "item_id": pa.array(items).dictionary_encode()}
    return pa.table({**ids, "rating": pa.array(ratings, pa.float32()), "timestamp": range(len(rows))})


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from("abcdefg"), st.integers(1, 5)), min_size=1, max_size=60),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([None, 2.0, 3.5]),
)
def test_users_and_items_with_few_ratings_are_left_out_until_none_is_left(
    rows: list[tuple[int, str, int]], user: int, item: int, value: float | None
) -> None:
    kept = [row for row in enumerate(rows) if value is None or row[1][2] >= value]
    low = len(rows) - len(kept)
    while True:
        by_user = [each for _, (each, _, _) in kept]
        by_item = [each for _, (_, each, _) in kept]
        left = [row for row in kept if by_user.count(row[1][0]) >= user and by_item.count(row[1][1]) >= item]
        if left == kept:
            break
        kept = left
    if not kept:
        with pytest.raises(UserError, match="no rating is left"):
            filter_ratings(table(rows), settings(user, item, value))
        return
    found, removed = filter_ratings(table(rows), settings(user, item, value))
    assert found["timestamp"].to_pylist() == [at for at, _ in kept]
    expected = {} if value is None else {"min_rating_value": low}
    assert removed == expected | ({"min_ratings": len(rows) - low - len(kept)} if user or item else {})


def test_without_filters_the_table_itself_is_returned() -> None:
    rows = table([(1, "a", 1), (2, "b", 2)])
    found, removed = filter_ratings(rows, DEFAULT)
    assert found is rows
    assert removed == {}


def test_ids_are_numbered_by_first_appearance_and_those_that_are_gone_are_not() -> None:
    ids = pa.chunked_array([["gone", "b"], ["a", "b", "c"]]).dictionary_encode()[1:]
    numbers, found = number(ids)
    np.testing.assert_array_equal(numbers, [0, 1, 0, 2])
    assert found.to_pylist() == ["b", "a", "c"]


def test_a_filter_is_counted_in_the_metrics_of_the_split(here: Path) -> None:
    """The stage writes the counts only where a filter is set."""
    from recommender.storage import read_json
    from stages import split
    from tests.conftest import set_params

    before = read_json(Path("metrics/split.json"))
    assert "removed" not in before
    set_params(here, data__min_rating_value=3)
    split.main()
    after = read_json(Path("metrics/split.json"))
    assert after["removed"] == {"min_rating_value": before["ratings"] - after["ratings"]}
    assert after["min_rating"] == 3
