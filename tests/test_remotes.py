"""What was computed once is pushed to a remote and pulled by a fresh clone, which then has nothing to do."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import files
from tests.test_pipeline import Repository, repository, started  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow
OUTPUTS = ("data", "models")


@pytest.fixture
def pushed(repository: Repository, tmp_path: Path) -> Repository:  # noqa: F811 - the fixture
    """The repository after a push to a folder."""
    repository("dvc", "remote", "add", "--force", "--default", "store", str(tmp_path / "store"))
    repository("dvc", "push")
    return repository


def clone(pushed: Repository, folder: Path) -> Repository:
    pushed("git", "clone", "--quiet", ".", str(folder))
    shutil.copy(pushed.folder / ".dvc/config", folder / ".dvc/config")
    fresh = Repository(folder, folder.with_name("caches"))
    for name, value in (("user.name", "Tester"), ("user.email", "tester@example.org")):
        fresh("git", "config", name, value)
    return fresh


def test_a_fresh_clone_that_pulls_has_nothing_to_do(pushed: Repository, tmp_path: Path) -> None:
    fresh = clone(pushed, tmp_path / "clone")
    assert not (fresh.folder / "models/factors.npz").exists()
    fresh("dvc", "pull")
    assert "Data and pipelines are up to date." in fresh("dvc", "repro")
    for name in OUTPUTS:
        assert files(fresh.folder / name) == files(pushed.folder / name)


def test_only_what_is_needed_is_fetched(pushed: Repository, tmp_path: Path) -> None:
    fresh = clone(pushed, tmp_path / "clone")
    output = fresh("dvc", "repro", "--pull", "--allow-missing")
    assert fresh.ran(output) == []
    assert not (fresh.folder / "data/raw/archive.zip").exists()
    output = fresh("dvc", "exp", "run", "--pull", "--allow-missing", "-S", "recommend.k=3")
    assert fresh.ran(output) == ["recommend"]
    assert (fresh.folder / "models/factors.npz").exists()
    assert not (fresh.folder / "data/raw/archive.zip").exists()
    assert not (fresh.folder / "data/interim/ratings.parquet").exists()
