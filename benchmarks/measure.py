"""Run a command and measure what it takes."""

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


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
        What it took.

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
