"""The gate for metrics: what counts as worse, and how it ends."""

import json
from pathlib import Path

import pytest

from recommender.errors import UserError
from recommender.evaluation.metrics import COLUMNS
from tests.conftest import REPOSITORY
from tools import compare
from tools.compare import Rule


@pytest.mark.parametrize(
    ("better", "before", "now", "verdict"),
    [
        ("higher", 0.5, 0.49, ""),
        ("higher", 0.5, 0.489999, "worse"),
        ("higher", 0.5, 0.9, ""),
        ("lower", 0.5, 0.51, ""),
        ("lower", 0.5, 0.510001, "worse"),
        ("lower", 0.5, 0.1, ""),
        ("same", 0.5, 0.51, ""),
        ("same", 0.5, 0.52, "changed"),
        ("same", 0.5, 0.48, "changed"),
        ("same", 0.5, None, "gone"),
        ("higher", 0.5, None, "gone"),
        ("neither", 0.5, 0.9, ""),
        ("neither", 0.5, None, ""),
        ("higher", None, 0.5, ""),
        ("higher", None, None, ""),
    ],
)
def test_worse_is_further_than_the_tolerance_in_the_wrong_direction(
    better: str, before: float | None, now: float | None, verdict: str
) -> None:
    assert Rule.model_validate({"better": better, "tolerance": 0.01}).verdict(before, now) == verdict


def test_a_row_shows_six_decimals_and_the_relative_change(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {
        "HEAD": {"map": 0.2, "ease.map": 0.0, "gone": 3.0},
        None: {"map": 0.1900001, "ease.map": 1.0, "new": 1.0},
    }
    monkeypatch.setattr("tools.compare.read", lambda _, rev, __: versions[rev])
    rules = dict.fromkeys(("map", "gone", "new"), Rule(better="higher", tolerance=0))
    assert compare.compare("f.json", "HEAD", rules) == [
        ["f.json", "map", "0.2", "0.19", "-0.010000", "-5.00%", "worse"],
        ["f.json", "ease.map", "0", "1", "+1.000000", "-", ""],
        ["f.json", "gone", "3", "-", "-", "-", "gone"],
        ["f.json", "new", "-", "1", "-", "-", ""],
    ]
    with pytest.raises(UserError, match=r"tolerances.yaml: has no line for gone, new in f.json; add one for each"):
        compare.compare("f.json", "HEAD", {"map": rules["map"]})


def test_every_metric_of_the_repository_has_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = {name for path in compare.metric_files() for name in compare.flatten(json.loads(Path(path).read_text()))}
    assert {"map", "ease.map", "val_loss", "density"} <= found
    assert {*COLUMNS, *(name.split(".")[-1] for name in found)} <= set(compare.read_rules())


@pytest.mark.parametrize("text", ["map: 3", "map: {better: up, tolerance: 0}", "map: {tolerance: 1}", "[", "- a"])
def test_tolerances_that_cannot_be_read_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tolerances.yaml").write_text(text)
    with pytest.raises(UserError, match=r"tolerances\.yaml: cannot be read"):
        compare.read_rules()
