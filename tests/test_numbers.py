"""Degenerate ratings and factors end in defined numbers or a clear error, and never in NaN in a file of metrics."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from stages import baselines, evaluate, recommend, split
from stages.lib.factors import Factors
from stages.lib.ratings import TEST, TRAIN
from stages.lib.storage import read_table, write_csv, write_table
from tests.conftest import Ending, set_params
from tests.test_train import ENCODED, SOFTMAX, set_ratings, train_here

pytestmark = pytest.mark.usefixtures("no_arguments")
Pairs = list[tuple[int, int, float]]


def put(pairs: Pairs) -> None:
    """Put what extract would write."""
    users, movies, values = zip(*pairs, strict=True)
    ratings = {"user_id": pa.array(users, pa.int32()), "movie_id": pa.array(movies, pa.int32())}
    write_table(split.RATINGS, pa.table({**ratings, "rating": pa.array(values, pa.float32())}))
    ids = sorted(set(movies))
    titles = [f"Movie {movie}" for movie in ids]
    write_table(split.MOVIES, pa.table({"movie_id": pa.array(ids, pa.int32()), "title": titles, "genres": titles}))


SHAPES: dict[str, Pairs] = {
    "two ratings": [(1, 1, 4), (1, 2, 3)],
    "one user": [(1, movie, movie % 5 + 1) for movie in range(1, 13)],
    "one movie": [(user, 1, user % 5 + 1) for user in range(1, 13)],
    "all ratings equal": [(user, movie, 3) for user in range(1, 9) for movie in range(1, 9) if (user + movie) % 3],
    "all ratings low": [(user, movie, 1) for user in range(1, 9) for movie in range(1, 9) if (user + movie) % 3],
    "everything rated": [(user, movie, (user * movie) % 5 + 1) for user in range(1, 7) for movie in range(1, 7)],
    "a rating for each user and movie": [(number, number, number % 5 + 1) for number in range(1, 21)],
}


def numbers(value: Any) -> list[float]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return [number for entry in value.values() for number in numbers(entry)]
    return [] if value is None else [value]


def check_metrics() -> None:
    """See that all numbers in files of metrics are finite."""
    for path in Path("metrics").iterdir():
        if path.suffix == ".json":
            found = numbers(json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name)))
        else:
            found = pd.read_csv(path).to_numpy().ravel().tolist()
        assert found
        assert all(math.isfinite(number) for number in found), path


def random_factors(users: int, movies: int) -> Factors:
    random = np.random.default_rng(7)
    parts = [random.normal(0, 1, shape).astype(np.float32) for shape in ((users, 3), (movies, 3), users, movies)]
    return Factors(*parts, np.arange(movies, dtype=np.int32))


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_ratings_gives_finite_metrics(workspace: Path, name: str) -> None:
    put(SHAPES[name])
    set_params(workspace, split__test_size=0.3)
    split.main()
    users, movies = (len({pair[axis] for pair in SHAPES[name]}) for axis in (0, 1))
    set_params(workspace, evaluate__k=movies, recommend__k=movies)
    random_factors(users, movies).save()
    for stage in (evaluate, baselines, recommend):
        stage.main()
    check_metrics()
    described = json.loads(Path("metrics/split.json").read_text())
    if name == "a rating for each user and movie":  # some users have no rating in train, some movies are in test alone
        assert described["users_without_train"] == described["test_ratings"] == 6
        assert not set(read_table(TEST)["movie"].to_pylist()) & set(read_table(TRAIN)["movie"].to_pylist())
    listed = read_table(recommend.RECOMMENDATIONS)
    assert np.isfinite(listed["score"].to_numpy()).all()
    assert len(listed) == users * movies - len(SHAPES[name])


def test_a_single_rating_cannot_be_split(workspace: Path, ending: Ending) -> None:
    assert workspace.is_dir()
    put([(1, 1, 4)])
    assert "split.test_size: 0.2 of 1 ratings leaves one of the parts empty" in ending(split.main)


KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "ratings, one user": ("one user", {}),
    "ranking, all ratings equal": ("all ratings equal", SOFTMAX),
    "encoded, two ratings": ("two ratings", ENCODED),
}


@pytest.mark.parametrize(("shape", "values"), KINDS.values(), ids=KINDS)
def test_training_on_odd_shapes_gives_finite_numbers(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, shape: str, values: dict[str, object]
) -> None:
    put(SHAPES[shape])
    set_params(workspace, **values)
    set_params(workspace, split__test_size=0.3)
    split.main()
    train_here(workspace, monkeypatch)
    Factors.load()
    check_metrics()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("value", [1e-300])
def test_ease_on_a_matrix_of_less_than_full_rank(here: Path, ending: Ending, value: float, seed: int) -> None:
    users = np.random.default_rng(seed).permutation(len(read_table(TRAIN)) % 60 + 1)[:3]
    table = read_table(TRAIN).to_pandas()
    write_table(TRAIN, pa.Table.from_pandas(table[table["user"].isin(users)], preserve_index=False))
    set_params(here, baselines__ease_lambda=value)
    message = ending(baselines.main)
    assert (
        message
        == f"params.yaml: baselines.ease_lambda: {value:g} is too small to invert EASE's matrix; choose 1 or more"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stage", [evaluate, recommend], ids=["evaluate", "recommend"])
@pytest.mark.usefixtures("here")
def test_factors_that_are_not_finite(ending: Ending, stage: Any, value: float) -> None:  # noqa: ANN401 - a module
    factors = Factors.load()
    factors.movies.flags.writeable = True
    factors.movies[3, 0] = value
    factors.save()
    assert "models/factors.npz: holds NaN or infinite numbers: training diverged; lower" in ending(stage.main)


@pytest.mark.usefixtures("here")
def test_factors_whose_scores_overflow(ending: Ending) -> None:
    factors = Factors.load()
    huge = np.float32(1e20)
    Factors(
        factors.users * huge, factors.movies * huge, factors.user_bias, factors.movie_bias, factors.movie_ids
    ).save()
    assert "models/factors.npz: holds numbers so large that scores overflow; lower" in ending(evaluate.main)


@pytest.mark.usefixtures("here")
def test_factors_of_another_split(ending: Ending) -> None:
    random_factors(3, 4).save()
    assert "was trained on 3 users and 4 movies, but data/processed holds 60 and 80; " in ending(evaluate.main)


@pytest.mark.usefixtures("here")
def test_factors_that_do_not_fit_together(ending: Ending) -> None:
    factors = Factors.load()
    Factors(factors.users[:, 1:], factors.movies, factors.user_bias, factors.movie_bias, factors.movie_ids).save()
    assert "arrays are missing or do not fit together; " in ending(evaluate.main)


@pytest.mark.usefixtures("here")
def test_ratings_of_movies_that_are_not_listed(ending: Ending) -> None:
    write_table(split.MOVIES, read_table(split.MOVIES).slice(0, 3))
    assert "movies.parquet: lacks movies that are rated in data/interim/ratings.parquet; " in ending(split.main)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("path", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.usefixtures("here")
def test_ratings_that_are_not_finite(ending: Ending, path: Path, value: float) -> None:
    set_ratings(path, value)
    assert ending(baselines.main).startswith(f"{path}: holds a rating that is not a finite number; run `dvc repro`")


@pytest.mark.parametrize("path", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.usefixtures("here")
def test_a_part_without_ratings(ending: Ending, path: Path) -> None:
    write_table(path, read_table(path).slice(0, 0))
    assert ending(evaluate.main).startswith(f"{path}: holds no ratings; run `dvc repro`")


@pytest.mark.parametrize("value", [-1, 80, 2**31 - 1])
@pytest.mark.usefixtures("here")
def test_an_index_out_of_range(ending: Ending, value: int) -> None:
    table = read_table(TEST)
    write_table(TEST, table.set_column(1, "movie", pa.array([value] * len(table), pa.int32())))
    assert "a movie index is outside 0 to 79; run `dvc repro`" in ending(evaluate.main)


@pytest.mark.usefixtures("here")
def test_columns_of_other_types(ending: Ending) -> None:
    table = read_table(TEST)
    write_table(TEST, table.set_column(1, "movie", table["movie"].cast(pa.string())))
    assert "its columns are of other types than user, movie and rating have" in ending(evaluate.main)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.usefixtures("workspace")
def test_no_metric_that_is_not_finite_is_written(ending: Ending, value: float) -> None:
    columns = {"epoch": np.arange(3), "loss": np.array([1.0, value, 0.5])}
    message = ending(lambda: write_csv(Path("metrics/history.csv"), columns))
    assert message.startswith(f"history.csv: loss of row 2 is {value}: training diverged or the data is degenerate; ")


def test_lists_longer_than_the_catalogue(here: Path, ending: Ending) -> None:
    set_params(here, evaluate__k=81)
    assert ending(evaluate.main) == (
        "params.yaml: evaluate.k: must be at most 80, the number of rated movies; found 81"
    )
