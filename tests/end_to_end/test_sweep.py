"""A sweep runs all combinations as DVC experiments, shows them sorted, and leaves nothing running."""

import contextlib
import json
import sys
from pathlib import Path

import dvc.api
import psutil
import pytest

from tests.conftest import Repository, refused

pytestmark = pytest.mark.slow
REMOVE = "To remove these experiments: "


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            found += [process] if process.cwd().startswith(str(folder)) else []
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def table(output: str) -> list[list[str]]:
    """Return the cells of the rows below the table's header."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line[:1] == "│"]


@pytest.fixture(autouse=True)
def _no_experiments(repository: Repository) -> None:
    repository("dvc", "exp", "remove", "--all-commits")  # those of other tests would be shown too


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_grid_of_four_is_run_and_sorted(jobs: str, repository: Repository) -> None:
    exps = repository.folder / ".dvc/tmp/exps"
    before = sorted(exps.glob("standalone/*"))  # other tests' `dvc exp run --temp` leaves these
    command = (sys.executable, "-m", "tools.sweep")
    output = repository(*command, "train.mf.embedding_size=3,4", "train.mf.learning_rate=5e-4,1e-3", "--jobs", jobs)
    shown, remove = output.split(REMOVE)
    assert "by map" in shown.splitlines()[0]
    assert max(map(len, shown.splitlines())) <= 80
    committed, *rows = table(shown)
    assert committed[-2:] == ["10", "0.0005"]
    assert sorted(row[-2:] for row in rows) == [["3", "0.0005"], ["3", "0.001"], ["4", "0.0005"], ["4", "0.001"]]
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert repository("git", "status", "--porcelain") == ""
    assert psutil.wait_procs(processes_of(repository.folder), timeout=5)[1] == []
    assert sorted(exps.glob("standalone/*")) == before
    assert list(exps.glob("tmp*")) == []
    assert table(repository(*command)) == [committed, *rows]
    repository("dvc", "exp", "run", "--temp", "--name", "another", "--set-param", "recommend.k=4")
    repository(*remove.split())
    assert repository("dvc", "exp", "list", "--name-only").split() == ["another"]
    repository("dvc", "exp", "remove", "another")
    assert repository(*command).startswith("This commit has no experiments")


def test_what_failed_is_reported_with_its_reason(repository: Repository) -> None:
    result = repository.attempt(sys.executable, "-m", "tools.sweep", "evaluate.k=0,3", "--sort", "coverage")
    assert result.returncode == 1
    assert [row[-1] for row in table(result.stdout)] == ["25", "3"]
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: 1 of 2 experiments failed: sweep-")
    assert last.endswith(": params.yaml: evaluate.k: input should be greater than or equal to 1; found 0")
    assert "Running stage 'train'" not in result.stderr
    assert "have been killed" not in result.stderr
    repository(*result.stdout.split(REMOVE)[1].split())
    assert "sweep-" not in repository("dvc", "exp", "show", "--csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.mf.epochs"], "SET: 'train.mf.epochs' is not section.key=value,value,..."),
        (["=3"], "SET: '=3' is not section.key=value,value,..."),
        (["train.mf.epoch=1,2"], "SET: train.mf.epoch is not a parameter; did you mean 'train.mf.epochs'?"),
        (["train.epochs=1,2"], "SET: train.epochs is now train.mf.epochs"),
        (["train.softmax.dropout=0.1"], "SET: train.softmax is now train.softmax_mf"),
        (["train.encoded_mf.l2=0,1e-5"], "SET: train.encoded_mf.l2 changes nothing while train.model is mf"),
        (["train.mf.epochs=1", "train.model=softmax_mf,encoded_mf"], "while train.model is softmax_mf or encoded_mf"),
        (["train.mf.epochs=1", "--jobs", "0"], "JOBS: must be at least 1; found 0"),
        (["train.mf.epochs=1", "--sort", "mpa"], "SORT: mpa is not a metric; tolerances.yaml lists them"),
    ],
)
def test_wrong_settings_are_refused(arguments: list[str], message: str, repository: Repository) -> None:
    refused(repository.attempt(sys.executable, "-m", "tools.sweep", *arguments), message)


def test_seeds_are_set_beside_users(repository: Repository) -> None:
    first = repository.metrics("evaluate.json")
    output = repository(sys.executable, "-m", "tools.seeds", "--count", "2")
    shown, remove = output.split(REMOVE)
    assert "Seeds 7 to 8" in shown.splitlines()[0]
    rows = {row[0]: row[1:] for row in table(shown)}
    names = remove.split()[3:]
    assert len(names) == 2
    with contextlib.chdir(repository.folder):
        found = [json.loads(dvc.api.read("metrics/evaluate.json", rev=name)) for name in names]
    assert first in found
    assert found[0] != found[1]
    for metric in ("map", "rmse", "novelty"):
        mean, deviation, error, _, larger = rows[metric]
        values = [run[metric] for run in found]
        assert float(mean) == pytest.approx(sum(values) / 2, abs=6e-5)
        assert float(deviation) == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=6e-5)
        assert larger in ("seeds", "users")
        assert float(error) > 0
    refused(
        repository.attempt(sys.executable, "-m", "tools.seeds", "--count", "1"), "N: must be at least 2 for a standard"
    )
    repository("dvc", "exp", "remove", *names)
