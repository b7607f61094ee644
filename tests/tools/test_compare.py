"""The gate for metrics: what counts as worse, and how it ends."""

import contextlib
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from recommender.errors import UserError
from recommender.evaluation.metrics import COLUMNS, CURVES
from recommender.evaluation.results import BY_USER, no_users
from recommender.evaluation.statistics import Difference
from recommender.paths import AT_K, METRICS, USER_METRICS
from recommender.storage import write_csv, write_json, write_table
from tests.conftest import REPOSITORY, run, set_params
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


@pytest.mark.parametrize(("low", "high", "verdict"), [(-0.3, -0.1, "worse"), (-0.3, 0.0, ""), (-0.3, 0.1, "")])
def test_worse_is_also_further_than_chance_where_that_is_known(low: float, high: float, verdict: str) -> None:
    difference = Difference(-0.2, low, high, gain=0.3, lose=0.6, p=0.1, holm=0.1)
    assert Rule(better="higher", tolerance=0.1).verdict(0.5, 0.3, difference) == verdict
    assert Rule(better="higher", tolerance=0.3).verdict(0.5, 0.3, difference) == ""


def test_a_row_shows_six_decimals_and_the_relative_change(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {
        "HEAD": {"map": 0.2, "ease.map": 0.0, "gone": 3.0},
        None: {"map": 0.1900001, "ease.map": 1.0, "new": 1.0},
    }
    monkeypatch.setattr("tools.compare.read", lambda _, rev, __: versions[rev])
    rules = dict.fromkeys(("map", "gone", "new"), Rule(better="higher", tolerance=0))
    both = "interval and tolerance"
    known = {"map": Difference(-0.01, -0.02, -0.005, gain=0.3, lose=0.6, p=0.01, holm=0.01)}
    assert compare.compare("f.json", "HEAD", rules, known) == [
        [
            "f.json",
            "map",
            "0.2",
            "0.19",
            "-0.010000",
            "-0.0200 to -0.0050",
            "-5.00%",
            both,
            "worse",
        ],
        ["f.json", "ease.map", "0", "1", "+1.000000", "-", "-", "tolerance", ""],
        ["f.json", "gone", "3", "-", "-", "-", "-", "tolerance", "gone"],
        ["f.json", "new", "-", "1", "-", "-", "-", "tolerance", ""],
    ]
    with pytest.raises(UserError, match=r"tolerances.yaml: has no line for gone, new in f.json; add one for each"):
        compare.compare("f.json", "HEAD", {"map": rules["map"]}, {})


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


USERS = 400
BEFORE = np.random.default_rng(1).random(USERS)
NOISE = np.random.default_rng(2).normal(0, 0.2, USERS)


def write(values: NDArray[np.float64], *without: str) -> None:
    """Write a run's metrics, of a model with these values of MAP, `without` some columns of the results by user."""
    write_json(METRICS, {"map": values.mean()})
    write_csv(AT_K, {"k": np.arange(1, 4)} | {name: np.linspace(0, values.mean(), 3) for name in CURVES})
    absent = dict.fromkeys(BY_USER, [None] * USERS)
    columns = {"model": ["mf"] * USERS, "user": range(USERS), "cold": [False] * USERS, "items": [[1]] * USERS}
    counts = dict.fromkeys(("known_ratings", "test_ratings"), [1] * USERS)
    table = pa.table(columns | counts | absent | {"map": values}, no_users(1).schema)
    write_table(USER_METRICS, table.drop_columns(list(without)))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a committed run, whose results by user are in DVC's cache."""
    folder = tmp_path_factory.mktemp("first")
    for name in ("params.yaml", "tolerances.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / "dvc.yaml").write_text(
        "stages:\n  evaluate:\n    cmd: 'true'\n    outs: [metrics/users.parquet]\n"
        "    metrics: [metrics/evaluate.json: {cache: false}]\n"
    )
    with contextlib.chdir(folder):
        write(BEFORE, "mrr")  # as if that metric was new since
    for command in (
        ["git", "init", "--quiet"],
        ["dvc", "init", "--quiet"],
        ["dvc", "commit", "--quiet", "--force"],
        ["git", "add", "--all"],
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", "A run"],
    ):
        result = run(folder, *command)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def measured(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of that repository, as the working directory."""
    monkeypatch.chdir(shutil.copytree(first, tmp_path / "copy"))


def compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    """Run the command; return what it printed, and the error that it ended with."""
    monkeypatch.setattr("sys.argv", ["compare", "HEAD", *options])
    error = ""
    try:
        compare.main()
    except UserError as raised:
        error = str(raised)
    return capsys.readouterr().out, error


@pytest.mark.usefixtures("measured")
def test_noise_passes_and_a_true_loss_as_large_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(BEFORE + NOISE - NOISE.mean() - 0.004)
    output, error = compared(monkeypatch, capsys, "--markdown")
    assert "| metrics/evaluate.json | map |" in output
    assert "| -0.004000 | -0.0" in output
    assert "| interval and tolerance |  |" in output
    assert error == ""
    write(BEFORE - 0.004)  # the same mean, and every user is worse off
    output, error = compared(monkeypatch, capsys, "--markdown")
    assert "| -0.004000 | -0.0040 to -0.0040 |" in output
    assert "| interval and tolerance | worse |" in output
    assert "worse than HEAD" in error
    assert "metrics/evaluate.json: map" in error


@pytest.mark.usefixtures("measured")
def test_without_results_by_user_of_the_same_users_the_tolerance_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(BEFORE + NOISE - NOISE.mean() - 0.004)
    shutil.rmtree(".dvc/cache")
    output, error = compared(monkeypatch, capsys, "--markdown")
    assert "| -0.004000 | - |" in output
    assert "| tolerance | worse |" in output
    assert "metrics/evaluate.json: map" in error


@pytest.mark.usefixtures("measured")
def test_the_text_for_a_pull_request_has_parameters_and_curves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(BEFORE + 0.25)
    set_params(Path(), train__mf__epochs=6, data__archive="/somewhere/here.zip")
    output, error = compared(monkeypatch, capsys, "--markdown")
    assert error == ""
    assert "\n\n**Parameters that differ from HEAD**\n\n|  | before | now |\n| --- | ---: | ---: |\n" in output
    assert "| train.mf.epochs | 5 | 6 |\n" in output
    assert "somewhere" not in output
    pictures = output.split("```mermaid\n")[1:]
    assert [picture.split("\n")[1].split()[1] for picture in pictures] == [f'"{name}' for name in CURVES]
    bars, line = (json.loads(row.split(maxsplit=1)[1]) for row in pictures[0].split("\n")[4:6])
    assert (len(bars), len(line)) == (3, 3)
    assert line[-1] - bars[-1] == pytest.approx(0.25, abs=1e-5)


GH = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
*/pulls*) echo "$NUMBER" ;;
*/comments\\?*) echo "$COMMENT" ;;
*body=@*) cp "${6#body=@}" "$LOG.body" ;;
esac
"""


@pytest.mark.parametrize(
    ("number", "comment", "call"),
    [
        ("7", "", "--method POST repos/us/it/issues/7/comments"),
        ("7", "42", "--method PATCH repos/us/it/issues/comments/42"),
        ("", "", None),
    ],
)
def test_one_comment_is_posted_and_then_updated_with_characters_that_do_nothing(
    number: str, comment: str, call: str | None, tmp_path: Path
) -> None:
    fake = tmp_path / "bin/gh"
    fake.parent.mkdir()
    fake.write_text(GH)
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    text = tmp_path / "metrics.md"
    good = (
        '**1 of 2 metrics differ from HEAD**\n\n| map | +0.1 | "a": [1.0, 2] |\n\n```mermaid\n  y-axis 0 --> 0.5\n```\n'
    )
    bad = "<img src=x> @everybody #12 [a](http://b.c) ![a](b) [c]: //d.e www.f.g\n"
    text.write_text(good + bad + "long " * 20_000)
    log = tmp_path / "log"
    env = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}", "LOG": str(log), "NUMBER": number}
    env |= {"COMMENT": comment, "REPOSITORY": "us/it", "SHA": "abc"}
    result = run(tmp_path, "bash", str(REPOSITORY / ".github/comment.sh"), str(text), env=env)
    assert result.returncode == 0, result.stderr
    calls = log.read_text().splitlines()
    if call is None:
        assert len(calls) == 1
        assert result.stdout == "no open pull request has the head abc\n"
        return
    assert calls[-1].startswith(f"api {call} --field body=@")
    body = Path(f"{log}.body").read_text()
    assert body.startswith(f"<!-- metrics -->\n{good}")
    assert "img src=x> everybody 12 [a]http: //b.c [a]b [c] : //d.e www .f.g\n" in body
    assert 50_000 < len(body) < 60_100
