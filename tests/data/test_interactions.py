"""Parts of the split as arrays and as a matrix, and files that split never writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recommender.data.interactions import Interactions
from recommender.errors import RERUN, UserError
from recommender.paths import GIVEN, TEST, TRAIN, VALIDATION
from recommender.storage import read_table, write_table
from tests.samples import write_split

pytestmark = pytest.mark.usefixtures("workspace")
FIRST = [(2, 3, 4.5), (0, 1, 2.0), (2, 0, 5.0)]
SECOND = [(0, 3, 1.0), (1, 1, 3.5)]


def rows(ratings: Interactions) -> list[tuple[int, int, float]]:
    return list(zip(ratings.users.tolist(), ratings.items.tolist(), ratings.ratings.tolist(), strict=True))


def test_parts_are_read_in_order_and_joined() -> None:
    write_split({TRAIN: FIRST, VALIDATION: SECOND, TEST: SECOND}, (3, 5))
    both, first, second = Interactions.read(TRAIN, TEST), Interactions.read(TRAIN), Interactions.read(VALIDATION)
    joined = first.joined(second)
    for ratings, expected in ((first, FIRST), (second, SECOND), (both, FIRST + SECOND), (joined, FIRST + SECOND)):
        assert rows(ratings) == expected
        assert (ratings.shape, len(ratings)) == ((3, 5), len(expected))
    assert second.item_counts().tolist() == [0, 1, 0, 1, 0]
    assert first.matrix().toarray().tolist() == [[0, 2, 0, 0, 0], [0] * 5, [5, 0, 0, 4.5, 0]]
    assert first.matrix().indices.tolist() == [1, 0, 3]


def test_validation_may_be_empty_and_columns_may_be_more_and_in_another_order() -> None:
    write_split({TRAIN: FIRST, VALIDATION: []}, (3, 5))
    table = read_table(TRAIN).append_column("timestamp", pa.array([1, 2, 3]))
    write_table(TRAIN, table.select(["timestamp", "rating", "item", "user"]))
    assert rows(Interactions.read(TRAIN, VALIDATION)) == FIRST


def test_ratings_to_fold_in_need_not_be_there() -> None:
    write_split({TRAIN: FIRST}, (3, 5))
    assert rows(Interactions.read(GIVEN, TRAIN)) == FIRST


def change(name: str, values: list[float], kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values, kind))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda table: table[:0], "contains no ratings"),
        (change("rating", [1, np.nan, 1], pa.float32()), "contains a rating that is not a finite number"),
        (change("rating", [1, 2, 3], pa.float64()), "the types of its columns user, item and rating are wrong"),
        (change("user", [0, 3, 1], pa.int32()), "user index outside 0 to 2"),
        (change("user", [0, -1, 1], pa.int32()), "user index outside 0 to 2"),
        (change("item", [0, 5, 1], pa.int32()), "item index outside 0 to 4"),
    ],
    ids=["empty", "not a number", "other types", "user too large", "negative user", "item too large"],
)
@pytest.mark.parametrize("path", [TRAIN, TEST], ids=["train", "test"])
def test_what_split_never_writes_is_refused(path: Path, damage: Callable[[pa.Table], pa.Table], problem: str) -> None:
    write_split({path: FIRST}, (3, 5))
    write_table(path, damage(read_table(path)))
    with pytest.raises(UserError) as raised:
        Interactions.read(path)
    assert str(raised.value) == f"{path}: {problem}; {RERUN}"
