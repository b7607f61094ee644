"""Experiments: runs of the pipeline with other parameters."""

import argparse
import json
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dvc.api

from recommender.data.movielens import RELEASES
from recommender.storage import checksum
from tools.console import call


def source_parser(
    program: str, description: str | None, datasets: Sequence[str] = (*RELEASES, "own")
) -> argparse.ArgumentParser:
    """Return a parser with the options that `data_source` takes; the first data set is the default."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--dataset", choices=sorted(datasets), default=datasets[0])
    parser.add_argument("--archive", help="a path or address in place of the release's own")
    parser.add_argument("--sha256", help="its checksum; computed from a file where not given")
    return parser


def data_source(dataset: str, archive: str | None, sha256: str | None) -> dict[str, Any]:
    """Return the parameters that select a data set, from its release's own address or from a copy.

    `archive` is the copy's path or address. The checksum of a path is computed where `sha256` is None.
    """
    if dataset == "own":
        return {"data.dataset": dataset}  # data.own says the rest
    if archive is not None and "://" not in archive:
        archive = str(Path(archive).resolve())
        if sha256 is None:
            sha256 = checksum(Path(archive), f"an archive of {dataset}")
            print(f"{Path(archive).name}: is used as it is, SHA-256 {sha256}", file=sys.stderr)
    return {"data.dataset": dataset, "data.archive": archive, "data.sha256": sha256}


def as_settings(values: Mapping[str, Any]) -> list[str]:
    """Return parameters in the form that ``dvc exp run --set-param`` takes."""
    return [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]


def throwaway(settings: list[str], outputs: tuple[str, ...], *stages: str) -> list[dict[str, Any]]:
    """Run the pipeline with other parameters outside the workspace, remove the experiment, and return its metrics.

    `settings` are ``section.key=value`` each, `outputs` the JSON files to return, `stages` all where none is given.
    """
    name = f"throwaway-{uuid.uuid4().hex[:8]}"
    options = [part for setting in settings for part in ("--set-param", setting)]
    try:
        call("dvc", "exp", "run", "--temp", "--quiet", "--name", name, *options, *stages)
        return [json.loads(dvc.api.read(path, rev=name)) for path in outputs]
    finally:
        subprocess.run(["dvc", "exp", "remove", "--quiet", name], capture_output=True, check=False)  # noqa: S603, S607
