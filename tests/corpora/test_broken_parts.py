"""Work in parts that cannot be cut, or has nowhere to run."""

from pathlib import Path

import pytest

from stages import baselines, evaluate, recommend, split, train
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


@pytest.mark.parametrize("stage", [evaluate, baselines])
def test_a_share_without_anybody_is_named(ending: Ending, here: Path, stage: object) -> None:
    set_params(here, evaluate__user_share=1e-9)
    message = ending(stage.main)  # type: ignore[attr-defined]
    assert message == "params.yaml: evaluate.user_share: 1e-09 leaves no user with test ratings; raise it"
