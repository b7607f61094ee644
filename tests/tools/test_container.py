"""`make container` builds HEAD, runs everything in the container, stops it, and fails where a command does."""

import io
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from recommender.errors import run
from tools import container
from tools.docs import STARTED

# Stands in for docker: it writes down what it is called with and answers as docker would.
ENGINE = """\
#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
	build*) for last; do :; done; test -f "$last/Makefile" ;;
	run*) echo c0ffee ;;
	*whoami) echo dev ;;
	*uname*) echo x86_64 ;;
	*debian_version) echo 13.2 ;;
	*platform*) echo 3.13.5 ;;
	"image inspect"*) echo 2500000000 ;;
	--version) echo "Engine 1.0" ;;
esac
case "$*" in *"$FAILS"*) exit 1 ;; esac
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, an engine, and what the engine was called with."""
    engine = tmp_path / "engine"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    project = tmp_path / "project"
    project.mkdir()
    (project / "Makefile").write_text("repro:\n")
    (project / "benchmarks").mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["make container", "--engine", str(engine)])
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAILS", "nothing fails")
    identity = "-c user.name=a -c user.email=a@example.org"
    assert os.system(f"git init -q . && git add . && git {identity} commit -qm a") == 0  # noqa: S605
    return tmp_path / "log"


def test_everything_is_run_and_recorded(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:  # noqa: ARG001
        asked.append(url)
        if len(asked) < 3:
            raise urllib.error.URLError("not there yet") if len(asked) == 1 else ConnectionResetError
        return io.BytesIO(b"ok")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(container.time, "sleep", lambda _: None)
    container.main()
    lines = log.read_text().splitlines()
    assert lines[0].startswith("build --no-cache --tag recommender /")
    assert lines[1] == "run --detach --publish 127.0.0.1:8501:8501 recommender sleep infinity"
    commands = [line.removeprefix("exec c0ffee ") for line in lines if line.startswith("exec c0ffee ")]
    assert commands[-3:] == ["make repro", "git diff --exit-code -- dvc.lock metrics", "make test"]
    assert lines[-4:-2] == ["exec --detach c0ffee make explore", "rm --force c0ffee"]
    assert asked == ["http://127.0.0.1:8501/_stcore/health"] * 3
    found = json.loads(Path("benchmarks/container.json").read_text())
    assert set(STARTED) < set(found["seconds"])
    assert found["seconds"].keys() - STARTED == {"bytes as committed"}
    del found["seconds"]
    assert found == {
        "bytes": 2_500_000_000,
        "debian": "13.2",
        "engine": "Engine 1.0",
        "machine": "x86_64",
        "python": "3.13.5",
        "user": "dev",
    }


@pytest.mark.parametrize("fails", ["build", "run --detach", "whoami", "make repro", "git diff", "make test"])
def test_a_command_that_fails_ends_it_and_the_container(
    log: Path, fails: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS", fails)
    with pytest.raises(SystemExit) as raised:
        run(container.main)
    assert raised.value.code == 1
    [error] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert fails in error
    assert not Path("benchmarks/container.json").exists()
    lines = log.read_text().splitlines()
    assert (lines[-1] == "rm --force c0ffee") == (fails not in ("build", "run --detach"))


def test_an_app_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setattr(container, "LONGEST", 0)
    with pytest.raises(container.UserError, match="the app does not answer on port 8501 within 0 s"):
        container.main()
    assert log.read_text().splitlines()[-1] == "rm --force c0ffee"


def test_a_missing_engine_is_reported(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make container", "--engine", "/nowhere/docker"])
    with pytest.raises(container.UserError, match=r"/nowhere/docker"):
        container.main()
    assert not log.exists()
