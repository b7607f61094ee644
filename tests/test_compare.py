"""The gate for metrics: what counts as worse, and how it ends."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from stages.lib.errors import UserError
from tools.compare import Difference, Rule, compare, flat, read_rules


def rule(better: str, tolerance: float = 0.01) -> Rule:
    return Rule.model_validate({"better": better, "tolerance": tolerance})


@pytest.mark.parametrize(
    ("better", "before", "now", "worse"),
    [
        ("higher", 0.5, 0.49, False),
        ("higher", 0.5, 0.489999, True),
        ("higher", 0.5, 0.9, False),
        ("lower", 0.5, 0.51, False),
        ("lower", 0.5, 0.510001, True),
        ("lower", 0.5, 0.1, False),
        ("same", 0.5, 0.51, False),
        ("same", 0.5, 0.52, True),
        ("same", 0.5, 0.48, True),
        ("higher", 0.5, None, True),
        ("higher", None, 0.5, False),
        ("higher", None, None, False),
    ],
)
def test_worse_is_further_than_the_tolerance_in_the_wrong_direction(
    better: str, before: float | None, now: float | None, worse: bool
) -> None:
    assert Difference("f", "m", before, now, rule(better)).worse is worse


@pytest.mark.parametrize(
    ("better", "now", "verdict"),
    [("higher", 0.4, "worse"), ("same", 0.6, "changed"), ("same", 0.4, "changed"), ("same", None, "worse")],
)
def test_what_has_no_better_way_is_changed_and_not_worse(better: str, now: float | None, verdict: str) -> None:
    difference = Difference("f", "m", 0.5, now, rule(better))
    assert difference.worse
    assert difference.verdict == difference.row()[-1] == verdict


def test_a_row_shows_six_decimals_and_the_relative_change() -> None:
    row = Difference("f.json", "map", 0.2, 0.1900001, rule("higher", 0)).row()
    assert row == ["f.json", "map", "0.2", "0.19", "-0.010000", "-5.00%", "worse"]
    assert Difference("f", "m", 0.0, 1.0, rule("higher")).row()[5] == "-"
    assert Difference("f", "m", None, 1.0, rule("higher")).row()[2:] == ["-", "1", "-", "-", ""]


def test_every_metric_of_the_repository_has_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    rules = read_rules()
    for stage in yaml.safe_load(Path("dvc.yaml").read_text())["stages"].values():
        for entry in stage.get("metrics", []):
            names = [name.split(".")[-1] for name, _ in flat(json.loads(Path(next(iter(entry))).read_text()))]
            assert set(names) <= set(rules)


def test_a_metric_without_a_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"map": 0.1, "new": {"thing": 3}}
    monkeypatch.setattr("tools.compare.read", lambda *_: values)
    with pytest.raises(UserError, match=r"tolerances.yaml: says nothing of new.thing in m.json; add a line for each"):
        compare("m.json", "HEAD", {"map": rule("higher")})


@pytest.mark.parametrize("text", ["map: 3", "map: {better: up, tolerance: 0}", "map: {better: higher}", "[", "- a"])
def test_tolerances_that_cannot_be_read_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tolerances.yaml").write_text(text)
    with pytest.raises(UserError, match=r"tolerances\.yaml: cannot be read"):
        read_rules()
