"""Scratch copies of the repository, and what a command takes there."""

import functools
import operator
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Measurement:
    """What one run of a command took.

    Attributes:
        seconds: from start to end, by the clock.
        memory: the most that the command or one of its children held at a time, in MiB.
        output: what it wrote to stdout.
    """

    seconds: float
    memory: float
    output: str


def measure(command: list[str], folder: Path) -> Measurement:
    """Run a command in a folder.

    Args:
        command: the program and its arguments.
        folder: to run it in.

    Returns:
        What it took. Linux counts this process, which the command began as a copy of, in the command's peak of memory.

    Raises:
        RuntimeError: it failed; with what it wrote to stderr.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=errors)  # noqa: S603 - no shell
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read()}")
        return Measurement(seconds, usage.ru_maxrss / 1024, output.read())


def workspace(folder: Path, values: Mapping[str, Any]) -> Path:
    """Make a repository with the files of this one that Git knows, set to other parameters.

    Args:
        folder: to make.
        values: parameters by ``section.key``.

    Returns:
        The folder.
    """
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\n")  # noqa: S603 - no shell
    for name in names:
        if name and name != "dvc.lock" and Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, folder / name)
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, value in values.items():
        *sections, key = name.split(".")
        functools.reduce(operator.getitem, sections, params)[key] = value
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    measure(["git", "init", "--quiet"], folder)
    return folder
