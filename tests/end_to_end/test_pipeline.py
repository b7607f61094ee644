"""The pipeline under DVC in a Git repository: what a user might try, one thing after another."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.flatten import flatten

from recommender.evaluation.metrics import CURVES
from recommender.params import MODELS
from recommender.paths import STAGES
from tests.conftest import IN_EPOCHS, Repository, files, refused, set_params
from tools.experiments import as_settings

TRAINED = ["train", "evaluate", "recommend", "export", "report"]  # the stages that a change of the model runs


def test_the_first_reproduction_runs_every_stage(started: tuple[Repository, str]) -> None:
    repository, output = started
    assert repository.ran(output) == list(STAGES)
    names = {
        ".gitignore",
        "at_k.csv",
        "baselines.json",
        "baselines_at_k.csv",
        "baselines_users.parquet",
        "evaluate.json",
        "history.csv",
        "split.json",
        "train.json",
        "users.parquet",
    }
    assert {path.name for path in (repository.folder / "metrics").iterdir()} == names
    assert set(yaml.safe_load((repository.folder / "dvc.lock").read_text())["stages"]) == set(STAGES)


def test_a_second_reproduction_changes_nothing(repository: Repository) -> None:
    output = repository("dvc", "repro")
    assert repository.ran(output) == []
    assert "Data and pipelines are up to date." in output
    assert repository("git", "status", "--porcelain") == ""
    assert "up to date" in repository("dvc", "status")


def test_an_experiment_changes_metrics_and_the_diffs_show_it(repository: Repository) -> None:
    before = repository.metrics("train.json"), repository.metrics("evaluate.json")
    output = repository("dvc", "exp", "run", "-S", "train.mf.learning_rate=5e-5")
    assert repository.ran(output) == TRAINED
    after = repository.metrics("train.json"), repository.metrics("evaluate.json")
    assert after[0]["loss"] > before[0]["loss"]
    assert after[1]["rmse"] > before[1]["rmse"]

    change = pytest.approx({"old": 5e-4, "new": 5e-5, "diff": -4.5e-4})
    assert repository.dvc_json("params", "diff") == {"params.yaml": {"train.mf.learning_rate": change}}
    metrics = repository.dvc_json("metrics", "diff")
    assert set(metrics) == {"metrics/train.json", "metrics/evaluate.json"}
    rmse = metrics["metrics/evaluate.json"]["rmse"]
    assert (rmse["old"], rmse["new"]) == (before[1]["rmse"], after[1]["rmse"])

    repository("dvc", "plots", "diff", "--out", "plots")
    page = (repository.folder / "plots/index.html").read_text()
    old, new = repository("git", "show", "HEAD:metrics/history.csv"), repository("cat", "metrics/history.csv")
    losses = [text.splitlines()[1].split(",")[1].rstrip("0") for text in (old, new)]
    assert losses[0] != losses[1]
    for text in ("Loss by epoch", "Ranking by list length", "val_loss", "ndcg", "HEAD", "workspace", *losses):
        assert text in page, text


def test_only_our_plots_are_drawn_from_columns_that_the_files_have(repository: Repository) -> None:
    repository("dvc", "exp", "run", "--quiet", "-S", "evaluate.k=9")
    plots = repository.dvc_json("plots", "diff")
    plots = plots.get("data", plots)
    assert set(plots) == {"metrics/history.csv", "metrics/at_k.csv", "metrics/baselines_at_k.csv"}
    drawn = set()
    for path, (plot,) in plots.items():
        specification = plot["content"]
        specification = json.loads(specification) if isinstance(specification, str) else specification
        folded, rows = set(specification["transform"][0]["fold"]), specification["data"]["values"]
        assert {row["rev"] for row in rows} == {"HEAD", "workspace"}
        header = (repository.folder / path).read_text().splitlines()[0].split(",")
        assert specification["encoding"]["x"]["field"] == header[0]
        assert folded & set(header), path
        drawn |= folded & set(header)
    assert drawn == folded
    assert set(CURVES) <= drawn


def test_an_experiment_elsewhere_leaves_the_workspace_alone(repository: Repository) -> None:
    watched = ("data", "models", "metrics", "reports")
    before = [files(repository.folder / name) for name in watched]
    output = repository("dvc", "exp", "run", "--temp", "--name", "elsewhere", "-S", "recommend.k=3")
    assert repository.ran(output) == ["recommend", "report"]
    assert [files(repository.folder / name) for name in watched] == before
    assert repository("git", "status", "--porcelain") == ""
    assert "elsewhere" in repository("dvc", "exp", "list", "--name-only").split()
    difference = repository.dvc_json("params", "diff", "HEAD", "elsewhere")
    assert difference["params.yaml"]["recommend.k"] == {"old": 10, "new": 3, "diff": -7}


def test_another_k_to_evaluate_trains_nothing(repository: Repository) -> None:
    before = files(repository.folder / "models")
    set_params(repository.folder, evaluate__k=7)
    assert repository.ran(repository("dvc", "repro")) == ["evaluate", "baselines", "report"]
    assert files(repository.folder / "models") == before
    assert len((repository.folder / "metrics/at_k.csv").read_text().splitlines()) == 1 + 7


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS[1:])
def test_one_parameter_chooses_another_model(model: str, repository: Repository) -> None:
    name, value = ("epochs", 2) if model in IN_EPOCHS else ("embedding_size", 8)
    output = repository("dvc", "exp", "run", "-S", f"train.model={model}", "-S", f"train.{model}.{name}={value}")
    assert repository.ran(output) == TRAINED
    locked = yaml.safe_load((repository.folder / "dvc.lock").read_text())["stages"]["train"]
    assert f"recommender/models/{model}.py" in {dep["path"] for dep in locked["deps"]}
    params = locked["params"]["params.yaml"]
    groups = {"engine", "train.early_stopping", "train.final_fit", "train.model", "train.seed", f"train.{model}"}
    assert set(params) == groups
    assert repository.metrics("train.json").get(name, value) == value


def test_a_model_that_is_not_used_reruns_nothing(repository: Repository) -> None:
    locked = yaml.safe_load((repository.folder / "dvc.lock").read_text())["stages"]["train"]
    assert [name for name in locked["params"]["params.yaml"] if "mf" in name] == ["train.mf"]
    path = repository.folder / "recommender/models/softmax_mf.py"
    path.write_text(path.read_text() + "\n# changed\n")
    set_params(repository.folder, train__softmax_mf__epochs=3)
    assert repository.ran(repository("dvc", "repro")) == []
    path = repository.folder / "recommender/models/mf.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert repository.ran(repository("dvc", "repro")) == ["train"]


@pytest.mark.parametrize(
    ("values", "target", "message"),
    [
        ({"evaluate__k": 999}, "evaluate", "params.yaml: evaluate.k: must be at most 80"),
        ({"train__seed": 8, "train__loss": "softmax"}, "train", "train.loss is now train.model"),
        ({"train__seed": 8, "train__epochs": 3}, "train", "train.epochs is now train.mf.epochs"),
    ],
)
def test_a_failing_stage_stops_the_reproduction_with_its_one_line(
    values: dict[str, object], target: str, message: str, repository: Repository
) -> None:
    set_params(repository.folder, **values)
    result = repository.attempt("dvc", "repro", target)
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in result.stdout + result.stderr


PRESETS = {
    "ranking": {
        "ml-1m": {
            "train.model": "softmax_mf",
            "train.softmax_mf.epochs": 3,
            "train.softmax_mf.dropout": 0.25,
            "train.softmax_mf.schedule": "constant",
        }
    },
    "rating": {"ml-1m": {"train.model": "encoded_mf", "train.encoded_mf.epochs": 3}},
}


@pytest.mark.slow
@pytest.mark.parametrize("purpose", PRESETS)
def test_a_preset_is_one_experiment_that_leaves_its_results_in_the_workspace(
    purpose: str, repository: Repository, archives: dict[str, Path]
) -> None:
    (repository.folder / "presets.yaml").write_text(yaml.safe_dump(PRESETS))
    repository.commit()
    before = repository.metrics("evaluate.json")
    output = repository(sys.executable, "-m", "tools.preset", purpose, "--archive", str(archives["ml-1m"]))
    command = output.splitlines()[0]
    assert command.startswith("dvc exp run -S 'data.dataset=\"ml-1m\"' -S ")
    assert repository.ran(output) == TRAINED
    params = flatten(yaml.safe_load((repository.folder / "params.yaml").read_text()))
    for name, value in PRESETS[purpose]["ml-1m"].items():
        assert params[name] == value
        assert f"{name}=" in command
    assert repository.metrics("evaluate.json") != before
    assert f"{repository.metrics('evaluate.json')['map']:.4f}" in output
    # The line that was printed does the same by hand: nothing is left to do.
    assert repository.ran(repository("bash", "-c", command)) == []


def test_a_preset_that_was_not_chosen_is_refused(repository: Repository) -> None:
    result = repository.attempt(sys.executable, "-m", "tools.preset", "ranking", "--dataset", "ml-latest-small")
    refused(result, "presets.yaml: has no ranking for ml-latest-small; `make tune` finds one")


@pytest.mark.slow
def test_a_search_runs_our_model_as_experiments_and_writes_its_log_and_its_choice(
    repository: Repository, archives: dict[str, Path]
) -> None:
    command = [sys.executable, "-m", "benchmarks.tune", "--trials", "2", "--dataset", "ml-1m", "--model", "rating"]
    repository(*command, "--archive", str(archives["ml-1m"]))
    log = (repository.folder / "metrics/tuning.csv").read_text()
    rows = list(csv.DictReader(log.splitlines()))
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert {(row["dataset"], row["model"], row["metric"]) for row in rows} == {("ml-1m", "rating", "rmse")}
    best = min(rows, key=lambda row: float(row["value"]))
    chosen = yaml.safe_load((repository.folder / "presets.yaml").read_text())["rating"]["ml-1m"]
    assert set(best["parameters"].split()) == set(as_settings(chosen))
    changed = {line[3:] for line in repository("git", "status", "--porcelain").splitlines()}
    assert changed == {"metrics/tuning.csv", "presets.yaml"}
    assert "throwaway" not in repository("dvc", "exp", "list", "--name-only")
    # Again, over the first results: the same, trial for trial.
    repository(*command, "--archive", str(archives["ml-1m"]))
    assert (repository.folder / "metrics/tuning.csv").read_text() == log


def compared(repository: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    return repository.attempt(sys.executable, "-m", "tools.compare", *arguments)


def test_compare_passes_where_nothing_changed_and_fails_where_a_metric_is_worse(repository: Repository) -> None:
    same = compared(repository, "HEAD")
    assert (same.returncode, same.stderr) == (0, "")
    assert "0 of " in same.stdout
    repository("dvc", "exp", "run", "--quiet", "-S", "train.mf.learning_rate=5e-5", "evaluate")
    worse = compared(repository, "HEAD")
    assert worse.returncode == 1
    assert "worse than HEAD, changed or gone, and tolerances.yaml allows less: " in worse.stderr
    assert "metrics/evaluate.json: rmse" in worse.stderr
    before = json.loads(repository("git", "show", "HEAD:metrics/evaluate.json"))["rmse"]
    now = repository.metrics("evaluate.json")["rmse"]
    table = compared(repository, "HEAD", "--markdown").stdout
    assert "| file | metric | before | now | change | 95 % interval | relative | judged by |  |" in table
    row = next(line for line in table.splitlines() if line.startswith("| metrics/evaluate.json | rmse |"))
    assert f"| {now - before:+.6f} | +" in row
    assert row.endswith(f" | {(now - before) / before:+.2%} | interval and tolerance | worse |")
    assert "| train.mf.learning_rate | 0.0005 | 5e-05 |" in table
    assert table.count("```mermaid\nxychart-beta\n") == 4


def test_runs_on_other_data_are_not_compared(repository: Repository) -> None:
    repository("dvc", "exp", "run", "--quiet", "-S", "split.seed=8", "evaluate", "baselines")
    message = "REV=HEAD: was measured on other data, with split.seed: 7; compare with a revision that has the data"
    refused(compared(repository, "HEAD"), message)
    shown = repository(sys.executable, "-m", "tools.results")
    assert "The last commit is not shown: it was measured on other data, with split.seed: 7" in shown
    assert "last committed" not in shown


@pytest.mark.slow
def test_what_another_model_does_not_have_is_shown_and_not_judged(repository: Repository) -> None:
    repository("dvc", "exp", "run", "--quiet", "-S", "train.model=softmax_mf", "-S", "train.softmax_mf.epochs=20")
    assert "rmse" not in repository.metrics("evaluate.json")
    result = compared(repository, "HEAD")
    assert re.search(r"evaluate │ rmse +│ +[0-9.]+ │ +- │ +- │ +- │ +- │ tolerance +│ gone", result.stdout)
    assert re.search(r"train +│ loss +│ +[0-9.]+ │ +[0-9.]+ │ ", result.stdout)
    assert not re.search(r": (rmse|mae|loss|weights)", result.stderr)


@pytest.mark.slow
def test_a_model_that_has_learned_the_test_part_is_not_measured(repository: Repository) -> None:
    output = repository("dvc", "exp", "run", "-S", "train.final_fit=all")
    assert repository.ran(output) == ["train", "evaluate", "baselines", "recommend", "export", "report"]
    assert [repository.metrics(name) for name in ("evaluate.json", "baselines.json")] == [{}, {}]
    assert (repository.folder / "metrics/at_k.csv").read_text() == "k,precision,recall,map,ndcg\n"
    assert "nothing is measured, because the model has learned all of them" in repository(
        sys.executable, "-m", "tools.results"
    )
    assert "Not measured: the model has learned all ratings" in (repository.folder / "reports/index.html").read_text()
    assert repository.dvc_json("plots", "show")
    assert compared(repository, "HEAD").returncode == 0


def test_compare_fails_on_what_cannot_be_read(repository: Repository) -> None:
    message = "REV=nowhere: unknown Git revision 'nowhere'; give a commit, branch, tag or experiment"
    refused(compared(repository, "nowhere"), message)
    path = repository.folder / "metrics/evaluate.json"
    path.write_text("{")
    refused(compared(repository, "HEAD"), "metrics/evaluate.json: cannot be read in the workspace: ")
    path.unlink()
    refused(compared(repository, "HEAD"), "metrics/evaluate.json: cannot be read in the workspace: ")
