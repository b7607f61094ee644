"""`make verify` passes on what is committed, and prints what differs first where something changed."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import Repository, set_params, sha256

pytestmark = pytest.mark.slow


@pytest.fixture
def scratch(repository: Repository) -> Iterator[Repository]:
    """The repository; commits made by a test are taken back."""
    head = repository("git", "rev-parse", "HEAD").strip()
    yield repository
    repository("git", "reset", "--quiet", "--hard", head)


def verify(repository: Repository, *arguments: str) -> tuple[int, str, str]:
    result = repository.attempt(sys.executable, "-m", "tools.verify", *arguments)
    return result.returncode, result.stdout, result.stderr


def test_what_is_committed_is_reproduced_and_recorded(scratch: Repository, tmp_path: Path) -> None:
    status, output, _ = verify(scratch, "--cache", str(tmp_path / "cache"))
    assert status == 0
    assert output == "reproduced: dvc.lock and metrics/ come out byte for byte as they are committed\n"
    assert scratch("git", "status", "--porcelain") == ""
    recorded = json.loads((scratch.folder / "reproduction.json").read_text())
    assert recorded["as_committed"]
    assert recorded["commit"] == scratch("git", "rev-parse", "HEAD").strip()
    assert recorded["lock"] == sha256(scratch.folder / "dvc.lock")
    lock = yaml.safe_load((scratch.folder / "dvc.lock").read_text())
    paths = [out["path"] for stage in lock["stages"].values() for out in stage["outs"]]
    assert {output["path"] for output in recorded["outputs"]} == {
        path.relative_to(scratch.folder).as_posix()
        for out in paths
        for path in (scratch.folder / out, *(scratch.folder / out).rglob("*"))
        if path.is_file()
    }
    for output in recorded["outputs"]:
        assert sha256(scratch.folder / output["path"]) == output["sha256"]
        assert sha256(tmp_path / f"cache/files/md5/{output['md5'][:2]}/{output['md5'][2:]}") == output["sha256"]


def test_two_reproductions_are_compared_to_the_cell(scratch: Repository, tmp_path: Path) -> None:
    kept = [str(tmp_path / "before"), str(tmp_path / "now")]
    assert verify(scratch, "--cache", kept[0])[0] == 0
    before = (scratch.folder / "reproduction.json").rename(tmp_path / "before.json")
    set_params(scratch.folder, recommend__k=5)
    scratch.commit()
    assert verify(scratch, "--cache", kept[1])[0] == 1
    pair = (str(before), "reproduction.json")
    status, output, errors = verify(scratch, *pair, "--cache", kept[0], "--cache", kept[1])
    assert status == 1
    first = "first difference: stage recommend, output data/recommendations.parquet"
    assert f"{first}: user_id: shape (" in output
    assert "commit: " in output
    assert ": data/recommendations.parquet, reports/index.html, reports/model_card.md; " in errors
    assert verify(scratch, pair[0], pair[0])[1].endswith(" outputs of all stages, byte for byte\n")


@pytest.mark.parametrize(
    ("name", "value", "first"),
    [
        ("train__mf__learning_rate", 0.001, "stage train, output metrics/history.csv"),
        ("train__seed", 8, "stage train, output metrics/history.csv"),
        ("split__seed", 8, "stage split, output data/processed"),
        ("evaluate__k", 7, "stage evaluate, output metrics/at_k.csv"),
    ],
)
def test_a_parameter_that_was_not_reproduced_is_noticed(
    name: str, value: object, first: str, scratch: Repository
) -> None:
    set_params(scratch.folder, **{name: value})
    scratch.commit()
    status, output, errors = verify(scratch)
    assert status == 1
    assert f"first difference: {first}\n" in output
    assert "error: the committed pipeline makes other bytes than are committed: dvc.lock, " in errors.splitlines()[-1]


def test_a_changed_line_of_code_is_noticed_with_the_metrics_it_changes(scratch: Repository) -> None:
    path = scratch.folder / "recommender/ranking/baselines.py"
    line, changed = "train.sums + damping * mean, count", "train.sums + damping, count"
    text = path.read_text()
    assert text.count(line) == 1
    path.write_text(text.replace(line, changed))
    scratch.commit()
    status, output, errors = verify(scratch)
    assert status == 1
    assert "first difference: stage train, dependency recommender/ranking\n" in output
    assert '-    "mae": ' in output
    assert '+    "mae": ' in output
    assert "metrics/baselines.json" in errors.splitlines()[-1]


def test_a_library_that_rounds_otherwise_is_noticed(scratch: Repository, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'stages.evaluate' in sys.orig_argv:\n"
        "    import math\n"
        "    plain = math.log2\n"
        "    math.log2 = lambda value: plain(value) + 1e-3\n"
    )
    scratch.env["PYTHONPATH"] = str(tmp_path)
    try:
        status, output, _ = verify(scratch)
    finally:
        del scratch.env["PYTHONPATH"]
    assert status == 1
    assert "first difference: stage evaluate, output metrics/at_k.csv\n" in output
    assert "ndcg" in output
