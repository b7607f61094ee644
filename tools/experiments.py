"""Runs of the pipeline with other parameters, through `dvc exp run`."""

import hashlib
import json
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError


def data_source(dataset: str, archive: str | None, sha256: str | None) -> dict[str, str | None]:
    """Give the parameters that select a data set, from its release's own address or from a copy.

    Args:
        dataset: the release.
        archive: a path or address, or None for the release's own.
        sha256: its checksum; for a local file it is computed where None.

    Returns:
        Values for ``data.dataset``, ``data.archive`` and ``data.sha256``.

    Raises:
        UserError: the local file cannot be read.
    """
    if archive is not None and "://" not in archive:
        path = Path(archive).resolve()
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"ARCHIVE={archive}: cannot be read: {error.strerror}; give the path of an archive of {dataset}"
            ) from None
        archive = str(path)
        if sha256 is None:
            print(f"{path.name}: taking the file as it is, SHA-256 {found}", file=sys.stderr)
            sha256 = found
    return {"data.dataset": dataset, "data.archive": archive, "data.sha256": sha256}


def as_settings(values: Mapping[str, Any]) -> list[str]:
    """Write parameters as ``dvc exp run --set-param`` takes them."""
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def throwaway(settings: list[str], outputs: tuple[str, ...], *stages: str) -> list[dict[str, Any]]:
    """Run the pipeline with other parameters outside the workspace and forget the run.

    Args:
        settings: ``section.key=value`` each.
        outputs: JSON files to read.
        stages: to run with what they need; all where none is named.

    Returns:
        The contents of those files.

    Raises:
        UserError: a stage failed; its own message is on stderr.
    """
    name = f"throwaway-{uuid.uuid4().hex[:8]}"
    options = [argument for setting in settings for argument in ("--set-param", setting)]
    try:
        command = ["dvc", "exp", "run", "--temp", "--quiet", "--name", name, *options, *stages]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:  # noqa: S603 - no shell
            raise UserError("the experiment failed: see above")
        return [json.loads(_committed(name, path)) for path in outputs]
    finally:
        subprocess.run(["dvc", "exp", "remove", "--quiet", name], capture_output=True, check=False)  # noqa: S603, S607


def _committed(revision: str, path: str) -> str:
    reference = subprocess.run(  # noqa: S603 - no shell
        ["git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{revision}"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    command = ["git", "show", f"{reference}:{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - no shell
