"""The pipeline under DVC in a Git repository of its own: one after the other, as a user would try things."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, STAGES, Repository, files, set_params

METRICS = (
    "at_k.csv",
    "baselines.json",
    "baselines_at_k.csv",
    "evaluate.json",
    "history.csv",
    "split.json",
    "train.json",
)


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
    assert repository.ran(output) == ["train", "evaluate", "recommend", "report"]
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
    assert "MAP by list length, beside the baselines" in page
    assert "ease_map" in page


def test_an_experiment_elsewhere_leaves_the_workspace_alone(repository: Repository) -> None:
    watched = ("data", "models", "metrics", "reports")
    before = [files(repository.folder / name) for name in watched]
    output = repository("dvc", "exp", "run", "--temp", "--name", "elsewhere", "-S", "recommend.k=3")
    assert repository.ran(output) == ["recommend", "report"]
    assert [files(repository.folder / name) for name in watched] == before
    assert repository("git", "status", "--porcelain") == ""
    assert "elsewhere" in repository("dvc", "exp", "list", "--name-only").split()
    shown = ["--only-changed", "--drop", "^(data|models|metrics|reports)/", "--hide-workspace", "--csv"]
    columns = repository("dvc", "exp", "show", *shown).splitlines()[0].split(",")
    assert "recommend.k" in columns
    assert not [column for column in columns if "/" in column or "data." in column]
    difference = repository.dvc_json("params", "diff", "HEAD", "elsewhere")
    assert difference["params.yaml"]["recommend.k"] == {"old": 10, "new": 3, "diff": -7}


def test_another_k_to_evaluate_retrains_nothing(repository: Repository) -> None:
    before = files(repository.folder / "models")
    set_params(repository.folder, evaluate__k=7)
    assert repository.ran(repository("dvc", "repro")) == ["evaluate", "baselines", "report"]
    assert files(repository.folder / "models") == before
    assert len((repository.folder / "metrics/at_k.csv").read_text().splitlines()) == 1 + 7


def test_a_failing_stage_stops_the_reproduction_with_its_one_line(repository: Repository) -> None:
    set_params(repository.folder, evaluate__k=999)
    result = repository.attempt("dvc", "repro", "evaluate")
    assert result.returncode != 0
    assert "error: params.yaml: evaluate.k: must be at most 80" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


PRESETS = {
    "ranking": {
        "ml-1m": {
            "train.loss": "softmax",
            "train.schedule": "cosine",
            "train.epochs": 2,
            "train.learning_rate": 0.02,
            "train.softmax.dropout": 0.25,
            "train.models": 2,
        }
    },
    "rating": {"ml-1m": {"train.movie_vectors": "encoded", "train.global_mean": True, "train.epochs": 2}},
}


@pytest.mark.parametrize("purpose", PRESETS)
def test_a_preset_is_one_experiment_that_leaves_its_results_in_the_workspace(
    purpose: str, repository: Repository, archives: dict[str, Path]
) -> None:
    (repository.folder / "presets.yaml").write_text(yaml.safe_dump(PRESETS))
    repository.commit()
    before = repository.metrics("evaluate.json")
    archive = ["--archive", str(archives["ml-1m"])]
    output = repository(sys.executable, "-m", "tools.preset", purpose, *archive)
    command = output.splitlines()[0]
    assert command.startswith("dvc exp run -S 'data.dataset=\"ml-1m\"' -S ")
    assert repository.ran(output) == ["train", "evaluate", "recommend", "report"]
    params = yaml.safe_load((repository.folder / "params.yaml").read_text())
    for name, value in PRESETS[purpose]["ml-1m"].items():
        found = params
        for key in name.split("."):
            found = found[key]
        assert found == value
        assert f"{name}=" in command
    assert repository.metrics("evaluate.json") != before
    assert f"{repository.metrics('evaluate.json')['map']:.4f}" in output
    # The line that was printed does the same by hand: nothing is left to do.
    assert repository.ran(repository("bash", "-c", command)) == []


def test_a_preset_that_was_not_chosen_is_refused(repository: Repository) -> None:
    result = repository.attempt(sys.executable, "-m", "tools.preset", "ranking", "--dataset", "ml-latest-small")
    assert result.returncode == 1
    assert result.stderr.startswith("error: presets.yaml: has no ranking for ml-latest-small; `make tune` makes it")


def test_a_search_tries_our_model_as_experiments_and_leaves_its_log_and_its_choice(
    repository: Repository, archives: dict[str, Path]
) -> None:
    command = [sys.executable, "-m", "benchmarks.tune", "--trials", "2", "--dataset", "ml-1m"]
    command += ["--archive", str(archives["ml-1m"]), "--model", "rating"]
    repository(*command)
    log = (repository.folder / "metrics/tuning.csv").read_bytes()
    rows = list(csv.DictReader(log.decode().splitlines()))
    assert [(row["dataset"], row["model"], row["trial"], row["metric"]) for row in rows] == [
        ("ml-1m", "rating", "0", "rmse"),
        ("ml-1m", "rating", "1", "rmse"),
    ]
    best = min(rows, key=lambda row: float(row["value"]))
    chosen = yaml.safe_load((repository.folder / "presets.yaml").read_text())["rating"]["ml-1m"]
    assert chosen.pop("train.models") == 2
    assert dict(part.split("=") for part in best["parameters"].split()) == {
        name: json.dumps(value) for name, value in chosen.items()
    }
    changed = {line[3:] for line in repository("git", "status", "--porcelain").splitlines()}
    assert changed == {"metrics/tuning.csv", "presets.yaml"}
    assert repository("dvc", "exp", "list", "--name-only").count("throwaway") == 0
    # Again, over the first results: the same, trial for trial.
    repository(*command)
    assert (repository.folder / "metrics/tuning.csv").read_bytes() == log


def compared(repository: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    return repository.attempt(sys.executable, "-m", "tools.compare", *arguments)


def test_compare_passes_where_nothing_changed_and_fails_where_a_metric_is_worse(repository: Repository) -> None:
    same = compared(repository, "HEAD")
    assert (same.returncode, same.stderr) == (0, "")
    assert "0 of " in same.stdout
    repository("dvc", "exp", "run", "--quiet", "-S", "train.learning_rate=5e-5")
    worse = compared(repository, "HEAD")
    assert worse.returncode == 1
    assert "worse than HEAD, or changed, by more than tolerances.yaml allows: " in worse.stderr
    assert "metrics/evaluate.json: rmse" in worse.stderr
    before = json.loads(repository("git", "show", "HEAD:metrics/evaluate.json"))["rmse"]
    now = repository.metrics("evaluate.json")["rmse"]
    table = compared(repository, "HEAD", "--markdown").stdout
    assert "| file | metric | before | now | change | relative |  |" in table
    row = next(line for line in table.splitlines() if line.startswith("| metrics/evaluate.json | rmse |"))
    assert f"{now - before:+.6f}" in row
    assert f"{(now - before) / before:+.2%}" in row
    assert row.endswith("| worse |")


def test_compare_fails_on_what_cannot_be_read(repository: Repository) -> None:
    nowhere = compared(repository, "nowhere")
    assert nowhere.returncode == 1
    expected = "error: REV=nowhere: unknown Git revision 'nowhere'; give a commit, branch, tag or experiment\n"
    assert nowhere.stderr == expected
    path = repository.folder / "metrics/evaluate.json"
    path.write_text("{")
    broken = compared(repository, "HEAD")
    assert broken.returncode == 1
    assert broken.stderr.startswith("error: metrics/evaluate.json: cannot be read in the workspace")
    path.unlink()
    missing = compared(repository, "HEAD")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: metrics/evaluate.json: ")
    assert "Traceback" not in missing.stderr + broken.stderr + nowhere.stderr
