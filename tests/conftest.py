"""Small synthetic archives in the MovieLens layouts, and commands run as a user would run them."""

import functools
import hashlib
import json
import operator
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from recommender import errors
from recommender.data.movielens import RELEASES
from recommender.data.synthetic import make_ratings, write_archive
from recommender.params import MODELS, Train, TrainedSection
from recommender.paths import STAGES

REPOSITORY = Path(__file__).parents[1]
USERS, ITEMS, RATINGS = 60, 80, 1500
IN_EPOCHS = [name for name in MODELS if issubclass(Train.model_fields[name].annotation or Train, TrainedSection)]
MESSAGES = Path(__file__).with_name("corpora") / "messages.txt"
INTRODUCTION = """\
The message for every mistake, under the name of the test that makes it. `make messages` writes this file; each test
compares its own message with it.
"""
Ending = Callable[..., str]
collected = pytest.StashKey[dict[str, dict[str, str]]]()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(folder: Path, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; it need not succeed."""
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=900
    )


def stage(
    folder: Path, name: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a stage of the pipeline in a folder with the code."""
    return run(folder, sys.executable, "-m", f"stages.{name}", *arguments, env=env)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that a command ended with status 1 and one line on stderr that contains these words."""
    assert result.returncode == 1, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def files(folder: Path) -> dict[str, str]:
    """Return the checksum of every file under a folder except compiled code."""
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def set_params(folder: Path, **values: object) -> None:
    """Change parameters in a folder: train__mf__epochs=1 sets train.mf.epochs; a mapping replaces a section."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for name, value in values.items():
        *sections, key = name.split("__")
        functools.reduce(operator.getitem, sections, params)[key] = value
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
        """Run a command that must succeed; return its output."""
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

    def reset(self) -> None:
        """Return to the committed state."""
        if self("git", "status", "--porcelain"):
            self("git", "reset", "--quiet", "--hard")
            self("git", "clean", "--quiet", "--force", "-d")
            self("dvc", "checkout", "--quiet")

    def ran(self, output: str) -> list[str]:
        """Return the stages that `dvc repro` ran, from its output."""
        return [name for name in STAGES if f"Running stage '{name}'" in output]


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small archive for each release's layout."""
    folder = tmp_path_factory.mktemp("archives")
    paths = {}
    for name, release in RELEASES.items():
        paths[name] = folder / f"{name}.zip"
        write_archive(paths[name], name, [make_ratings(USERS, ITEMS, RATINGS, scale=release.scale)], ITEMS + 5)
    return paths


@pytest.fixture
def project(tmp_path: Path, archives: dict[str, Path]) -> Path:
    """A copy of the code in a folder of its own, set to the synthetic ml-1m archive."""
    return copy_project(tmp_path / "project", archives["ml-1m"])


def copy_project(folder: Path, archive: Path, dataset: str = "ml-1m") -> Path:
    for name in ("stages", "recommender", "tools", "benchmarks", "environment", ".streamlit"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".gitignore", ".gitattributes", ".dvcignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    set_params(folder, data__dataset=dataset, data__archive=str(archive), data__sha256=sha256(archive))
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> Path:
    """A project where every stage has run; tests that change it take `finished`."""
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
    ignored = (f"{parent}/.gitignore" for parent in (".dvc", "data", "data/raw", "data/interim", "models", "reports"))
    for path in ("tolerances.yaml", ".dvc/config", ".dvc/plots/lines.json", *ignored):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, folder / path)
    set_params(folder, train__mf__epochs=2)
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


@pytest.fixture
def repository(started: tuple[Repository, str]) -> Iterator[Repository]:
    """The same repository in its committed state, before and after a test."""
    started[0].reset()
    yield started[0]
    started[0].reset()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without any data, set to ml-1m, as the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(REPOSITORY / "params.yaml", folder)
    shutil.copytree(REPOSITORY / "environment", folder / "environment")
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
    """Hide pytest's arguments from stages that run in this process."""
    monkeypatch.setattr(sys, "argv", ["stage"])


@pytest.fixture
def ending(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ending:
    """Run a stage in this process and check that it ends as every mistake must; return the message.

    That is with status 1, one line on stderr, which is in `MESSAGES`, and every file as it was before. `notes` are
    patterns for lines that may come first.
    """

    def run_stage(main: Callable[[], None], *notes: str) -> str:
        before = files(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            errors.run(main)
        assert raised.value.code == 1
        output, written = capsys.readouterr()
        assert output == ""
        *others, last = written.splitlines()
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
    title = title_of(request.node.name)
    plain = re.sub(r"(127\.0\.0\.1|localhost):\d{4,}", r"\1:PORT", line)
    if request.config.getoption("--messages"):
        request.config.stash[collected].setdefault(request.path.name, {})[title] = plain
    else:
        assert read_messages().get(request.path.name, {}).get(title) == plain, "run `make messages` and read the change"


def title_of(test: str) -> str:
    """Return a test's name as in `MESSAGES`."""
    function, _, case = test.removeprefix("test_").partition("[")
    return function.replace("_", " ") + (f": {case[:-1]}" if case else "")


def read_messages() -> dict[str, dict[str, str]]:
    """Return the lines of `MESSAGES` by test file and by test."""
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
    """Add --messages."""
    parser.addoption("--messages", action="store_true", help=f"write {MESSAGES.name} anew")


def pytest_configure(config: pytest.Config) -> None:
    """Start with no messages, and with SIGINT at its default."""
    config.stash[collected] = {}
    # A background job of a script inherits SIGINT ignored, and so would each command that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the messages; those of other files and of skipped tests stay."""
    if session.config.getoption("--messages"):
        text, former, now = INTRODUCTION, read_messages(), session.config.stash[collected]
        for name in sorted(former | now):
            text += f"\n{name}\n"
            titles = dict.fromkeys(title_of(test.name) for test in session.items if test.path.name == name)
            for title in titles or former[name]:
                line = now.get(name, {}).get(title) or former.get(name, {}).get(title)
                text += f"  {title}\n    {line}\n" if line else ""
        MESSAGES.write_text(text, encoding="utf-8")
