"""The split is scikit-learn's over the file's order; ids are numbered by first appearance; nothing is lost."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.model_selection import train_test_split

from recommender.data.interactions import STARS, read_scale
from recommender.data.splitting import METHODS, describe, encode, split_at_once
from recommender.data.synthetic import make_ratings
from recommender.errors import RERUN, UserError
from recommender.params import Split
from recommender.params_file import load_params
from recommender.paths import ITEMS as ITEMS_PATH
from recommender.paths import LISTED_ITEMS, PARTS
from recommender.paths import RATINGS as RATINGS_PATH
from recommender.storage import read_table, write_table
from tests.conftest import ITEMS, RATINGS, REPOSITORY, USERS, files, refused, set_params, sha256, stage

OUTPUTS = [f"data/processed/{name}.parquet" for name in ("items", "test", "train", "users", "validation")]
OUTPUTS.append("metrics/split.json")
DEFAULTS = load_params(REPOSITORY / "params.yaml").split.model_dump()
PART = [("user", pa.int32()), ("item", pa.int32()), ("rating", pa.float32())]
SCHEMAS = {
    "train": PART,
    "validation": PART,
    "test": PART,
    "users": [("user", pa.int32()), ("user_id", pa.int32())],
    "items": [("item", pa.int32()), ("item_id", pa.int32()), ("title", pa.string()), ("categories", pa.string())],
}


def table(rows: list[tuple[int, int, float]]) -> pa.Table:
    """Return what extract writes of these users, items and ratings."""
    users, items, values = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "user_id": pa.array(users, pa.int32()),
            "item_id": pa.array(items, pa.int32()),
            "rating": pa.array(values, pa.float32()),
            "timestamp": pa.array(range(len(users)), pa.int64()),
        }
    )


def catalogue(ids: list[int]) -> pa.Table:
    """Return what extract writes of these items."""
    titles, categories = [f"Movie {i}" for i in ids], [f"Genre {i % 3}" for i in ids]
    return pa.table({"item_id": pa.array(ids, pa.int32()), "title": titles, "categories": categories})


def put(project: Path, ratings: pa.Table, items: pa.Table) -> None:
    """Put what extract would write."""
    (project / RATINGS_PATH).parent.mkdir(parents=True)
    pq.write_table(ratings, project / RATINGS_PATH)
    pq.write_table(items, project / LISTED_ITEMS)


def shuffled() -> tuple[pa.Table, pa.Table]:
    """Return generated ratings in an order where ids come up at random, and a list of items in another."""
    random = np.random.default_rng(3)
    users, items, values = make_ratings(USERS, ITEMS, RATINGS)
    order = random.permutation(RATINGS)
    rows = list(zip((users[order] * 7).tolist(), (items[order] * 3).tolist(), values[order].tolist(), strict=True))
    return table(rows), catalogue((random.permutation(np.arange(1, ITEMS + 6)) * 3).tolist())


def chosen(method: str, **values: float) -> Split:
    """Return the section for a method, with the defaults of params.yaml but for these values."""
    return Split.model_validate({**DEFAULTS, **values, "method": method})


def parts(count: int, test_size: float = 0.2, validation_size: float = 0, seed: int = 7) -> dict[str, list[int]]:
    """Split so many ratings at random."""
    split = chosen("random", test_size=test_size, validation_size=validation_size, seed=seed)
    return {name: rows.tolist() for name, rows in METHODS["random"](pa.table({"user": range(count)}), split).items()}


def test_ids_are_numbered_by_first_appearance() -> None:
    largest = 2**31 - 1
    ratings = table([(9, largest, 3), (2, 5, 4), (9, 5, 1), (largest, largest, 2), (2, 6, 5)])
    indexed, users, rated = encode(ratings, catalogue([5, 1, 6, largest, 80]))
    assert indexed.to_pydict() == {
        "user": [0, 1, 0, 2, 1],
        "item": [0, 1, 1, 0, 2],
        "rating": [3, 4, 1, 2, 5],
        "timestamp": [0, 1, 2, 3, 4],
        "user_id": [9, 2, 9, largest, 2],
        "item_id": [largest, 5, 5, largest, 6],
    }
    assert users.schema.equals(pa.schema(SCHEMAS["users"]))
    assert users.to_pydict() == {"user": [0, 1, 2], "user_id": [9, 2, largest]}
    assert rated.schema.equals(pa.schema(SCHEMAS["items"]))
    assert rated.to_pydict() == {
        "item": [0, 1, 2],
        "item_id": [largest, 5, 6],
        "title": [f"Movie {largest}", "Movie 5", "Movie 6"],
        "categories": ["Genre 1", "Genre 2", "Genre 0"],
    }


@pytest.mark.parametrize("listed", [[], [1], [5, 7], [70, 5]])
def test_a_rated_item_that_is_not_listed_is_refused(listed: list[int]) -> None:
    with pytest.raises(UserError) as raised:
        encode(table([(1, 70, 3), (1, 5, 4), (1, 6, 4)]), catalogue(listed))
    assert str(raised.value) == f"{LISTED_ITEMS}: lacks items that are rated in {RATINGS_PATH}; {RERUN}"


@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_in_exactly_one_part_and_in_the_same_again(method: str) -> None:
    indexed, *_ = encode(*shuffled())
    split = chosen(method, validation_size=0.1)
    first, again = (METHODS[method](indexed, split) for _ in range(2))
    assert [len(first[name]) > 0 for name in ("train", "validation", "test")] == [True] * 3
    assert sorted(np.concatenate(list(first.values())).tolist()) == list(range(RATINGS))
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("test_size", [0.2, 0.5, 1e-9, 0.0015, 0.999, 1 / 3])
def test_rows_are_divided_as_scikit_learn_divides_a_frame(test_size: float, seed: int) -> None:
    frame = pd.DataFrame({"row": range(RATINGS)})
    expected = train_test_split(frame, test_size=test_size, random_state=seed)
    found = parts(RATINGS, test_size, seed=seed)
    train, test = (part["row"].tolist() for part in expected)
    assert found == {"train": train, "validation": [], "test": test}
    assert len(test) == math.ceil(test_size * RATINGS)


@pytest.mark.parametrize("validation_size", [0.1, 0.15, 0.5])
def test_validation_comes_out_of_train_and_leaves_test_as_it_is(validation_size: float) -> None:
    whole, found = parts(RATINGS), parts(RATINGS, validation_size=validation_size)
    assert found["test"] == whole["test"]
    assert sorted([*found["train"], *found["validation"]]) == sorted(whole["train"])
    assert len(found["validation"]) == math.ceil(validation_size * len(whole["train"]))
    # Its seed is its own: train is not divided as all ratings are.
    assert found["validation"] != train_test_split(whole["train"], test_size=validation_size, random_state=7)[1]


def test_a_small_split_is_pinned() -> None:
    # Validation is drawn with the seed that NumPy's seed sequence [7, 1] generates.
    assert parts(20, validation_size=0.25) == {
        "train": [16, 8, 18, 15, 14, 10, 12, 4, 9, 11, 6, 0],
        "validation": [7, 19, 3, 13],
        "test": [1, 17, 2, 5],
    }


def test_the_seed_decides_the_division() -> None:
    first, again, other = (parts(RATINGS, validation_size=0.1, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert all(first[name] != other[name] for name in first)


@pytest.mark.parametrize(("count", "test_size"), [(0, 0.2), (1, 0.2), (1, 0.9), (2, 0.6), (1500, 0.9999)])
def test_a_part_without_rows_is_refused(count: int, test_size: float) -> None:
    with pytest.raises(UserError) as raised:
        parts(count, test_size)
    assert str(raised.value) == (
        f"split.test_size: {test_size} of {count} ratings leaves one of the parts empty; choose another share"
    )


def test_a_validation_part_that_takes_all_of_train_is_refused() -> None:
    with pytest.raises(UserError, match=r"^split\.validation_size: 0\.99 of 8 ratings leaves one of the parts empty; "):
        parts(10, validation_size=0.99)


@pytest.mark.usefixtures("workspace")
def test_parts_are_written_with_the_scale_of_own_ratings() -> None:
    put(Path(), table([(9, 5, 3), (2, 7, 4.5), (9, 7, 1), (2, 5, 2), (4, 7, 2)]), catalogue([7, 5]))
    with_pages = read_table(LISTED_ITEMS).append_column("pages", pa.array([700, 500]))
    write_table(LISTED_ITEMS, with_pages)
    params, parts = load_params(REPOSITORY / "params.yaml"), ("train", "validation", "test")
    scales = []
    for dataset, scale in (("ml-1m", None), ("own", None), ("own", (0.0, 10.0))):
        own = params.data.own.model_copy(update={"scale": scale})
        data = params.data.model_copy(update={"dataset": dataset, "own": own})
        described, removed = split_at_once(params.model_copy(update={"data": data}))
        tables = [read_table(PARTS[name]) for name in parts]
        assert sum(map(len, tables)) == described["ratings"] == 5
        assert all(each.schema.remove_metadata() == pa.schema(PART) for each in tables)
        assert removed == {}
        scales.append([read_scale(PARTS[name]) for name in parts])
    assert scales == [[STARS] * 3, [(1.0, 4.5)] * 3, [(0.0, 10.0)] * 3]
    assert read_table(ITEMS_PATH)["pages"].to_pylist() == [500, 700]  # of own files whatever columns they have


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(("path", "column"), [(RATINGS_PATH, "timestamp"), (LISTED_ITEMS, "categories")])
def test_a_file_of_extract_without_a_column_is_refused(path: Path, column: str) -> None:
    put(Path(), table([(9, 5, 3), (2, 7, 4.5)]), catalogue([7, 5]))
    write_table(path, read_table(path).drop_columns(column))
    with pytest.raises(UserError) as raised:
        split_at_once(load_params(REPOSITORY / "params.yaml"))
    assert str(raised.value) == f"{path}: cannot be read (no column {column}); {RERUN}"


def test_two_ratings_are_enough() -> None:
    assert sorted(parts(2, 0.5).values()) == [[], [0], [1]]


def test_the_description_counts_users_without_train_or_test_ratings() -> None:
    indexed, *_ = encode(
        table([(1, 1, 3), (1, 2, 4.5), (2, 1, 0.5), (3, 2, 2), (3, 1, 1), (4, 2, 4)]), catalogue([1, 2])
    )
    rows = {"train": np.array([0, 3, 5]), "validation": np.array([], int), "test": np.array([1, 2, 4])}
    described = {
        "users": 4,
        "items": 2,
        "ratings": 6,
        "train_ratings": 3,
        "test_ratings": 3,
        "min_rating": 0.5,
        "max_rating": 4.5,
        "density": 0.75,
        "users_without_train": 1,
        "users_without_test": 1,
        "items_without_train": 0,
    }
    assert describe(indexed, rows, 4, 2) == described
    rows |= {"train": np.array([0, 3]), "validation": np.array([5])}
    with_validation = described | {"train_ratings": 2, "validation_ratings": 1, "users_without_train": 2}
    assert describe(indexed, rows, 4, 2) == with_validation


def independent(ratings: pa.Table, items: pa.Table, test_size: float, seed: int) -> dict[str, Any]:
    """Make everything that the stage writes with pandas and loops."""
    frame = ratings.to_pandas()
    # A dict keeps the order of first appearance.
    users, rated = ({i: n for n, i in enumerate(dict.fromkeys(frame[name]))} for name in ("user_id", "item_id"))
    train, test = train_test_split(frame, test_size=test_size, random_state=seed)

    def part(rows: pd.DataFrame) -> list[tuple[int, int, float]]:
        return [
            (users[user], rated[item], rating)
            for user, item, rating in zip(rows["user_id"], rows["item_id"], rows["rating"], strict=True)
        ]

    listed = {row["item_id"]: row for row in items.to_pylist()}
    return {
        "train": part(train),
        "validation": [],
        "test": part(test),
        "users": [(index, user) for user, index in users.items()],
        "items": [(index, item, listed[item]["title"], listed[item]["categories"]) for item, index in rated.items()],
        "metrics": {
            "users": len(users),
            "items": len(rated),
            "ratings": len(frame),
            "train_ratings": len(train),
            "test_ratings": len(test),
            "min_rating": float(frame["rating"].min()),
            "max_rating": float(frame["rating"].max()),
            "density": round(len(frame) / (len(users) * len(rated)), 6),
            "users_without_train": len(users.keys() - set(train["user_id"])),
            "users_without_test": len(users.keys() - set(test["user_id"])),
            "items_without_train": len(rated.keys() - set(train["item_id"])),
        },
    }


@pytest.mark.parametrize(("test_size", "seed"), [(0.2, 7), (0.97, 0)])
def test_the_stage_writes_what_pandas_and_scikit_learn_give(project: Path, test_size: float, seed: int) -> None:
    ratings, items = shuffled()
    put(project, ratings, items)
    set_params(project, split__test_size=test_size, split__seed=seed)
    before = files(project)
    assert stage(project, "split").returncode == 0
    first = files(project)
    assert first == before | {name: sha256(project / name) for name in OUTPUTS}
    for name in OUTPUTS:
        (project / name).write_bytes(b"of an earlier run")
    result = stage(project, "split")
    assert (result.returncode, result.stderr) == (0, "")
    assert files(project) == first
    expected = independent(ratings, items, test_size, seed)
    assert json.loads((project / "metrics" / "split.json").read_text()) == expected.pop("metrics")
    for name, rows in expected.items():
        found = pq.read_table(project / "data" / "processed" / f"{name}.parquet")
        assert found.schema.equals(pa.schema(SCHEMAS[name]))
        assert [tuple(row.values()) for row in found.to_pylist()] == rows


@pytest.mark.parametrize(
    ("ratings", "items", "words"),
    [
        (table([]), catalogue([1]), "split.test_size: 0.2 of 0 ratings leaves one of the parts empty"),
        (table([(1, 1, 3)]), catalogue([1]).drop(["title"]), f"{LISTED_ITEMS}: cannot be read (no column title)"),
        (table([(1, 1, 3)]).drop(["rating"]), catalogue([1]), f"{RATINGS_PATH}: cannot be read (no column rating)"),
    ],
    ids=["no ratings", "no titles", "no values"],
)
def test_the_stage_refuses_tables_that_cannot_be_split_and_writes_nothing(
    project: Path, ratings: pa.Table, items: pa.Table, words: str
) -> None:
    put(project, ratings, items)
    before = files(project)
    refused(stage(project, "split"), words)
    assert files(project) == before
