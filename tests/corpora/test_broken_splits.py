"""Ratings that cannot be split as asked, wrong parameters of a split, and damaged ratings to fold in."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recommender.data.splitting import METHODS
from recommender.paths import GIVEN, ITEMS, LISTED_ITEMS, RATINGS
from recommender.storage import read_table, write_table
from stages import baselines, evaluate, fetch, recommend, split
from tests.conftest import Ending, set_params

Rating = tuple[int, int, int | None]  # user, item, time


def place(ratings: list[Rating]) -> None:
    """Write what extract would of these ratings, all of three stars."""
    users, items, times = zip(*ratings, strict=True) if ratings else ((), (), ())
    columns = {"user_id": pa.array(users, pa.int32()), "item_id": pa.array(items, pa.int32())}
    columns |= {"rating": pa.array([3.0] * len(users), pa.float32()), "timestamp": pa.array(times, pa.int64())}
    write_table(RATINGS, pa.table(columns))
    listed = pa.array(sorted(set(items)), pa.int32())
    texts = pa.array([""] * len(listed), pa.string())
    write_table(LISTED_ITEMS, pa.table({"item_id": listed, "title": texts, "categories": texts}))


def grid(users: int, items: int, time: Callable[[int, int], int | None] = lambda _, item: item) -> list[Rating]:
    """Return a rating of every item by every user."""
    return [(user, item, time(user, item)) for user in range(1, users + 1) for item in range(1, items + 1)]


PLENTY, TIMELESS, AT_ONCE = grid(9, 9), grid(9, 9, lambda *_: None), grid(9, 9, lambda *_: 5)
NO_TIMES = "needs the times of ratings, and the data have none; set it to one that needs none, such as random"
# Ratings, parameters of the split beside the method, and what the message must contain.
UNFIT: dict[str, tuple[str, list[Rating], dict[str, Any], str]] = {
    "the last without times": ("leave_last", TIMELESS, {}, f"^split.method: leave_last {NO_TIMES}"),
    "by time without times": ("temporal", TIMELESS, {}, f"^split.method: temporal {NO_TIMES}"),
    "the last with one time missing": ("leave_last", [*PLENTY, (1, 10, None)], {}, NO_TIMES),
    "by time with one time missing": ("temporal", [(1, 10, None), *PLENTY], {}, NO_TIMES),
    "by time with all at once": ("temporal", AT_ONCE, {}, "^split.test_size: 0.2 with .* temporal leaves test empty"),
    "by time with all but one at once": ("temporal", [*AT_ONCE, (1, 10, 1)], {}, "leaves test empty"),
    "validation by time with all of train at once": (
        "temporal",
        [*AT_ONCE, *grid(2, 12, lambda *_: 6)[9:12]],
        {"test_size": 0.05, "validation_size": 0.5},
        "^split.validation_size: 0.5 with split.method: temporal leaves validation empty",
    ),
    "by time with all in test": ("temporal", PLENTY, {"test_size": 0.999}, "leaves train empty"),
    "by time with two ratings and three parts": (
        "temporal",
        grid(1, 2),
        {"test_size": 0.5, "validation_size": 0.5},
        "leaves train empty",
    ),
    "by time with one rating": ("temporal", grid(1, 1), {}, "leaves train empty"),
    "by time with no ratings": ("temporal", [], {}, "leaves train and test empty"),
    "more of the last than anybody has": ("leave_last", PLENTY, {"n": 9}, "^split.n: 9 with .* leaves train empty"),
    "more of the last than anybody has, twice": ("leave_last", PLENTY, {"n": 10**6}, "leaves train empty"),
    "more of the last than anybody has, for validation": (
        "leave_last",
        PLENTY,
        {"n": 5, "validation_size": 0.1},
        "^split.n: 5 with split.method: leave_last leaves train empty",
    ),
    "the last of users with one": ("leave_last", grid(9, 1), {}, "leaves train empty"),
    "the last of users with one, for validation": (
        "leave_last",
        grid(9, 1),
        {"validation_size": 0.1},
        "leaves train and validation empty",
    ),
    "the last of nothing": ("leave_last", [], {}, "leaves train and test empty"),
    "a share of users with one": (
        "per_user",
        grid(9, 1),
        {},
        "^split.test_size: 0.2 with .* per_user leaves test empty",
    ),
    "a share of users with four": ("per_user", grid(9, 4), {}, "leaves test empty"),
    "a share of nothing": ("per_user", [], {}, "leaves train and test empty"),
    "a small share of few": ("per_user", grid(9, 9), {"test_size": 0.1}, "^split.test_size: 0.1 .* leaves test empty"),
    "a small share of few, for validation": (
        "per_user",
        PLENTY,
        {"validation_size": 0.1},
        "^split.validation_size: 0.1 with split.method: per_user leaves validation empty",
    ),
    "by hash with one rating": ("hash", grid(1, 1), {}, "^split.test_size: 0.2 with split.method: hash leaves"),
    "by hash with no ratings": ("hash", [], {}, "leaves train and test empty"),
    "by hash with all in test": ("hash", grid(1, 3), {"test_size": 0.999}, "hash leaves train empty"),
    "whole users of one": (
        "user_fold",
        grid(1, 9),
        {},
        "^split.test_size: 0.2 of 1 users leaves one of the parts empty",
    ),
    "whole users of none": ("user_fold", [], {}, "0.2 of 0 users leaves one"),
    "whole users, nearly all": ("user_fold", grid(2, 9), {"test_size": 0.9}, "0.9 of 2 users leaves one"),
    "whole users, all but one, and validation": (
        "user_fold",
        grid(3, 9),
        {"test_size": 0.5, "validation_size": 0.5},
        "^split.validation_size: 0.5 of 1 users leaves one of the parts empty; choose another share",
    ),
    "any of one": ("random", grid(1, 1), {}, "^split.test_size: 0.2 of 1 ratings leaves one"),
    "any, and all that is left for validation": (
        "random",
        grid(1, 5),
        {"validation_size": 0.9},
        "^split.validation_size: 0.9 of 4 ratings leaves one",
    ),
}


@pytest.mark.parametrize(("method", "ratings", "values", "words"), UNFIT.values(), ids=UNFIT)
def test_ratings_that_cannot_be_split(
    workspace: Path, ending: Ending, method: str, ratings: list[Rating], values: dict[str, Any], words: str
) -> None:
    place(ratings)
    set_params(workspace, split__method=method, **{f"split__{name}": value for name, value in values.items()})
    message = ending(split.main)
    assert re.search(words, message), message


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "filters",
    [{"min_ratings": {"user": 10, "item": 0}}, {"min_ratings": {"user": 0, "item": 10}}, {"min_rating_value": 4}],
)
def test_filters_that_leave_nothing(workspace: Path, ending: Ending, method: str, filters: dict[str, Any]) -> None:
    place(PLENTY)
    set_params(workspace, split__method=method, **{f"data__{name}": value for name, value in filters.items()})
    assert re.search(r"^params.yaml: no rating is left: data\.\w+ removes 81; choose less$", ending(split.main))


@pytest.mark.parametrize(("method", "users"), [("per_user", 9), ("leave_last", 9), ("user_fold", 1)])
def test_filters_that_leave_too_little(workspace: Path, ending: Ending, method: str, users: int) -> None:
    # Item 1 is left, or user 1, who has all items.
    place(PLENTY[::9] if users == 9 else PLENTY[:9])
    set_params(workspace, split__method=method, data__min_ratings={"user": 1, "item": 1})
    assert re.search("leaves (train|test|one of the parts) empty", ending(split.main))


WRONG = {
    "split.method": ("holdout", "Random", "leave last", "", None, 3, ["random", "temporal"]),
    "split.n": (0, -1, 1.5, "two", True, None, 10**6 + 1),
    "split.fold_in_share": (0, 1, -0.1, 1.5, "half", False, None, ".nan"),
    "split.test_size": (0, 1, "20 %", None),
    "split.validation_size": (-0.1, 1, "none"),
}
VALUES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), VALUES, ids=[f"{name} {value!r}" for name, value in VALUES])
def test_wrong_parameters(workspace: Path, ending: Ending, name: str, value: object) -> None:
    set_params(workspace, **{name.replace(".", "__"): value})
    message = ending(fetch.main)
    assert message.startswith(f"params.yaml: {name}: ")
    assert message.endswith(f"; found {value!r}")


@pytest.mark.parametrize("name", ["split.k", "split.leave_last", "split.fold_in", "split.share", "split.test"])
def test_unknown_parameters(workspace: Path, ending: Ending, name: str) -> None:
    set_params(workspace, **{name.replace(".", "__"): 1})
    assert f"{name} is not a parameter; " in ending(fetch.main)


def columns(**values: object) -> pa.Table:
    """Return ratings to fold in, with some columns of other values."""
    good = {"user": pa.array([0, 1], pa.int32()), "item": pa.array([0, 1], pa.int32())}
    return pa.table({**good, "rating": pa.array([3.0, 4.0], pa.float32()), **values})


DAMAGED: dict[str, tuple[pa.Table | bytes, str]] = {
    "no Parquet": (b"user,item\n0,1\n", "cannot be read"),
    "nothing": (b"", "cannot be read"),
    "no ratings column": (columns().drop_columns("rating"), "cannot be read .no column rating"),
    "ratings of another type": (columns(rating=pa.array([3, 4], pa.int64())), "the types of its columns"),
    "users as text": (columns(user=["0", "1"]), "the types of its columns"),
    "a user beyond the last": (columns(user=pa.array([0, 60], pa.int32())), "user index outside 0 to 59"),
    "a negative user": (columns(user=pa.array([-1, 0], pa.int32())), "user index outside 0 to 59"),
    "an item beyond the last": (columns(item=pa.array([0, 80], pa.int32())), "item index outside 0 to 79"),
    "a rating that is no number": (columns(rating=pa.array([3, float("nan")], pa.float32())), "not a finite number"),
}


@pytest.mark.usefixtures("no_arguments")
@pytest.mark.parametrize("stage", [evaluate, baselines, recommend], ids=lambda stage: stage.__name__)
@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_ratings_to_fold_in(here: Path, ending: Ending, case: str, stage: Any) -> None:  # noqa: ANN401
    found, words = DAMAGED[case]
    if isinstance(found, bytes):
        (here / GIVEN).write_bytes(found)
    else:
        write_table(here / GIVEN, found)
    message = ending(stage.main)
    assert message.startswith(f"{GIVEN}: ")
    assert re.search(words, message), message


@pytest.mark.usefixtures("no_arguments")
def test_ratings_to_fold_in_cut_off(here: Path, ending: Ending) -> None:
    shutil.copy(here / ITEMS, here / GIVEN)
    (here / GIVEN).write_bytes((here / GIVEN).read_bytes()[:-20])
    assert ending(evaluate.main).startswith(f"{GIVEN}: cannot be read")
    assert len(read_table(here / ITEMS)) == 80
