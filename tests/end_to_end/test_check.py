"""`make check` passes on what is committed, and prints what differs first where something changed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Repository, set_params

pytestmark = pytest.mark.slow


@pytest.fixture
def scratch(repository: Repository) -> Iterator[Repository]:
    """The repository; commits made by a test are taken back."""
    head = repository("git", "rev-parse", "HEAD").strip()
    yield repository
    repository("git", "reset", "--quiet", "--hard", head)


def check(repository: Repository) -> tuple[int, str, str]:
    result = repository.attempt(sys.executable, "-m", "tools.check")
    return result.returncode, result.stdout, result.stderr


def test_what_is_committed_is_reproduced(scratch: Repository) -> None:
    status, output, _ = check(scratch)
    assert status == 0
    assert output == "reproduced: dvc.lock and metrics/ come out byte for byte as they are committed\n"


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
    status, output, errors = check(scratch)
    assert status == 1
    assert f"first difference: {first}\n" in output
    assert "error: the committed pipeline makes other bytes than are committed: dvc.lock, " in errors.splitlines()[-1]


def test_a_changed_line_of_code_is_noticed_with_the_metrics_it_changes(scratch: Repository) -> None:
    path = scratch.folder / "recommender/ranking/baselines.py"
    line, changed = "(total + damping * mean, count + damping", "(total + damping, count + damping"
    text = path.read_text()
    assert text.count(line) == 1
    path.write_text(text.replace(line, changed))
    scratch.commit()
    status, output, errors = check(scratch)
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
        status, output, _ = check(scratch)
    finally:
        del scratch.env["PYTHONPATH"]
    assert status == 1
    assert "first difference: stage evaluate, output metrics/at_k.csv\n" in output
    assert "ndcg" in output
