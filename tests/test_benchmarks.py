"""The plain way that the benchmark measures against must come to the same results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fold_in
from benchmarks.__main__ import Section, ratio, slope, spread
from benchmarks.measure import measure
from stages.lib.ratings import Ratings
from tests.conftest import REPOSITORY, run
from tools.experiments import data_source


def naive(folder: Path, *arguments: str) -> dict[str, float]:
    result = run(folder, sys.executable, "-m", "benchmarks.naive", *arguments)
    assert result.returncode == 0, result.stderr
    printed: dict[str, float] = json.loads(result.stdout)
    return printed


def metrics(folder: Path, name: str) -> dict[str, float]:
    written: dict[str, float] = json.loads((folder / "metrics" / f"{name}.json").read_text())
    return written


def test_the_plain_parse_counts_the_same_rows(finished: Path) -> None:
    split = metrics(finished, "split")
    assert naive(finished, "parse") == {"train": split["train_ratings"], "test": split["test_ratings"]}


def test_the_plain_fit_has_the_same_losses(finished: Path) -> None:
    expected = metrics(finished, "train")
    assert naive(finished, "train") == {name: pytest.approx(expected[name], rel=1e-4) for name in ("loss", "val_loss")}


def test_the_plain_evaluation_has_the_same_metrics(finished: Path) -> None:
    printed, expected = naive(finished, "evaluate", "--users", "1000"), metrics(finished, "evaluate")
    assert printed["users"] == expected["users"]
    assert printed["precision"] == pytest.approx(expected["precision"], abs=1e-6)
    assert printed["map"] == pytest.approx(expected["map"], abs=1e-6)


def test_measure_gives_time_and_output(tmp_path: Path) -> None:
    found = measure([sys.executable, "-c", "import time; time.sleep(0.3); print('hello')"], tmp_path)
    assert found.output == "hello\n"
    assert found.seconds >= 0.3


@pytest.mark.parametrize("size", [2**28, 2**30])
def test_measure_gives_the_peak_of_memory(size: int) -> None:
    # From a process as small as the benchmark's: a command's peak includes what started it.
    code = f"""import sys; from pathlib import Path; from benchmarks.measure import measure
print(measure([sys.executable, "-c", "x = b'1' * {size}"], Path()).memory)"""
    result = run(REPOSITORY, sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    assert 0 < float(result.stdout) - size / 2**20 < 60


def test_measure_tells_what_a_failed_command_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        measure([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)


def test_slope_is_the_exponent_of_growth() -> None:
    assert slope([1, 10, 100], [3.0, 30 * 10**0.5, 3000.0]) == "1.50"
    assert slope([5], [1.0]) == "-"


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio([10.0, 30.0, 20.0], [1.0, 1.5, 4.0]) == "10.0 (5.0 to 20.0)"
    assert ratio([1000.0], [2.0]) == "500 (500 to 500)"
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00 to 3.00)"


def test_a_section_is_written_as_markdown() -> None:
    section = Section("Title", ["", "seconds"], "A note.", [["train", "1.0"]])
    assert section.markdown() == "## Title\n\n|  | seconds |\n| --- | ---: |\n| train | 1.0 |\n\nA note.\n"


def test_users_are_left_out_and_numbered_anew() -> None:
    people = fold_in.left_out(60)
    assert people.tolist() == sorted(set(people.tolist()))
    assert len(people) == 6
    assert people.tolist() == fold_in.left_out(60).tolist() != list(range(6))
    ratings = Ratings(
        np.array([3, 0, 2, 3], np.int32), np.array([1, 1, 0, 4], np.int32), np.array([5, 4, 3, 2], np.float32), (4, 5)
    )
    kept = fold_in.of_users(ratings, np.array([0, 3], np.int32))
    assert (kept.users.tolist(), kept.movies.tolist(), kept.values.tolist()) == ([1, 0, 1], [1, 1, 4], [5, 4, 2])
    assert kept.shape == (2, 5)


@pytest.mark.slow
def test_people_are_folded_in_for_every_kind_of_model(archives: dict[str, Path], tmp_path: Path) -> None:
    result = fold_in.compare(tmp_path, data_source("ml-1m", str(archives["ml-1m"]), None))
    assert list(result) == ["default", "ranking", "rating"]
    for name, found in result.items():
        assert found["people"] == 6
        assert found["ratio"] == found["recall"]["folded_in"] / found["recall"]["trained"]
        assert 0.5 < found["ratio"] < 2
        assert bool(found["rmse"]) == (name != "ranking")
    with (
        np.load(tmp_path / "everybody/models/factors.npz") as whole,
        np.load(tmp_path / "others/models/factors.npz") as others,
    ):
        assert (len(whole["users"]), len(others["users"])) == (60, 54)
        assert (whole["movie_ids"] == others["movie_ids"]).all()
