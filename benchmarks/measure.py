"""Scratch copies of the repository, and what commands take there."""

import argparse
import functools
import operator
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

import yaml

from recommender.data.movielens import RELEASES
from recommender.storage import read_json, write_json


def source_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that select a data set; `data_source` takes their values."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--dataset", choices=sorted(RELEASES), default="ml-100k")
    parser.add_argument("--archive", help="a path or address in place of the release's own")
    parser.add_argument("--sha256", help="its checksum; computed from a file where not given")
    return parser


@dataclass(frozen=True)
class Measurement:
    """What one run of a command took: wall time, the peak of it or of one of its children in MiB, and its stdout."""

    seconds: float
    memory: float
    output: str


def measure(command: list[str], folder: Path) -> Measurement:
    """Run a command in a folder. Linux counts this process, of which the command starts as a copy, in its peak.

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


def run_stage(name: str, folder: Path) -> Measurement:
    """Run a stage of the pipeline in a folder."""
    return measure([sys.executable, "-m", f"stages.{name}"], folder)


def workspace(folder: Path, values: Mapping[str, Any]) -> Path:
    """Copy the files of this repository that Git does not ignore to a folder, set parameters there, and return it."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S603
    for name in names:
        if name != "dvc.lock" and Path(name).is_file():
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


def split_workspace(folder: Path, values: Mapping[str, Any]) -> Path:
    """Return a workspace where split has run."""
    workspace(folder, values)
    for name in ("fetch", "extract", "split"):
        run_stage(name, folder)
    return folder


def keep(path: Path, dataset: str, result: dict[str, Any]) -> None:
    """Write one data set's result to a JSON file with the results of all."""
    write_json(path, (read_json(path) if path.exists() else {}) | {dataset: result})
