"""The table at the end of a run: this model, the last committed run where it differs, and the baselines."""

import json
import shutil
from pathlib import Path

import pytest

from recommender.errors import UserError
from recommender.evaluation.metrics import COLUMNS, RANKING
from tests.conftest import REPOSITORY, run, set_params
from tools import results


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with committed metrics, all 0.5."""
    monkeypatch.chdir(tmp_path)
    write("split", {"ratings": 1000, "items": 20, "users": 10})
    write("evaluate", dict.fromkeys(COLUMNS, 0.5))
    write("baselines", {"popularity": dict.fromkeys(COLUMNS, 0.25) | {"rmse": None, "mae": None}})
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    for command in (["init"], ["add", "--all"], ["commit", "--message", "A run"]):
        result = run(tmp_path, "git", *identity, *command)
        assert result.returncode == 0, result.stderr
    return tmp_path


def write(name: str, values: object) -> None:
    Path("metrics").mkdir(exist_ok=True)
    Path(f"metrics/{name}.json").write_text(json.dumps(values))


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """Run the command and return each row's cells by its name."""
    results.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.usefixtures("committed")
def test_what_is_as_committed_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"this model": ["0.5000"] * len(COLUMNS), "popularity": ["0.2500"] * len(RANKING) + ["-", "-"]}
    assert table(capsys) == expected


@pytest.mark.usefixtures("committed")
def test_arrows_show_the_changes_since_the_last_commit(capsys: pytest.CaptureFixture[str]) -> None:
    write("evaluate", dict.fromkeys(COLUMNS, 0.5) | {"map": 0.625, "recall": 0.25, "rmse": None})
    rows = table(capsys)
    assert list(rows) == ["this model", "last committed", "popularity"]
    assert rows["last committed"] == ["0.5000"] * len(COLUMNS)
    shown = dict(zip(COLUMNS, rows["this model"], strict=True))
    assert (shown["map"], shown["recall"], shown["ndcg"], shown["rmse"]) == ("↑ 0.6250", "↓ 0.2500", "0.5000", "-")


@pytest.mark.parametrize(
    ("column", "value", "color"),
    [("map", 0.6, "green"), ("map", 0.4, "red"), ("rmse", 0.6, "red"), ("rmse", 0.4, "green")],
)
def test_green_is_better(column: str, value: float, color: str) -> None:
    assert results._cell(column, value, 0.5).startswith(f"[{color}]")


def test_without_a_commit_there_is_nothing_to_compare_with(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(committed / ".git")
    assert list(table(capsys)) == ["this model", "popularity"]


def test_a_ranking_model_has_no_rating_errors(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(committed, train__model="softmax_mf")
    assert table(capsys)["this model"] == ["0.5000"] * len(RANKING) + ["-", "-"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train__mf__embeding_size", "train.mf.embeding_size is not a parameter; did you mean 'embedding_size'?"),
        ("train__epochs", "train.epochs is now train.mf.epochs"),
    ],
)
def test_a_parameter_that_no_stage_reads_is_an_error(name: str, message: str, committed: Path) -> None:
    set_params(committed, **{name: 20})
    with pytest.raises(UserError) as raised:
        results.main()
    assert message in str(raised.value)
