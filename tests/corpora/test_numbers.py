"""Degenerate ratings and factors end in defined numbers or a clear error, and never in NaN in a file of metrics."""

import dataclasses
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recommender.paths import LISTED_ITEMS, RATINGS, RECOMMENDATIONS, TEST, TRAIN
from recommender.ranking.factors import Factors
from recommender.storage import read_table, write_csv, write_table
from stages import baselines, evaluate, recommend, split
from tests.conftest import Ending, set_params

pytestmark = pytest.mark.usefixtures("no_arguments")
Pairs = list[tuple[int, int, float]]


def write_extracted(pairs: Pairs) -> None:
    """Write what extract would write."""
    users, items, ratings = zip(*pairs, strict=True)
    columns = {"user_id": pa.array(users, pa.int32()), "item_id": pa.array(items, pa.int32())}
    timestamps = pa.array(range(len(pairs)), pa.int64())
    write_table(RATINGS, pa.table({**columns, "rating": pa.array(ratings, pa.float32()), "timestamp": timestamps}))
    ids = sorted(set(items))
    titles = [f"Movie {item}" for item in ids]
    write_table(LISTED_ITEMS, pa.table({"item_id": pa.array(ids, pa.int32()), "title": titles, "categories": titles}))


SHAPES: dict[str, Pairs] = {
    "two ratings": [(1, 1, 4), (1, 2, 3)],
    "one user": [(1, item, item % 5 + 1) for item in range(1, 13)],
    "one item": [(user, 1, user % 5 + 1) for user in range(1, 13)],
    "all ratings equal": [(user, item, 3) for user in range(1, 9) for item in range(1, 9) if (user + item) % 3],
    "all ratings low": [(user, item, 1) for user in range(1, 9) for item in range(1, 9) if (user + item) % 3],
    "everything rated": [(user, item, (user * item) % 5 + 1) for user in range(1, 7) for item in range(1, 7)],
    "a rating for each user and item": [(number, number, number % 5 + 1) for number in range(1, 21)],
}


def numbers(value: Any) -> list[float]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return [number for entry in value.values() for number in numbers(entry)]
    return [] if value is None else [value]


def check_metrics() -> None:
    """Check that all numbers in files of metrics are finite."""
    for path in [*Path("metrics").glob("*.json"), *Path("metrics").glob("*.csv")]:
        if path.suffix == ".json":
            found = numbers(json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name)))
        else:
            found = pd.read_csv(path).to_numpy().ravel().tolist()
        assert found or path.name == "history.csv"
        assert all(math.isfinite(number) for number in found), path


def random_factors(users: int, items: int) -> Factors:
    random = np.random.default_rng(7)
    parts = [random.normal(0, 1, shape).astype(np.float32) for shape in ((users, 3), (items, 3), users, items)]
    return Factors(*parts, np.arange(items, dtype=np.int32))


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_ratings_gives_finite_metrics(workspace: Path, name: str) -> None:
    write_extracted(SHAPES[name])
    users, items = (len({pair[axis] for pair in SHAPES[name]}) for axis in (0, 1))
    set_params(workspace, split__test_size=0.3, evaluate__k=items, recommend__k=items)
    split.main()
    random_factors(users, items).save()
    for stage in (evaluate, baselines, recommend):
        stage.main()
    check_metrics()
    described = json.loads(Path("metrics/split.json").read_text())
    if name == "a rating for each user and item":  # some users have no rating in train, some items are in test alone
        assert described["users_without_train"] == described["test_ratings"] == 6
        assert not set(read_table(TEST)["item"].to_pylist()) & set(read_table(TRAIN)["item"].to_pylist())
    listed = read_table(RECOMMENDATIONS)
    assert np.isfinite(listed["score"].to_numpy()).all()
    learned = set(read_table(TRAIN)["item"].to_pylist())  # others cannot be recommended
    rated = [item for part in (TRAIN, TEST) for item in read_table(part)["item"].to_pylist()]
    assert len(listed) == users * len(learned) - sum(item in learned for item in rated)


@pytest.mark.usefixtures("workspace")
def test_a_single_rating_cannot_be_split(ending: Ending) -> None:
    write_extracted([(1, 1, 4)])
    assert "split.test_size: 0.2 of 1 ratings leaves one of the parts empty" in ending(split.main)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("mf", "one user"),
        ("softmax_mf", "all ratings equal"),
        ("encoded_mf", "two ratings"),
        ("kernel", "one user"),
        ("kernel", "all ratings equal"),
    ],
)
def test_training_on_odd_shapes_gives_finite_numbers(workspace: Path, model: str, shape: str) -> None:
    from stages import train  # loads TensorFlow

    write_extracted(SHAPES[shape])
    set_params(workspace, split__test_size=0.3, train__model=model)
    set_params(workspace, **{f"train__{model}__embedding_size": 8})
    set_params(workspace, **{f"train__{model}__epochs": 6} if model != "kernel" else {})
    split.main()
    train.main()
    Factors.load()
    check_metrics()


def test_a_kernel_without_a_solution(here: Path, ending: Ending) -> None:
    from stages import train  # loads TensorFlow

    table = read_table(TRAIN)
    ratings = pa.array(np.full(len(table), 1e30, dtype=np.float32))
    write_table(TRAIN, table.set_column(table.column_names.index("rating"), "rating", ratings))
    set_params(here, train__model="kernel", train__kernel__embedding_size=8)
    assert ending(train.main).startswith("kernel has no solution in these numbers; raise the ridges of train.kernel")


@pytest.mark.usefixtures("here")
def test_ease_on_a_matrix_of_less_than_full_rank(here: Path, ending: Ending) -> None:
    table = read_table(TRAIN)
    write_table(TRAIN, table.filter(pa.compute.less(table["user"], 3)))
    set_params(here, baselines__ease_lambda=1e-300)
    assert ending(baselines.main) == (
        "params.yaml: baselines.ease_lambda: 1e-300 is too small to invert EASE's matrix; choose 1 or more"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stage", [evaluate, recommend], ids=["evaluate", "recommend"])
@pytest.mark.usefixtures("here")
def test_factors_that_are_not_finite(ending: Ending, stage: ModuleType, value: float) -> None:
    factors = Factors.load()
    factors.item_factors[3, 0] = value
    factors.save()
    assert "models/factors.npz: contains NaN or infinite numbers: training diverged; lower" in ending(stage.main)


@pytest.mark.usefixtures("here")
def test_factors_whose_scores_overflow(ending: Ending) -> None:
    factors, huge = Factors.load(), np.float32(1e20)
    dataclasses.replace(
        factors, user_factors=factors.user_factors * huge, item_factors=factors.item_factors * huge
    ).save()
    assert "models/factors.npz: contains numbers so large that scores overflow; lower" in ending(evaluate.main)


@pytest.mark.usefixtures("here")
def test_factors_of_another_split(ending: Ending) -> None:
    random_factors(3, 4).save()
    assert "was trained on 3 users and 4 items, but data/processed has 60 and 80; " in ending(evaluate.main)
    for stage in (evaluate, recommend):
        assert "was trained on 3 users and 4 items" in ending(stage.main)


@pytest.mark.usefixtures("here")
def test_factors_that_do_not_fit_together(ending: Ending) -> None:
    factors = Factors.load()
    dataclasses.replace(factors, user_factors=factors.user_factors[:, 1:]).save()
    assert "arrays are missing or do not fit together; " in ending(evaluate.main)


@pytest.mark.usefixtures("here")
def test_ratings_of_items_that_are_not_listed(ending: Ending) -> None:
    write_table(LISTED_ITEMS, read_table(LISTED_ITEMS).slice(0, 3))
    assert "items.parquet: lacks items that are rated in data/interim/ratings.parquet; " in ending(split.main)


def change_column(path: Path, name: str, values: Any) -> None:  # noqa: ANN401 - anything that becomes a column
    """Replace a column of a table."""
    table = read_table(path)
    write_table(path, table.set_column(table.column_names.index(name), name, values(table[name])))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("path", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.usefixtures("here")
def test_ratings_that_are_not_finite(ending: Ending, path: Path, value: float) -> None:
    change_column(path, "rating", lambda column: pa.array([value] * len(column), pa.float32()))
    assert ending(baselines.main).startswith(f"{path}: contains a rating that is not a finite number; run `dvc repro`")


@pytest.mark.parametrize("path", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.usefixtures("here")
def test_a_part_without_ratings(ending: Ending, path: Path) -> None:
    write_table(path, read_table(path).slice(0, 0))
    assert ending(evaluate.main).startswith(f"{path}: contains no ratings; run `dvc repro`")


@pytest.mark.parametrize("value", [-1, 80, 2**31 - 1])
@pytest.mark.usefixtures("here")
def test_an_index_out_of_range(ending: Ending, value: int) -> None:
    change_column(TEST, "item", lambda column: pa.array([value] * len(column), pa.int32()))
    assert "item index outside 0 to 79; run `dvc repro`" in ending(evaluate.main)


@pytest.mark.usefixtures("here")
def test_columns_of_other_types(ending: Ending) -> None:
    change_column(TEST, "item", lambda column: column.cast(pa.string()))
    assert "the types of its columns user, item and rating are wrong" in ending(evaluate.main)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.usefixtures("workspace")
def test_no_metric_that_is_not_finite_is_written(ending: Ending, value: float) -> None:
    columns = {"epoch": np.arange(3), "loss": np.array([1.0, value, 0.5])}
    message = ending(lambda: write_csv(Path("metrics/history.csv"), columns))
    assert message.startswith(f"history.csv: loss of row 2 is {value}: training diverged or the data is degenerate; ")


@pytest.mark.parametrize(
    ("stage", "name"),
    [(evaluate, "evaluate"), (baselines, "evaluate"), (recommend, "recommend")],
    ids=["evaluate", "baselines", "recommend"],
)
def test_lists_longer_than_the_catalogue(here: Path, ending: Ending, stage: ModuleType, name: str) -> None:
    set_params(here, **{f"{name}__k": 81})
    expected = f"params.yaml: {name}.k: must be at most 80, the number of rated items; found 81"
    assert ending(stage.main) == expected
