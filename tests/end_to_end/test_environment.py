"""Another version of a package that decides bytes: nothing runs with it unnoticed, and DVC keeps its results apart."""

import sys
from pathlib import Path

import pytest

from recommender.paths import STAGES
from tests.conftest import Repository, run, set_params

PACKAGE, OTHER = "threadpoolctl", "3.5.0"  # of pure Python, which all stages but fetch import


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the other version, which takes precedence on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("other")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder))
    result = run(folder, *pip, f"{PACKAGE}=={OTHER}")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_another_version_is_refused_until_it_is_tracked_and_never_shares_results(
    repository: Repository, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = repository.folder / "environment/tables.txt"
    check = (sys.executable, "-m", "tools.environment", "--check")
    repository(*check)

    # Installed: the check before `dvc repro` and every stage that would run name it.
    monkeypatch.setitem(repository.env, "PYTHONPATH", str(other))
    set_params(repository.folder, evaluate__k=7)
    for command in (check, ("dvc", "repro", "evaluate")):
        result = repository.attempt(*command)
        assert result.returncode != 0
        assert f"environment/tables.txt: lists {PACKAGE} " in result.stderr
        assert f"but {PACKAGE} {OTHER} is installed" in result.stderr
        assert "`make environment`" in result.stderr

    # Tracked: DVC runs what depends on it.
    repository(sys.executable, "-m", "tools.environment")
    assert f"{PACKAGE}=={OTHER}\n" in listed.read_text()
    repository(*check)
    assert repository.ran(repository("dvc", "repro")) == [name for name in STAGES if name != "fetch"]

    # Back in the locked environment: the same parameters and data are not answered by the other one's results.
    monkeypatch.delitem(repository.env, "PYTHONPATH")
    refused = repository.attempt(*check)
    assert f"environment/tables.txt: lists {PACKAGE} {OTHER}, but {PACKAGE} " in refused.stderr
    repository("git", "checkout", "--quiet", "environment")
    output = repository("dvc", "repro")
    assert "evaluate" in repository.ran(output)
    assert "Stage 'evaluate' is cached" not in output
