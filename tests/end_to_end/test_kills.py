"""A pipeline that is killed at any moment and run again ends as one that was not killed."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Repository

pytestmark = pytest.mark.slow

KILLS = 20


def temporary(folder: Path) -> list[str]:
    """Return the files that should have been renamed or removed."""
    outputs = [path for name in ("data", "models", "metrics", "reports") for path in (folder / name).rglob("*")]
    return [str(path) for path in outputs if ".tmp" in path.name or path.name.startswith("tmp")]


def test_killed_at_random_moments_it_comes_to_the_same_end(repository: Repository) -> None:
    start = time.perf_counter()
    repository("dvc", "repro", "--force")
    longest = time.perf_counter() - start
    lock = (repository.folder / "dvc.lock").read_bytes()
    moments = np.random.default_rng(7)
    interrupted = torn = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            ["dvc", "repro", "--force"],
            cwd=repository.folder,
            env={**os.environ, **repository.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moments.uniform(0, longest))
        interrupted += process.poll() is None
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        result = repository.attempt("dvc", "repro")
        # DVC writes two files in place: killed while it does so it leaves a part, and names the file the next time.
        if result.returncode and ("dvc.lock" in result.stderr or "rwlock" in result.stderr):
            torn += 1
            repository("git", "checkout", "dvc.lock")
            (repository.folder / ".dvc/tmp/rwlock").unlink(missing_ok=True)
            result = repository.attempt("dvc", "repro")
        assert result.returncode == 0, result.stdout + result.stderr
        assert (repository.folder / "dvc.lock").read_bytes() == lock
        assert repository("git", "status", "--porcelain") == ""
        assert temporary(repository.folder) == []
    assert interrupted > KILLS / 4  # others had ended: the run that was timed may have been slower
    assert torn < interrupted / 2
    assert "Data and pipelines are up to date." in repository("dvc", "repro")
    assert repository("dvc", "status").startswith("Data and pipelines are up to date")
