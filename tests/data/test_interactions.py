"""Parts of the split as arrays and as a matrix, and files that split never writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recommender.data.interactions import COLUMNS, Interactions, read_matrix
from recommender.data.sampling import Sample
from recommender.errors import RERUN, UserError
from recommender.evaluation.heldout import HeldOut, check_sample
from recommender.paths import GIVEN, TEST, TRAIN, VALIDATION
from recommender.storage import read_table, write_table, writing_row_groups
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
    assert read_matrix(TRAIN, VALIDATION).toarray().tolist() == [[0, 2, 0, 0, 0], [0] * 5, [5, 0, 0, 4.5, 0]]


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
    for read in (Interactions.read, read_matrix):
        with pytest.raises(UserError) as raised:
            read(path)
        assert str(raised.value) == f"{path}: {problem}; {RERUN}"


def test_of_a_sample_only_its_users_are_read() -> None:
    sample, users = Sample(0.5, 3), np.arange(40, dtype=np.int32)
    ratings = [(int(user), int(user) % 7, 1.0 + int(user) % 5) for user in users]
    kept = [rating for rating, has in zip(ratings, sample.has(users), strict=True) if has]
    write_split({TRAIN: ratings[:30], VALIDATION: [], GIVEN: ratings[20:]}, (40, 7))
    with writing_row_groups(TEST, COLUMNS) as add:
        for start in range(0, 40, 7):
            add(pa.table(dict(zip(COLUMNS.names, zip(*ratings[start : start + 7], strict=True), strict=True)), COLUMNS))
    assert 10 < len(kept) < 30
    assert rows(Interactions.read(TEST, VALIDATION, sample=sample)) == kept
    learned, given = Interactions.read_learned(["train"], sample)
    assert rows(learned) == [rating for rating in kept if rating[0] < 30] + [
        each for each in kept if 20 <= each[0] < 30
    ]
    assert rows(given) == [rating for rating in kept if rating[0] >= 30]
    held_out = HeldOut.read(0.5, ["train"], Sample(0.25, 3), sample)
    assert held_out.users.tolist() == np.flatnonzero(Sample(0.25, 3).has(users)).tolist()
    assert np.flatnonzero(np.diff(held_out.seen.indptr)).tolist() == [rating[0] for rating in kept]
    assert np.flatnonzero(held_out.learned.users).tolist() == [rating[0] for rating in kept]
    assert HeldOut.read(0.5, ["train"], within=sample).users.tolist() == [rating[0] for rating in kept]
    with pytest.raises(UserError, match=r"^params\.yaml: evaluate\.user_share: 1e-09 leaves no user with test ratings"):
        HeldOut.read(0.5, ["train"], Sample(1e-9, 3))


def test_a_file_without_any_row_group_is_refused() -> None:
    write_split({TRAIN: FIRST}, (3, 5))
    with writing_row_groups(TEST, COLUMNS):
        pass
    with pytest.raises(UserError, match="contains no ratings"):
        Interactions.read(TEST, sample=Sample(0.5, 3))
    with writing_row_groups(VALIDATION, COLUMNS):
        pass
    assert len(Interactions.read(VALIDATION, sample=Sample(0.5, 3))) == 0


def test_some_ratings_are_whole_ratings() -> None:
    write_split({TRAIN: FIRST}, (3, 5))
    assert rows(Interactions.read(TRAIN).of(np.array([True, False, True]))) == [FIRST[0], FIRST[2]]


def test_a_sample_without_test_ratings_is_refused() -> None:
    with pytest.raises(UserError) as raised:
        check_sample(0, Sample(0.001, 7))
    assert str(raised.value) == "params.yaml: evaluate.user_share: 0.001 leaves no user with test ratings; raise it"
    check_sample(1, Sample(0.001, 7))


def test_a_matrix_is_the_same_read_a_row_group_at_a_time() -> None:
    random = np.random.default_rng(2)
    pairs = random.permutation(40 * 30)[:500].astype(np.int32)
    table = pa.table({"user": pairs // 30, "item": pairs % 30, "rating": random.random(500, dtype=np.float32)}, COLUMNS)
    write_split({TRAIN: FIRST, TEST: SECOND}, (41, 30))
    with writing_row_groups(TRAIN, COLUMNS) as add:
        for start, end in ((0, 100), (100, 100), (100, 101), (101, 400)):
            add(table[start:end])
    write_table(TEST, table[400:])
    found, expected = read_matrix(TRAIN, TEST, GIVEN), Interactions.read(TRAIN, TEST).matrix()
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
