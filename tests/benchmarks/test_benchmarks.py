"""The plain way that the benchmark measures against must come to the same results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fold_in, splits
from benchmarks.__main__ import REPORT, RESULTS, exponent, ratio, report, spread
from benchmarks.measure import keep, measure
from recommender.data.interactions import Interactions
from recommender.paths import BASELINES, METRICS, SPLIT_METRICS
from recommender.storage import read_json, write_json
from tests.conftest import REPOSITORY, run
from tools.docs import TABLES
from tools.experiments import data_source


def printed(folder: Path, module: str, *arguments: str) -> dict[str, float]:
    result = run(folder, sys.executable, "-m", f"benchmarks.{module}", *arguments)
    assert result.returncode == 0, result.stderr
    found: dict[str, float] = json.loads(result.stdout)
    return found


def metrics(folder: Path, name: str) -> dict[str, float]:
    written: dict[str, float] = json.loads((folder / "metrics" / f"{name}.json").read_text())
    return written


def test_the_plain_parse_counts_the_same_rows(trained: Path) -> None:
    split = metrics(trained, "split")
    assert printed(trained, "naive", "parse") == {"train": split["train_ratings"], "test": split["test_ratings"]}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "train-tuned"])
def test_the_plain_fit_has_the_same_loss(trained: Path, part: str) -> None:
    expected = metrics(trained, "train")["val_loss"]
    assert printed(trained, "naive", part) == {"val_loss": pytest.approx(expected, rel=1e-4)}


@pytest.mark.slow
def test_the_plain_evaluation_has_the_same_metrics(trained: Path) -> None:
    found, expected = printed(trained, "naive", "evaluate"), metrics(trained, "evaluate")
    for name in ("users", "precision", "map"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


def test_a_peer_has_the_same_metrics_as_the_baseline_that_it_is(trained: Path) -> None:
    assert printed(trained, "peers", "ease_liked")["map"] == pytest.approx(
        metrics(trained, "baselines")["ease"]["map"], abs=1e-6
    )


def test_measure_returns_time_and_output(tmp_path: Path) -> None:
    found = measure([sys.executable, "-c", "import time; time.sleep(0.3); print('hello')"], tmp_path)
    assert found.output == "hello\n"
    assert found.seconds >= 0.3


@pytest.mark.parametrize("size", [2**28, 2**30])
def test_measure_returns_the_peak_of_memory(size: int) -> None:
    # From a process as small as the benchmark's: a command's peak includes what started it.
    code = f"""import sys; from pathlib import Path; from benchmarks.measure import measure
print(measure([sys.executable, "-c", "x = b'1' * {size}"], Path()).memory)"""
    result = run(REPOSITORY, sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    assert 0 < float(result.stdout) - size / 2**20 < 60


def test_measure_reports_what_a_failed_command_wrote(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        measure([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)


def test_results_of_other_data_sets_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    keep(path, "ml-1m", {"map": 0.1})
    keep(path, "ml-100k", {"map": 0.2, "interval": [1 / 3, 1]})
    keep(path, "ml-1m", {"map": 0.3})
    assert json.loads(path.read_text()) == {
        "ml-100k": {"interval": [0.333333, 1], "map": 0.2},
        "ml-1m": {"map": 0.3},
    }


def test_the_exponent_of_growth_is_a_slope() -> None:
    counts = {1: 3.0, 10: 30 * 10**0.5, 100: 3000.0}
    sizes = [
        {"ratings": count, "users": 10, "items": count**2, "seconds": {"train": seconds, "report": seconds}}
        for count, seconds in counts.items()
    ]
    assert (exponent("train", sizes), exponent("report", sizes)) == ("1.50", "0.75")
    assert exponent("train", sizes[:1]) == "-"


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio(np.array([10.0, 30.0, 20.0]), np.array([1.0, 1.5, 4.0])) == "10.0 (5.0 to 20.0)"
    assert ratio(np.array([1000.0]), np.array([2.0])) == "500 (500 to 500)"
    assert spread(np.array([3.0, 1.0, 2.0])) == "2.00 (1.00 to 3.00)"


def test_the_report_is_that_of_the_results() -> None:
    assert report(read_json(REPOSITORY / RESULTS)) == (REPOSITORY / REPORT).read_text(encoding="utf-8")


def test_users_are_left_out_and_renumbered() -> None:
    people = fold_in.left_out(60)
    assert people.tolist() == sorted(set(people.tolist()))
    assert len(people) == 6
    assert people.tolist() == fold_in.left_out(60).tolist() != list(range(6))
    ratings = Interactions(
        np.array([3, 0, 2, 3], np.int32), np.array([1, 1, 0, 4], np.int32), np.array([5, 4, 3, 2], np.float32), (4, 5)
    )
    kept = fold_in.of_users(ratings, np.array([0, 3], np.int32))
    assert (kept.users.tolist(), kept.items.tolist(), kept.ratings.tolist()) == ([1, 0, 1], [1, 1, 4], [5, 4, 2])
    assert kept.shape == (2, 5)


@pytest.mark.slow
def test_people_are_folded_in_for_every_kind_of_model(archives: dict[str, Path], tmp_path: Path) -> None:
    result = fold_in.compare(tmp_path, data_source("ml-1m", str(archives["ml-1m"]), None))
    assert list(result) == ["mf", "softmax_mf", "kernel", "encoded_mf"]
    for name, found in result.items():
        assert found["people"] == 6
        assert found["ratio"] == found["recall"]["folded_in"] / found["recall"]["trained"]
        assert 0.5 < found["ratio"] < 2
        assert bool(found["rmse"]) == (name in ("mf", "encoded_mf"))
    with (
        np.load(tmp_path / "everybody/models/factors.npz") as whole,
        np.load(tmp_path / "others/models/factors.npz") as others,
    ):
        assert (len(whole["user_factors"]), len(others["user_factors"])) == (60, 54)
        assert (whole["item_order"] == others["item_order"]).all()


def test_every_way_to_split_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def copied(_: Path, values: dict[str, object]) -> None:
        calls.append(values)
        write_json(SPLIT_METRICS, {"users": 1})  # the repository's own

    monkeypatch.chdir(tmp_path)
    chosen = {"train.model": "softmax_mf", "train.softmax_mf.epochs": 1}
    monkeypatch.setattr(splits, "presets", lambda _: {"ranking": chosen, "als": {"factors": 9}})
    monkeypatch.setattr(splits, "split_workspace", lambda _, values: calls.append(values))
    monkeypatch.setattr(splits, "workspace", copied)
    monkeypatch.setattr(splits, "run_stage", lambda name, _: calls.append(name))
    own, popularity = {"map": 0.125, "users": 1234}, {"map": 0.25, "users": 1234}
    for path, values in ((METRICS, own), (BASELINES, {"popularity": popularity}), (SPLIT_METRICS, {"users": 2000})):
        write_json(path, values)
    source = {"data.dataset": "ml-1m", "split.method": "random"}
    found = splits.measured(tmp_path, source)
    tuned = source | chosen
    assert calls == [source, source, "train", "evaluate", tuned, "train", "evaluate", "baselines"]
    named = {"model": "softmax_mf"}
    models = {"our default model": own, "our ranking model": own | named, "popularity": popularity}
    assert found == {"split": {"users": 2000}, "models": models}
    ranking = named | {"map": 0.5, "users": 1234, "known_users": {"map": 0.375, "users": 5}}
    keep(splits.OUTPUT, "ml-1m", {"random": found, "temporal": {"models": models | {"our ranking model": ranking}}})
    assert TABLES["splits"]("ml-1m").splitlines() == [
        "|  | `random` | `temporal` |",
        "| --- | ---: | ---: |",
        "| `mf`, the default | 0.1250 | 0.1250 |",
        "| `softmax_mf`, tuned | 0.1250 | 0.5000 (0.3750) |",
        "| popularity | 0.2500 | 0.2500 |",
        "| users measured | 1,234 | 1,234 |",
    ]
