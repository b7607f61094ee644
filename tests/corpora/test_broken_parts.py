"""Work in parts that cannot be cut, or has nowhere to run."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recommender.data.interactions import COLUMNS
from recommender.paths import PARTS, TEST
from recommender.storage import read_table, writing_row_groups
from stages import baselines, evaluate, extract, recommend, split, train
from tests.conftest import Ending, set_params

IN_PARTS = {"engine__parts": 2, "split__method": "hash", "train__mf__optimizer": "lazy_adam"}


def test_what_has_no_block_form_is_named(ending: Ending, here: Path) -> None:
    set_params(here, engine__parts=2)
    message = ending(split.main)
    assert message == (
        "params.yaml: engine.parts: with 2 parts split.method must be hash; found random; train.mf.optimizer must be "
        "lazy_adam; found adam"
    )


@pytest.mark.parametrize("where", ["2", "local", "processes:none"])
def test_a_place_that_is_none_is_named(ending: Ending, here: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    set_params(here, **IN_PARTS)
    monkeypatch.setenv("CLUSTER", where)
    message = ending(split.main)
    assert message.startswith(
        "CLUSTER: must be empty (this process), processes:N or local:N (N workers on this machine)"
    )
    assert message.endswith(f"found {where!r}")


@pytest.mark.parametrize("stage", [train, evaluate, baselines, recommend])
@pytest.mark.usefixtures("no_arguments")
def test_ratings_that_were_split_in_other_parts_are_named(ending: Ending, here: Path, stage: object) -> None:
    set_params(here, **IN_PARTS)
    message = ending(stage.main)  # type: ignore[attr-defined]
    assert message.startswith("data/processed/")
    assert "has 1 row groups where engine.parts: 2 makes 4; run `dvc repro`" in message


def test_a_final_fit_without_a_validation_part_is_named(ending: Ending, here: Path) -> None:
    set_params(here, **IN_PARTS, train__final_fit=True)
    message = ending(train.main)
    assert message == "train.final_fit: needs a validation part; set split.validation_size above 0"


def in_blocks(here: Path, rating: float) -> None:
    """Cut the ratings into four blocks, with one rating changed."""
    set_params(here, **IN_PARTS)
    for path in PARTS.values():
        ratings = read_table(path)
        with writing_row_groups(path, ratings.schema) as add:
            for _ in range(3):
                add(ratings[:0])
            if len(ratings):
                values = np.append(ratings["rating"].to_numpy()[:-1], np.float32(rating))
                ratings = ratings.set_column(2, "rating", pa.array(values))
            add(ratings)


def test_a_damaged_block_is_named(ending: Ending, here: Path) -> None:
    in_blocks(here, float("nan"))
    message = ending(train.main)
    assert message.startswith("data/processed/train.parquet: contains a rating that is not a finite number; run `dvc ")


def test_a_part_without_ratings_is_named(ending: Ending, here: Path) -> None:
    in_blocks(here, 3)
    with writing_row_groups(TEST, COLUMNS) as add:
        for _ in range(4):
            add(COLUMNS.empty_table())
    message = ending(evaluate.main)
    assert message.startswith("data/processed/test.parquet: contains no ratings; run `dvc repro`")


@pytest.mark.usefixtures("here")
def test_a_block_that_is_too_large_is_named(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommender.storage.LARGEST_GROUP", 100)
    message = ending(extract.main)  # which writes row groups in the same way, and leaves nothing to go on with
    assert message.endswith(" ratings, more than the 100 of a row group; raise it")


@pytest.mark.parametrize("stage", [evaluate, baselines])
def test_a_share_without_anybody_is_named(ending: Ending, here: Path, stage: object) -> None:
    set_params(here, evaluate__user_share=1e-9)
    message = ending(stage.main)  # type: ignore[attr-defined]
    assert message == "params.yaml: evaluate.user_share: 1e-09 leaves no user with test ratings; raise it"
