"""Small synthetic archives in the MovieLens layouts, and commands run as a user would run them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.synthetic import make_ratings, write_archive
from stages.lib import errors
from stages.lib.releases import RELEASES

REPOSITORY = Path(__file__).parents[1]
USERS, MOVIES, RATINGS = 60, 80, 1500
STAGES = ("fetch", "extract", "split", "train", "evaluate", "baselines", "recommend", "report")
MESSAGES = Path(__file__).with_name("messages.txt")
INTRODUCTION = """\
Every line that a mistake ends in, by the test that makes the mistake. `make messages` writes this file, and each test
compares its own line with it.
"""
collected = pytest.StashKey[dict[str, dict[str, str]]]()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(folder: Path, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; it need not succeed."""
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=280
    )


def stage(
    folder: Path, name: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a stage of the pipeline in a folder that holds the code."""
    return run(folder, sys.executable, "-m", f"stages.{name}", *arguments, env=env)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that a command ended in one line on stderr that holds these words, with status 1."""
    assert result.returncode == 1, result
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Downloading file ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def files(folder: Path) -> dict[str, str]:
    """Give the checksum of every file under a folder, but for compiled code."""
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def set_params(folder: Path, **values: object) -> None:
    """Change parameters of a copy: train__epochs=1 sets train.epochs; a mapping replaces a section."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for name, value in values.items():
        section, key = name.split("__")
        params[section][key] = value
    path.write_text(yaml.safe_dump(params))


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
        self("git", "commit", "--quiet", "--allow-empty", "--message", "A test's state")

    def metrics(self, name: str) -> dict[str, Any]:
        """Read one file of metrics."""
        values: dict[str, Any] = json.loads((self.folder / "metrics" / name).read_text())
        return values

    def ran(self, output: str) -> list[str]:
        """Give the stages that a reproduction ran."""
        return [name for name in STAGES if f"Running stage '{name}'" in output]


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small archive for each release's layout."""
    folder = tmp_path_factory.mktemp("archives")
    paths = {}
    for name, release in RELEASES.items():
        users, movies, ratings = make_ratings(USERS, MOVIES, RATINGS, scale=release.scale)
        paths[name] = folder / f"{name}.zip"
        write_archive(paths[name], name, users, movies, ratings, MOVIES + 5)
    return paths


@pytest.fixture
def project(tmp_path: Path, archives: dict[str, Path]) -> Path:
    """A copy of the code in a folder of its own, set to the synthetic ml-1m archive."""
    return copy_project(tmp_path / "project", archives["ml-1m"])


def copy_project(folder: Path, archive: Path, dataset: str = "ml-1m") -> Path:
    for name in ("stages", "tools", "benchmarks"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".gitignore", ".gitattributes", ".dvcignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    set_params(folder, data__dataset=dataset, data__archive=str(archive), data__sha256=sha256(archive))
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> Path:
    """A copy of the code where every stage has run; tests that change it work on a copy of their own."""
    folder = copy_project(tmp_path_factory.mktemp("trained") / "project", archives["ml-1m"])
    for name in STAGES:
        result = stage(folder, name)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "finished"))


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> tuple[Repository, str]:
    """A repository after its first `dvc repro`, everything committed; and what that printed."""
    folder = copy_project(tmp_path_factory.mktemp("pipeline") / "project", archives["ml-1m"])
    for path in ("tolerances.yaml", ".dvc/config", ".dvc/.gitignore", *map(str, ignore_files())):
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
    folders = ("data", "data/raw", "data/interim", "data/processed", "models", "reports")
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


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, set to ml-1m, which stages that run in this process take for the repository."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(REPOSITORY / "params.yaml", folder)
    set_params(folder, data__dataset="ml-1m")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project where every stage has run, as the working directory."""
    monkeypatch.chdir(finished)
    return finished


@pytest.fixture
def no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pytest's arguments from the stages."""
    monkeypatch.setattr(sys, "argv", ["stage"])


Ending = Callable[..., str]


@pytest.fixture
def ending(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ending:
    """Run a stage in this process and see that it ends as every mistake must end.

    With status 1, one line on stderr, which is the one in `MESSAGES`, and with every file as it was before.
    """

    def run_stage(main: Callable[[], None], *notes: str) -> str:
        before = files(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            errors.run(main)
        assert raised.value.code == 1
        output, written = capsys.readouterr()
        assert output == ""
        *others, last = [line for line in written.splitlines() if not re.match("(Down|Up)(load|dat)ing file ", line)]
        assert len(others) == len(notes), written
        for line, note in zip(others, notes, strict=True):
            assert re.search(note, line), line
        assert files(tmp_path) == before
        check_message(request, last)
        return last.removeprefix("error: ")

    return run_stage


def check_message(request: pytest.FixtureRequest, line: str) -> None:
    """Compare a test's message with `MESSAGES`, or collect it with ``--messages``."""
    assert re.fullmatch("error: .{20,}", line), line
    title = title_of(request.node)
    plain = re.sub(r"(127\.0\.0\.1|localhost):\d{4,}", r"\1:PORT", line)
    if request.config.getoption("--messages"):
        request.config.stash[collected].setdefault(request.path.name, {})[title] = plain
    else:
        assert read_messages().get(request.path.name, {}).get(title) == plain, "run `make messages` and read the change"


def title_of(test: pytest.Item) -> str:
    """Give a test's name as `MESSAGES` has it."""
    function, _, case = test.name.removeprefix("test_").partition("[")
    return function.replace("_", " ") + (f": {case[:-1]}" if case else "")


def read_messages() -> dict[str, dict[str, str]]:
    """Read `MESSAGES`: by test file, by test."""
    found: dict[str, dict[str, str]] = {}
    name = title = ""
    for line in MESSAGES.read_text(encoding="utf-8").removeprefix(INTRODUCTION).splitlines():
        if line.startswith("    "):
            found[name][title] = line.strip()
        elif line.startswith("  "):
            title = line.strip()
        elif line:
            name = line
            found[name] = {}
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--messages", action="store_true", help=f"write {MESSAGES.name} anew")


def pytest_configure(config: pytest.Config) -> None:
    """Start with no messages."""
    config.stash[collected] = {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was collected, and keep what tests have that were skipped here."""
    if session.config.getoption("--messages"):
        text, former, now = INTRODUCTION, read_messages(), session.config.stash[collected]
        for name in sorted(now):
            text += f"\n{name}\n"
            for title in dict.fromkeys(title_of(test) for test in session.items if test.path.name == name):
                line = now[name].get(title) or former.get(name, {}).get(title)
                text += f"  {title}\n    {line}\n" if line else ""
        MESSAGES.write_text(text, encoding="utf-8")
