"""The split in parts: the numbers, the parts and the counts of the split at once, in blocks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recommender.data.blocks import block_sizes, read_block
from recommender.data.interactions import read_scale
from recommender.errors import UserError
from recommender.paths import GIVEN, ITEMS, LISTED_ITEMS, PARTS, RATINGS, SPLIT_METRICS, TRAIN, USERS
from recommender.storage import read_json, read_table, row_count, write_table, writing_row_groups
from stages import split
from tests.conftest import set_params

ROWS, USER_COUNT, ITEM_COUNT = 700, 40, 30
Row = tuple[object, object, float]


@pytest.fixture(autouse=True)
def place(workspace: Path) -> Path:
    """A project whose list of packages is empty, and its parameters those of a split by hash."""
    set_params(workspace, split__method="hash", split__validation_size=0.1, train__mf__optimizer="lazy_adam")
    return workspace


def write_ratings(*, text: bool = False, group: int = 150) -> list[Row]:
    """Write ratings in several row groups, and items, a few of them not rated."""
    random = np.random.default_rng(3)
    pairs = random.permutation(USER_COUNT * ITEM_COUNT)[:ROWS]
    users = [f"user {pair // ITEM_COUNT}" if text else int(pair) // ITEM_COUNT + 7 for pair in pairs]
    items = [f"item {pair % ITEM_COUNT}" if text else int(pair) % ITEM_COUNT + 1 for pair in pairs]
    ratings = random.integers(1, 6, ROWS).astype(np.float32)
    kind = pa.string() if text else pa.int32()
    ids = {"user_id": pa.array(users, kind), "item_id": pa.array(items, kind)}
    coded = {name: column.dictionary_encode() if text else column for name, column in ids.items()}  # as extract does
    columns = {**coded, "rating": ratings}
    table = pa.table(columns | {"timestamp": np.arange(ROWS, dtype=np.int64)})
    with writing_row_groups(RATINGS, table.schema) as add:
        for start in range(0, ROWS, group):
            add(table[start : start + group])
    listed = [f"item {item}" if text else item + 1 for item in reversed(range(ITEM_COUNT + 3))]
    texts = {"title": [f"title of {item}" for item in listed], "categories": ["A"] * len(listed)}
    write_table(LISTED_ITEMS, pa.table({"item_id": pa.array(listed, kind), **texts}))
    return list(zip(users, items, ratings.tolist(), strict=True))


def blocks(name: str, parts: int) -> Iterator[tuple[int, int, list[Row]]]:
    """Yield the ratings of each block, with the ids in place of the indices."""
    users, items = (
        read_table(path, [column])[column].to_pylist() for path, column in ((USERS, "user_id"), (ITEMS, "item_id"))
    )
    for user_part in range(parts):
        for item_part in range(parts):
            columns = read_block(PARTS[name], parts, user_part, item_part)
            assert (columns[0] % parts == user_part).all()
            assert (columns[1] % parts == item_part).all()
            yield (
                user_part,
                item_part,
                [(users[user], items[item], float(r)) for user, item, r in zip(*columns, strict=True)],
            )


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("text", [False, True])
def test_blocks_have_the_ratings_of_the_split_at_once(place: Path, parts: int, text: bool) -> None:
    rows = write_ratings(text=text)
    split.main()
    whole = {name: read_table(path) for name, path in PARTS.items()}
    described, users, items = read_json(SPLIT_METRICS), read_table(USERS), read_table(ITEMS)
    set_params(place, engine__parts=parts, train__mf__batch_size=parts)
    split.main()
    assert read_table(USERS) == users
    assert read_table(ITEMS) == items
    assert read_json(SPLIT_METRICS) == described
    place_of = {row: number for number, row in enumerate(rows)}
    for name, table in whole.items():
        user_ids, item_ids = users["user_id"].to_pylist(), items["item_id"].to_pylist()
        columns = (table[column].to_pylist() for column in ("user", "item", "rating"))
        expected = [(user_ids[user], item_ids[item], rating) for user, item, rating in zip(*columns, strict=True)]
        assert table.num_rows > 50
        found = []
        for *_, block in blocks(name, parts):
            assert block == sorted(block, key=place_of.__getitem__)  # in the order of the file
            found += block
        assert sorted(found, key=place_of.__getitem__) == expected
        assert block_sizes(PARTS[name], parts).sum() == len(expected)
    assert not list(Path("scratch").glob("*"))


@pytest.mark.parametrize(("text", "group"), [(False, 150), (True, 3)])  # of three at a time, often none is left
def test_low_ratings_are_left_out(place: Path, capsys: pytest.CaptureFixture[str], text: bool, group: int) -> None:
    rows = write_ratings(text=text, group=group)
    set_params(place, data__min_rating_value=3, engine__parts=3, train__mf__batch_size=3)
    split.main()
    kept = [row for row in rows if row[2] >= 3]
    assert sum(map(row_count, PARTS.values())) == len(kept)
    assert read_json(SPLIT_METRICS)["removed"] == {"min_rating_value": ROWS - len(kept)}
    assert f"data.min_rating_value: {ROWS - len(kept)} ratings removed, {len(kept)} are left" in capsys.readouterr().err
    assert read_table(USERS)["user_id"].to_pylist() == list(dict.fromkeys(row[0] for row in kept))
    assert read_table(ITEMS)["item_id"].to_pylist() == list(dict.fromkeys(row[1] for row in kept))
    assert sorted(row for name in PARTS for *_, block in blocks(name, 3) for row in block) == sorted(kept)


def test_the_scale_of_own_ratings_is_kept(place: Path) -> None:
    write_ratings()
    own = {"data__dataset": "own", "data__own__ratings": "ratings.csv"}
    set_params(place, engine__parts=2, **own)
    split.main()
    assert read_scale(TRAIN) == (1, 5)
    set_params(place, data__own__scale=[0, 10])
    split.main()
    assert {read_scale(path) for path in PARTS.values()} == {(0, 10)}


def test_fold_in_ratings_of_another_split_do_not_stay(place: Path) -> None:
    write_ratings()
    set_params(place, engine__parts=2)
    GIVEN.parent.mkdir(parents=True)
    GIVEN.touch()
    split.main()
    assert not GIVEN.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split__test_size": 1e-9}, "split.test_size: 1e-09 with split.method: hash leaves test empty"),
        (
            {"split__validation_size": 1e-9},
            "split.validation_size: 1e-09 with split.method: hash leaves validation empty",
        ),
        ({"data__min_rating_value": 6}, "no rating is left: data.min_rating_value removes 700; choose less"),
    ],
)
def test_parts_without_ratings_are_refused_and_nothing_is_written(
    place: Path, changes: dict[str, object], message: str
) -> None:
    write_ratings()
    set_params(place, engine__parts=2, **changes)
    with pytest.raises(UserError, match=message):
        split.main()
    assert not TRAIN.parent.exists() or not list(TRAIN.parent.iterdir())


def test_items_that_are_not_listed_are_refused(place: Path) -> None:
    write_ratings()
    write_table(LISTED_ITEMS, read_table(LISTED_ITEMS)[:5])
    set_params(place, engine__parts=2)
    with pytest.raises(UserError, match=r"items\.parquet: lacks items that are rated in"):
        split.main()
