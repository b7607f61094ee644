"""The packages that decide bytes: how they are listed, and what happens when others are installed."""

import contextlib
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from recommender.environment import check_environment
from recommender.errors import UserError
from recommender.paths import ENVIRONMENT, ENVIRONMENT_GROUPS, STAGES
from tests.conftest import REPOSITORY, refused, run, stage
from tools import environment


def read_versions(path: Path) -> dict[str, str]:
    return dict(line.split("==") for line in path.read_text().splitlines())


LISTS = {group: read_versions(REPOSITORY / ENVIRONMENT / f"{group}.txt") for group in ENVIRONMENT_GROUPS}


def test_every_stage_but_fetch_belongs_to_one_group() -> None:
    assert sorted(stage for stages in ENVIRONMENT_GROUPS.values() for stage in stages) == sorted(
        set(STAGES) - {"fetch"}
    )


def test_lists_are_those_of_the_lock_and_of_the_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(environment, "ENVIRONMENT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["environment"])
    environment.main()  # the tests run with the locked packages
    assert {group: read_versions(tmp_path / f"{group}.txt") for group in LISTS} == LISTS


def test_lists_have_what_computes_and_nothing_else() -> None:
    assert LISTS["tables"].keys() >= {"numpy", "pandas", "pyarrow", "scikit-learn", "scipy"}
    assert LISTS["training"].keys() >= {"tensorflow", "keras", "numpy", "h5py", "ml-dtypes", "scipy"}
    assert LISTS["drawing"].keys() >= {"matplotlib", "numpy", "jinja2", "contourpy", "kiwisolver", "pillow"}
    listed = {name for packages in LISTS.values() for name in packages}
    assert not listed & {"ruff", "pytest", "mypy", "dvc", "requests", "rich", "optuna"}
    assert environment.decisive({"scipy", "pytest"}).keys() == {"scipy", "numpy", "pytest"}  # numpy alone is compiled
    assert not LISTS["tables"].keys() & {"tensorflow", "keras", "matplotlib"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (f"numpy=={version('numpy')}\n", None),
        ("numpy==1.0\n", f"lists numpy 1.0, but numpy {version('numpy')} is installed"),
        ("nothing-of-this-name==1\n", "lists nothing-of-this-name 1, but nothing-of-this-name is not installed"),
    ],
)
def test_what_is_installed_must_be_what_is_listed(
    content: str, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ENVIRONMENT.mkdir()
    (ENVIRONMENT / "tables.txt").write_text(content)
    with pytest.raises(UserError, match=problem) if problem else contextlib.nullcontext():
        check_environment("tables")


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"fetch"}))
def test_every_stage_refuses_other_packages_and_leaves_no_trace(name: str, finished: Path) -> None:
    (group,) = (group for group, stages in ENVIRONMENT_GROUPS.items() if name in stages)
    path = finished / ENVIRONMENT / f"{group}.txt"
    path.write_text(path.read_text().replace(f"numpy=={version('numpy')}", "numpy==1.0"))
    words = (
        f"environment/{group}.txt: lists numpy 1.0, but numpy",
        "`pip install -r requirements.lock`",
        "`make environment`",
    )
    refused(stage(finished, name), *words)


def test_results_are_not_shown_where_other_packages_are_installed(finished: Path) -> None:
    path = finished / ENVIRONMENT / "training.txt"
    path.write_text(path.read_text().replace("keras==", "keras==0."))
    refused(run(finished, sys.executable, "-m", "tools.environment", "--check"), "lists keras 0.")
