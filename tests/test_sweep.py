"""A sweep runs the grid as DVC experiments, shows it sorted, and leaves nothing running."""

import re
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import Repository

pytestmark = pytest.mark.slow


def processes_of(folder: Path) -> list[str]:
    """List processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder)):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_grid_of_four_is_run_and_sorted(jobs: str, repository: Repository) -> None:
    settings = ["train.embedding_size=3,4", "train.learning_rate=5e-4,1e-3"]
    exps = repository.folder / ".dvc/tmp/exps"
    before = sorted(exps.glob("standalone/*"))  # what other tests' `dvc exp run --temp` leaves
    output = repository(sys.executable, "-m", "tools.sweep", *settings, "--jobs", jobs)
    assert "4 experiments, by map" in output
    rows = [re.findall(r"[\w.-]+", line) for line in output.splitlines() if "sweep-" in line and "│" in line]
    assert sorted((row[1], float(row[2])) for row in rows) == [("3", 5e-4), ("3", 1e-3), ("4", 5e-4), ("4", 1e-3)]
    scores = [float(row[3]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert repository("git", "status", "--porcelain") == ""
    assert processes_of(repository.folder) == []
    assert sorted(exps.glob("standalone/*")) == before
    assert [path.name for path in exps.glob("tmp*")] == []
    forget = next(line for line in output.splitlines() if line.startswith("To forget them: "))
    assert sorted(forget.split()[6:]) == sorted(row[0] for row in rows)
    repository("dvc", "exp", "run", "--temp", "--name", "another", "--set-param", "recommend.k=4")
    repository(*forget.removeprefix("To forget them: ").split())
    assert repository("dvc", "exp", "list", "--name-only").split().count("another") == 1
    assert "sweep-" not in repository("dvc", "exp", "list", "--name-only")
    repository("dvc", "exp", "remove", "another")


def test_what_failed_has_no_metrics_and_is_told_with_its_reason(repository: Repository) -> None:
    result = repository.attempt(sys.executable, "-m", "tools.sweep", "evaluate.k=0,3")
    assert result.returncode == 1
    row = next(line for line in result.stdout.splitlines() if "sweep-" in line and re.search(r"│ +0 +│", line))
    assert [cell.strip() for cell in row.split("│")[3:-1]] == ["-"] * 5
    assert "1 of 2 experiments failed: sweep-" in result.stderr.splitlines()[-1]
    assert "evaluate.k: input should be greater than or equal to 1; found 0" in result.stderr.splitlines()[-1]
    forget = next(line for line in result.stdout.splitlines() if line.startswith("To forget them: "))
    repository("bash", "-c", forget.removeprefix("To forget them: "))
    assert row.split()[1].rsplit("-", 1)[0] not in repository("dvc", "exp", "show", "--csv")


def test_a_sweep_over_k_trains_nothing(repository: Repository) -> None:
    result = repository.attempt(sys.executable, "-m", "tools.sweep", "evaluate.k=3,5", "--sort", "recall")
    assert result.returncode == 0, result.stderr
    assert "2 experiments, by recall" in result.stdout
    assert "Running stage 'train'" not in result.stdout + result.stderr


@pytest.mark.parametrize("settings", [["train.epochs"], ["=3"], ["train.epoch=1,2"], ["train.epochs=1", "--jobs", "0"]])
def test_wrong_settings_are_refused(settings: list[str], repository: Repository) -> None:
    result = repository.attempt(sys.executable, "-m", "tools.sweep", *settings)
    assert result.returncode == 1
    assert result.stderr.startswith(("error: SET: ", "error: JOBS: "))
    assert len(result.stderr.splitlines()) == 1
