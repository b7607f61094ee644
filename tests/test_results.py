"""The table at the end of a run: this model, the last committed run where it differs, and the baselines."""

import json
import shutil
from pathlib import Path

import pytest

from stages.lib.errors import UserError
from stages.lib.metrics import COLUMNS
from tests.conftest import REPOSITORY, run, set_params
from tools import results

BASELINES = {"popularity": dict.fromkeys(COLUMNS, 0.25) | {"rmse": None, "mae": None}}


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with committed metrics, all 0.5."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "metrics"
    folder.mkdir()
    write(folder, "split", {"ratings": 1000, "movies": 20, "users": 10})
    write(folder, "evaluate", dict.fromkeys(COLUMNS, 0.5))
    write(folder, "baselines", BASELINES)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", "A run"],
    ):
        assert run(tmp_path, "git", *command).returncode == 0
    return folder


def write(folder: Path, name: str, values: object) -> None:
    (folder / f"{name}.json").write_text(json.dumps(values))


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """Run the command and give each row's cells by its name."""
    results.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.usefixtures("committed")
def test_what_is_as_committed_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(capsys)
    assert list(rows) == ["this model", "popularity"]
    assert rows["this model"] == ["0.5000"] * 9
    assert rows["popularity"] == ["0.2500"] * 7 + ["-", "-"]


def test_arrows_show_where_this_run_has_gone_since_the_last_commit(
    committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(committed, "evaluate", dict.fromkeys(COLUMNS, 0.5) | {"map": 0.625, "recall": 0.25, "rmse": None})
    rows = table(capsys)
    assert list(rows) == ["this model", "last committed", "popularity"]
    assert rows["last committed"] == ["0.5000"] * 9
    shown = dict(zip(COLUMNS, rows["this model"], strict=True))
    assert (shown["map"], shown["recall"], shown["ndcg"], shown["rmse"]) == ("↑ 0.6250", "↓ 0.2500", "0.5000", "-")


@pytest.mark.parametrize(
    ("column", "value", "color"),
    [("map", 0.6, "green"), ("map", 0.4, "red"), ("rmse", 0.6, "red"), ("rmse", 0.4, "green")],
)
def test_green_is_better(column: str, value: float, color: str) -> None:
    assert results._cell(column, value, 0.5).startswith(f"[{color}]")


def test_without_a_commit_there_is_nothing_to_compare_with(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(committed, "rm", "-r", "../.git").returncode == 0
    assert list(table(capsys)) == ["this model", "popularity"]


def test_the_scores_of_a_ranking_model_have_no_rating_errors(
    committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(committed.parent, train__loss="softmax")
    assert table(capsys)["this model"] == ["0.5000"] * 7 + ["-", "-"]


def test_a_parameter_that_no_stage_knows_is_told(committed: Path) -> None:
    set_params(committed.parent, train__embeding_size=20)
    with pytest.raises(UserError, match=r"train.embeding_size is not a parameter; did you mean 'embedding_size'\?"):
        results.main()
