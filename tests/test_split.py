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
from conftest import MOVIES, RATINGS, USERS, files, refused, set_params, sha256, stage
from sklearn.model_selection import train_test_split

from benchmarks.synthetic import make_ratings
from stages.lib.errors import UserError
from stages.lib.params import Split
from stages.split import describe, encode, split_rows

OUTPUTS = [f"data/processed/{name}.parquet" for name in ("movies", "test", "train", "users", "validation")]
OUTPUTS.append("metrics/split.json")
SCHEMAS = {
    "train": [("user", pa.int32()), ("movie", pa.int32()), ("rating", pa.float32())],
    "validation": [("user", pa.int32()), ("movie", pa.int32()), ("rating", pa.float32())],
    "test": [("user", pa.int32()), ("movie", pa.int32()), ("rating", pa.float32())],
    "users": [("user", pa.int32()), ("user_id", pa.int32())],
    "movies": [("movie", pa.int32()), ("movie_id", pa.int32()), ("title", pa.string()), ("genres", pa.string())],
}


def table(rows: list[tuple[int, int, float]]) -> pa.Table:
    users, movies, values = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "user_id": pa.array(users, pa.int32()),
            "movie_id": pa.array(movies, pa.int32()),
            "rating": pa.array(values, pa.float32()),
            "timestamp": pa.array(range(len(users)), pa.int64()),
        }
    )


def catalogue(ids: list[int]) -> pa.Table:
    return pa.table(
        {
            "movie_id": pa.array(ids, pa.int32()),
            "title": [f"Movie {i}" for i in ids],
            "genres": [f"Genre {i % 3}" for i in ids],
        }
    )


def put(project: Path, ratings: pa.Table, movies: pa.Table) -> None:
    """Put what extract would write."""
    folder = project / "data" / "interim"
    folder.mkdir(parents=True)
    pq.write_table(ratings, folder / "ratings.parquet")
    pq.write_table(movies, folder / "movies.parquet")


def shuffled() -> tuple[pa.Table, pa.Table]:
    """Give generated ratings in an order where ids come up at random, and a list of movies in another."""
    random = np.random.default_rng(3)
    users, movies, values = make_ratings(USERS, MOVIES, RATINGS)
    order = random.permutation(RATINGS)
    rows = list(zip((users[order] * 7).tolist(), (movies[order] * 3).tolist(), values[order].tolist(), strict=True))
    return table(rows), catalogue((random.permutation(np.arange(1, MOVIES + 6)) * 3).tolist())


def first_seen(values: list[int]) -> dict[int, int]:
    """Number values by first appearance, one by one."""
    numbers: dict[int, int] = {}
    for value in values:
        numbers.setdefault(value, len(numbers))
    return numbers


def test_ids_are_numbered_by_first_appearance() -> None:
    ratings = table([(9, 70, 3), (2, 5, 4), (9, 5, 1), (4, 70, 2), (2, 6, 5)])
    indexed, users, rated = encode(ratings, catalogue([5, 1, 6, 70, 80]))
    assert indexed.to_pydict() == {"user": [0, 1, 0, 2, 1], "movie": [0, 1, 1, 0, 2], "rating": [3, 4, 1, 2, 5]}
    assert users.to_pydict() == {"user": [0, 1, 2], "user_id": [9, 2, 4]}
    assert rated.to_pydict() == {
        "movie": [0, 1, 2],
        "movie_id": [70, 5, 6],
        "title": ["Movie 70", "Movie 5", "Movie 6"],
        "genres": ["Genre 1", "Genre 2", "Genre 0"],
    }


def test_the_largest_ids_are_numbered_too() -> None:
    indexed, users, rated = encode(table([(2**31 - 1, 2**31 - 1, 3), (1, 1, 4)]), catalogue([1, 2**31 - 1]))
    assert indexed["user"].to_pylist() == indexed["movie"].to_pylist() == [0, 1]
    assert users["user_id"].to_pylist() == rated["movie_id"].to_pylist() == [2**31 - 1, 1]


@pytest.mark.parametrize("listed", [[], [1], [5, 7], [70, 5]])
def test_a_rated_movie_that_is_not_listed_is_refused(listed: list[int]) -> None:
    with pytest.raises(
        UserError, match=r"movies\.parquet: lacks movies that are rated in .*ratings\.parquet; run `dvc"
    ):
        encode(table([(1, 70, 3), (1, 5, 4), (1, 6, 4)]), catalogue(listed))


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("test_size", [0.2, 0.5, 1e-9, 0.0015, 0.999, 1 / 3])
def test_rows_are_divided_as_scikit_learn_divides_a_frame(test_size: float, seed: int) -> None:
    frame = pd.DataFrame({"row": range(RATINGS)})
    expected = train_test_split(frame, test_size=test_size, random_state=seed)
    train, validation, test = split_rows(RATINGS, Split(test_size=test_size, validation_size=0, seed=seed))
    assert len(validation) == 0
    assert train.tolist() == expected[0]["row"].tolist()
    assert test.tolist() == expected[1]["row"].tolist()
    assert sorted([*train, *test]) == list(range(RATINGS))
    assert len(test) == math.ceil(test_size * RATINGS)


def test_the_seed_decides_the_division() -> None:
    for part in range(3):
        rows = [
            split_rows(RATINGS, Split(test_size=0.2, validation_size=0.1, seed=seed))[part].tolist()
            for seed in (7, 7, 8)
        ]
        assert rows[0] == rows[1]
        assert rows[0] != rows[2]


@pytest.mark.parametrize("validation_size", [0.1, 0.15, 0.5])
def test_validation_comes_out_of_train_and_leaves_test_as_it_is(validation_size: float) -> None:
    whole, _, test = split_rows(RATINGS, Split(test_size=0.2, validation_size=0, seed=7))
    train, validation, again = split_rows(RATINGS, Split(test_size=0.2, validation_size=validation_size, seed=7))
    assert again.tolist() == test.tolist()
    assert sorted([*train, *validation]) == sorted(whole)
    assert len(validation) == math.ceil(validation_size * len(whole))
    # Its seed is its own: the division of train is not that of all ratings again.
    same = train_test_split(whole, test_size=validation_size, random_state=7)[1]
    assert validation.tolist() != same.tolist()


@pytest.mark.parametrize(("rows", "test_size"), [(0, 0.2), (1, 0.2), (1, 0.9), (2, 0.6), (1500, 0.9999)])
def test_a_part_without_rows_is_refused(rows: int, test_size: float) -> None:
    with pytest.raises(UserError) as raised:
        split_rows(rows, Split(test_size=test_size, validation_size=0, seed=7))
    assert str(raised.value) == (
        f"split.test_size: {test_size} of {rows} ratings leaves one of the parts empty; choose another share"
    )


def test_a_validation_part_that_takes_all_of_train_is_refused() -> None:
    with pytest.raises(UserError) as raised:
        split_rows(10, Split(test_size=0.2, validation_size=0.99, seed=7))
    assert str(raised.value) == (
        "split.validation_size: 0.99 of 8 ratings leaves one of the parts empty; choose another share"
    )


def test_two_ratings_are_enough() -> None:
    train, _, test = split_rows(2, Split(test_size=0.5, validation_size=0, seed=7))
    assert sorted([*train, *test]) == [0, 1]
    assert len(train) == len(test) == 1


def test_the_description_counts_users_without_train_or_test_ratings() -> None:
    indexed, users, rated = encode(
        table([(1, 1, 3), (1, 2, 4.5), (2, 1, 0.5), (3, 2, 2), (3, 1, 1), (4, 2, 4)]), catalogue([1, 2])
    )
    described = describe(indexed, np.array([0, 3, 5]), np.array([], int), np.array([1, 2, 4]), len(users), len(rated))
    assert described == {
        "users": 4,
        "movies": 2,
        "ratings": 6,
        "train_ratings": 3,
        "test_ratings": 3,
        "min_rating": 0.5,
        "max_rating": 4.5,
        "density": 0.75,
        "users_without_train": 1,
        "users_without_test": 1,
    }
    with_validation = describe(indexed, np.array([0, 3]), np.array([5]), np.array([1, 2, 4]), len(users), len(rated))
    assert with_validation == described | {"train_ratings": 2, "validation_ratings": 1, "users_without_train": 2}


def independent(ratings: pa.Table, movies: pa.Table, test_size: float, seed: int) -> dict[str, Any]:
    """Make everything that the stage writes with pandas and loops."""
    frame = ratings.to_pandas()
    users, rated = first_seen(frame["user_id"].tolist()), first_seen(frame["movie_id"].tolist())
    train, test = train_test_split(frame, test_size=test_size, random_state=seed)

    def part(rows: pd.DataFrame) -> list[tuple[int, int, float]]:
        return [
            (users[user], rated[movie], rating)
            for user, movie, rating in zip(rows["user_id"], rows["movie_id"], rows["rating"], strict=True)
        ]

    listed = {row["movie_id"]: row for row in movies.to_pylist()}
    return {
        "train": part(train),
        "validation": [],
        "test": part(test),
        "users": [(index, user) for user, index in users.items()],
        "movies": [(index, movie, listed[movie]["title"], listed[movie]["genres"]) for movie, index in rated.items()],
        "metrics": {
            "users": len(users),
            "movies": len(rated),
            "ratings": len(frame),
            "train_ratings": len(train),
            "test_ratings": len(test),
            "min_rating": float(frame["rating"].min()),
            "max_rating": float(frame["rating"].max()),
            "density": round(len(frame) / (len(users) * len(rated)), 6),
            "users_without_train": len(users.keys() - set(train["user_id"])),
            "users_without_test": len(users.keys() - set(test["user_id"])),
        },
    }


@pytest.mark.parametrize(("test_size", "seed"), [(0.2, 7), (0.97, 0)])
def test_the_stage_writes_what_pandas_and_scikit_learn_give(project: Path, test_size: float, seed: int) -> None:
    ratings, movies = shuffled()
    put(project, ratings, movies)
    set_params(project, split__test_size=test_size, split__seed=seed)
    before = files(project)
    result = stage(project, "split")
    assert (result.returncode, result.stderr) == (0, "")
    assert files(project) == before | {name: sha256(project / name) for name in OUTPUTS}
    expected = independent(ratings, movies, test_size, seed)
    assert json.loads((project / "metrics" / "split.json").read_text()) == expected.pop("metrics")
    for name, rows in expected.items():
        written = pq.read_table(project / "data" / "processed" / f"{name}.parquet")
        assert written.schema.equals(pa.schema(SCHEMAS[name]))
        assert [tuple(row.values()) for row in written.to_pylist()] == rows


def test_the_stage_writes_the_same_bytes_again(project: Path) -> None:
    put(project, *shuffled())
    assert stage(project, "split").returncode == 0
    before = files(project)
    assert set(OUTPUTS) <= set(before)
    for name in OUTPUTS:
        (project / name).write_bytes(b"of an earlier run")
    assert stage(project, "split").returncode == 0
    assert files(project) == before


ONE = table([(1, 1, 3)])
TWO = table([(1, 1, 3), (1, 2, 3)])


@pytest.mark.parametrize(
    ("ratings", "movies", "words"),
    [
        (
            ONE,
            catalogue([1]),
            ["split.test_size: 0.2 of 1 ratings leaves one of the parts empty; choose"],
        ),
        (table([]), catalogue([1]), ["split.test_size: 0.2 of 0 ratings leaves one of the parts empty"]),
        (TWO, catalogue([1]), ["data/interim/movies.parquet: lacks movies that are rated in data/interim/ratings"]),
        (TWO, catalogue([1, 2]).drop(["title"]), ["data/interim/movies.parquet: cannot be read (no column title)"]),
        (TWO.drop(["rating"]), catalogue([1, 2]), ["data/interim/ratings.parquet: cannot be read (no column rating)"]),
    ],
    ids=range(5),
)
def test_the_stage_tells_tables_that_cannot_be_split_and_writes_nothing(
    project: Path, ratings: pa.Table, movies: pa.Table, words: list[str]
) -> None:
    put(project, ratings, movies)
    before = files(project)
    refused(stage(project, "split"), *words)
    assert files(project) == before
