"""The table at the end of a run: this model, the last committed run where it differs, and the baselines."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from recommender.data.movielens import RELEASES
from recommender.errors import UserError
from recommender.evaluation.metrics import ACCURACY, COLUMNS, RANKING
from recommender.evaluation.results import BY_USER, no_users
from recommender.paths import BASELINES_USERS, USER_METRICS
from recommender.storage import write_table
from tests.conftest import REPOSITORY, run, set_params
from tools import results


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with committed metrics, all 0.5."""
    monkeypatch.chdir(tmp_path)
    write("split", {"ratings": 1000, "items": 20, "users": 10})
    write("evaluate", dict.fromkeys(COLUMNS, 0.5))
    write("baselines", {"popularity": dict.fromkeys(RANKING, 0.25)})
    for path, model, value in ((USER_METRICS, "mf", 0.5), (BASELINES_USERS, "popularity", 0.25)):
        values = {name: [value] * 40 if name in ACCURACY else [None] * 40 for name in BY_USER}
        counts = dict.fromkeys(("known_ratings", "test_ratings"), [1] * 40)
        columns = {
            "model": [model] * 40,
            "user": range(40),
            "cold": [False] * 40,
            **counts,
            **values,
            "items": [[1]] * 40,
        }
        write_table(path, pa.table(columns, no_users(1).schema))
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
    text = capsys.readouterr().out.partition("What kind of lists")[0]
    lines = [line for line in text.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {row[0]: row[1:] for row in rows}  # "": the intervals of the last


@pytest.mark.usefixtures("committed")
def test_what_is_as_committed_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(capsys)
    assert rows["this model"] == ["0.5000*"] * len(ACCURACY) + ["0.5000"] * 3
    assert rows["popularity"] == ["0.2500"] * len(RANKING) + ["-", "-"]
    assert rows[""] == [".250\N{EN DASH}.250"] * len(ACCURACY) + [""] * 3


@pytest.mark.usefixtures("committed")
def test_arrows_show_the_changes_since_the_last_commit(capsys: pytest.CaptureFixture[str]) -> None:
    write("evaluate", dict.fromkeys(RANKING, 0.5) | {"map": 0.625, "recall": 0.25})
    rows = table(capsys)
    assert list(rows) == ["this model", "", "last committed", "popularity"]
    assert rows["last committed"] == ["0.5000"] * len(COLUMNS)
    shown = dict(zip(COLUMNS, rows["this model"], strict=True))
    assert (shown["map"], shown["recall"], shown["ndcg"], shown["rmse"]) == ("↑ 0.6250*", "↓ 0.2500*", "0.5000*", "-")


@pytest.mark.parametrize(
    ("column", "value", "color"),
    [("map", 0.6, "green"), ("map", 0.4, "red"), ("rmse", 0.6, "red"), ("rmse", 0.4, "green")],
)
def test_green_is_better(column: str, value: float, color: str) -> None:
    assert results._cell(column, value, 0.5).startswith(f"[{color}]")


def test_without_a_commit_there_is_nothing_to_compare_with(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(committed / ".git")
    assert list(table(capsys)) == ["this model", "", "popularity"]


@pytest.mark.parametrize(
    ("name", "value", "difference"),
    [
        ("data__dataset", "ml-1m", "data.dataset: ml-100k"),
        ("data__sha256", "0" * 64, f"data.sha256: {RELEASES['ml-100k'].sha256}"),
        ("split__test_size", 0.3, "split.test_size: 0.2"),
    ],
)
def test_a_commit_with_other_data_is_named_and_not_compared(
    name: str, value: object, difference: str, committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(committed, **{name: value})
    write("evaluate", dict.fromkeys(COLUMNS, 0.25))
    results.main()
    output = capsys.readouterr().out
    assert f"The last commit is not shown: it was measured on other data, with {difference}" in output
    assert "last committed" not in output


def test_another_copy_of_the_same_archive_is_the_same_data(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(committed, data__archive="copy.zip", data__sha256=RELEASES["ml-100k"].sha256)
    write("evaluate", dict.fromkeys(COLUMNS, 0.25))
    assert "last committed" in table(capsys)


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
