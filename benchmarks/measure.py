"""Scratch copies of the repository, and what commands take there."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.utils.hydra import apply_overrides

from recommender.paths import PARAMS
from recommender.storage import read_json, write_json
from tools.experiments import as_settings


@dataclass(frozen=True)
class Measurement:
    """What one run of a command took, its children included, and its stdout."""

    seconds: float  # wall time
    processor: float  # seconds of processor time
    memory: float  # peak of one process, MiB
    written: float  # to disk, MiB
    output: str


def measure(command: list[str], folder: Path, env: Mapping[str, str] | None = None) -> Measurement:
    """Run a command in a folder, with further variables.

    Linux counts this process, of which the command starts as a copy, in its peak.

    Raises:
        RuntimeError: it failed; with what it wrote to stderr.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        env = os.environ | dict(env or {})
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=errors)  # noqa: S603 - no shell
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read()}")
        processor = usage.ru_utime + usage.ru_stime
        return Measurement(seconds, processor, usage.ru_maxrss / 1024, usage.ru_oublock / 2048, output.read())


def run_stage(name: str, folder: Path, env: Mapping[str, str] | None = None) -> Measurement:
    """Run a stage of the pipeline in a folder, with further variables."""
    return measure([sys.executable, "-m", f"stages.{name}"], folder, env)


def workspace(folder: Path, values: Mapping[str, Any]) -> Path:
    """Copy the files of this repository that Git does not ignore to a folder, set parameters there, and return it."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S603
    for name in names:
        if name != "dvc.lock" and Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, folder / name)
    apply_overrides(folder / PARAMS, as_settings(values))
    measure(["git", "init", "--quiet"], folder)
    return folder


def split_workspace(folder: Path, values: Mapping[str, Any]) -> Path:
    """Return a workspace where split has run."""
    workspace(folder, values)
    for name in ("fetch", "extract", "split"):
        run_stage(name, folder)
    return folder


def keep(path: Path, dataset: str, result: dict[str, Any]) -> None:
    """Write one data set's result to a JSON file with the results of all."""
    write_json(path, (read_json(path) if path.exists() else {}) | {dataset: result})
