"""The pipeline under DVC in a Git repository of its own: one after the other, as a user would try things."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY, copy_project, files, run, set_params

STAGES = ("fetch", "extract", "split", "train", "evaluate", "baselines", "recommend")
METRICS = ("at_k.csv", "baselines.json", "evaluate.json", "history.csv", "split.json", "train.json")


class Repository:
    """A folder with the code, under Git and DVC."""

    def __init__(self, folder: Path, caches: Path) -> None:
        """Set up an environment that reads no configuration from outside."""
        self.folder = folder
        self.env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(caches),
            "DVC_GLOBAL_CONFIG_DIR": str(caches),
            "DVC_SYSTEM_CONFIG_DIR": str(caches),
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command; it need not succeed."""
        return run(self.folder, *command, env=self.env)

    def __call__(self, *command: str) -> str:
        """Run a command that must succeed and give what it prints."""
        result = self.attempt(*command)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def dvc_json(self, *command: str) -> Any:  # noqa: ANN401 - any JSON value
        """Run a DVC command that prints JSON."""
        return json.loads(self("dvc", *command, "--json"))

    def commit(self) -> None:
        """Commit everything."""
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", "A test's state")

    def metrics(self, name: str) -> dict[str, Any]:
        """Read one file of metrics."""
        values: dict[str, Any] = json.loads((self.folder / "metrics" / name).read_text())
        return values

    def ran(self, output: str) -> list[str]:
        """Give the stages that a reproduction ran."""
        return [name for name in STAGES if f"Running stage '{name}'" in output]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> tuple[Repository, str]:
    """A repository after its first `dvc repro`, everything committed; and what that printed."""
    folder = copy_project(tmp_path_factory.mktemp("pipeline") / "project", archives["ml-1m"])
    for path in (".dvc/config", ".dvc/.gitignore", *map(str, ignore_files())):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, folder / path)
    set_params(folder, train__epochs=2)
    repository = Repository(folder, tmp_path_factory.mktemp("caches"))
    repository("git", "init", "--quiet")
    repository("git", "config", "user.name", "Tester")
    repository("git", "config", "user.email", "tester@example.org")
    repository.commit()
    output = repository("dvc", "repro")
    changed = {line[3:] for line in repository("git", "status", "--porcelain").splitlines()}
    assert changed == {"dvc.lock", "metrics/"}
    repository.commit()
    return repository, output


def ignore_files() -> list[Path]:
    """Give the .gitignore files that DVC keeps beside its outputs."""
    folders = ("data", "data/raw", "data/interim", "data/processed", "models")
    return [Path(folder, ".gitignore") for folder in folders]


@pytest.fixture
def repository(started: tuple[Repository, str]) -> Repository:
    """The same repository, brought back to the committed state."""
    repository = started[0]
    if repository("git", "status", "--porcelain"):
        repository("git", "reset", "--quiet", "--hard")
        repository("git", "clean", "--quiet", "--force", "-d")
        repository("dvc", "checkout", "--quiet")
    return repository


def test_the_first_reproduction_runs_every_stage(started: tuple[Repository, str]) -> None:
    repository, output = started
    assert repository.ran(output) == list(STAGES)
    assert {path.name for path in (repository.folder / "metrics").iterdir()} == set(METRICS)
    assert set(yaml.safe_load((repository.folder / "dvc.lock").read_text())["stages"]) == set(STAGES)


def test_a_second_reproduction_changes_nothing(repository: Repository) -> None:
    output = repository("dvc", "repro")
    assert repository.ran(output) == []
    assert "Data and pipelines are up to date." in output
    assert repository("git", "status", "--porcelain") == ""
    assert "up to date" in repository("dvc", "status")


def test_an_experiment_changes_metrics_and_the_diffs_show_it(repository: Repository) -> None:
    before = repository.metrics("train.json"), repository.metrics("evaluate.json")
    output = repository("dvc", "exp", "run", "-S", "train.learning_rate=5e-5")
    assert repository.ran(output) == ["train", "evaluate", "recommend"]
    after = repository.metrics("train.json"), repository.metrics("evaluate.json")
    assert after[0]["loss"] > before[0]["loss"]
    assert after[1]["rmse"] > before[1]["rmse"]

    params = repository.dvc_json("params", "diff")
    assert params == {
        "params.yaml": {"train.learning_rate": pytest.approx({"old": 5e-4, "new": 5e-5, "diff": -4.5e-4})}
    }

    metrics = repository.dvc_json("metrics", "diff")
    assert set(metrics) == {"metrics/train.json", "metrics/evaluate.json"}
    change = metrics["metrics/evaluate.json"]["rmse"]
    assert (change["old"], change["new"]) == (before[1]["rmse"], after[1]["rmse"])

    repository("dvc", "plots", "diff", "--out", "plots")
    page = (repository.folder / "plots/index.html").read_text()
    for text in ("Loss by epoch", "Ranking by list length", "val_loss", "ndcg", "HEAD", "workspace"):
        assert text in page, text
    old_losses = repository("git", "show", "HEAD:metrics/history.csv").splitlines()[1].split(",")[1]
    new_losses = (repository.folder / "metrics/history.csv").read_text().splitlines()[1].split(",")[1]
    assert float(old_losses) != float(new_losses)
    for loss in (old_losses, new_losses):
        assert loss.rstrip("0") in page


def test_plots_are_shown_from_columns_of_the_files(repository: Repository) -> None:
    for plot in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["plots"]:
        (definition,) = plot.values()
        for path, columns in definition["y"].items():
            with (repository.folder / path).open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert rows
            for column in (definition["x"], *columns):
                assert all(float(row[column]) >= 0 for row in rows), (path, column)
    repository("dvc", "plots", "show", "--out", "shown")
    page = (repository.folder / "shown/index.html").read_text()
    assert "Loss by epoch" in page
    assert "Ranking by list length" in page


def test_an_experiment_elsewhere_leaves_the_workspace_alone(repository: Repository) -> None:
    watched = ("data", "models", "metrics")
    before = [files(repository.folder / name) for name in watched]
    output = repository("dvc", "exp", "run", "--temp", "--name", "elsewhere", "-S", "recommend.k=3")
    assert repository.ran(output) == ["recommend"]
    assert [files(repository.folder / name) for name in watched] == before
    assert repository("git", "status", "--porcelain") == ""
    assert "elsewhere" in repository("dvc", "exp", "list", "--name-only").split()
    difference = repository.dvc_json("params", "diff", "HEAD", "elsewhere")
    assert difference["params.yaml"]["recommend.k"] == {"old": 10, "new": 3, "diff": -7}


def test_another_k_to_evaluate_retrains_nothing(repository: Repository) -> None:
    before = files(repository.folder / "models")
    set_params(repository.folder, evaluate__k=7)
    assert repository.ran(repository("dvc", "repro")) == ["evaluate", "baselines"]
    assert files(repository.folder / "models") == before
    assert len((repository.folder / "metrics/at_k.csv").read_text().splitlines()) == 1 + 7


def test_a_failing_stage_stops_the_reproduction_with_its_one_line(repository: Repository) -> None:
    set_params(repository.folder, evaluate__k=999)
    result = repository.attempt("dvc", "repro", "evaluate")
    assert result.returncode != 0
    assert "error: params.yaml: evaluate.k: must be at most 80" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
