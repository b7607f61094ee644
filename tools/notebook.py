"""Reproduce the notebook's published table on ml-1m, show what its interaction does, and correct it.

Every row is an experiment of the pipeline that is thrown away afterwards: the workspace stays as it is.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from stages.lib.errors import UserError, run
from tools.results import show

# https://grouplens.org/datasets/movielens/1m/, K = 25, relevant from the 0.85 quantile, all 6,037 users with test rows.
PUBLISHED: Final = {"precision": 0.0362, "recall": 0.0927, "map": 0.0205}
SEEDS: Final = (7, 8, 9, 10, 11)
NOTEBOOK: Final = (
    "split.test_size=0.2",
    "split.seed=7",
    "train.embedding_size=10",
    "train.learning_rate=5.0e-4",
    "train.batch_size=128",
    "train.epochs=5",
    "train.l2=1.0e-6",
    "evaluate.k=25",
    "evaluate.relevance_quantile=0.85",
)


def main() -> None:
    """Run both interactions over five seeds and print one table."""
    parser = argparse.ArgumentParser(prog="make notebook", description=__doc__)
    parser.add_argument("--archive", help="a local ml-1m archive in place of GroupLens's")
    parser.add_argument("--sha256", help="its checksum; computed from the file where not given")
    arguments = parser.parse_args()
    data = data_settings(arguments.archive, arguments.sha256)
    runs = {
        (interaction, seed): experiment([*data, *NOTEBOOK, f"train.interaction={interaction}", f"train.seed={seed}"])
        for interaction in ("batch_sum", "dot")
        for seed in (SEEDS if interaction == "batch_sum" else SEEDS[:1])
    }
    reproduced, corrected = runs["batch_sum", SEEDS[0]], runs["dot", SEEDS[0]]
    rows = {
        "published": PUBLISHED,
        "reproduced (batch_sum)": reproduced["evaluate"],
        "corrected (dot)": corrected["evaluate"],
        **corrected["baselines"],
    }
    show("The notebook's table on ml-1m, seed 7", rows)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"\nThe published figures and batch_sum over the seeds {', '.join(map(str, SEEDS))}:")
    for name, published in PUBLISHED.items():
        values = [runs["batch_sum", seed]["evaluate"][name] for seed in SEEDS]
        where = "inside" if min(values) <= published <= max(values) else "outside"
        console.print(f"  {name:<9}  {published:.4f} is {where} {min(values):.4f} to {max(values):.4f}")


def data_settings(archive: str | None, sha256: str | None) -> list[str]:
    """Give the parameters that select ml-1m, from GroupLens or from a local archive.

    Args:
        archive: a path or address, or None for GroupLens's own.
        sha256: its checksum; for a local file it is computed where None.

    Returns:
        Settings for ``dvc exp run --set-param``.

    Raises:
        UserError: the local file cannot be read.
    """
    if archive is None:
        return ["data.dataset=ml-1m", "data.archive=null", "data.sha256=null"]
    if "://" not in archive:
        path = Path(archive).resolve()
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"ARCHIVE={archive}: cannot be read: {error.strerror}; give the path of an ml-1m.zip"
            ) from None
        archive = str(path)
        if sha256 is None:
            print(f"{path.name}: taking the file as it is, SHA-256 {found}", file=sys.stderr)
            sha256 = found
    return ["data.dataset=ml-1m", f"data.archive={json.dumps(archive)}", f"data.sha256={sha256 or 'null'}"]


def experiment(settings: list[str]) -> dict[str, Any]:
    """Run the pipeline with other parameters outside the workspace and forget the run.

    Args:
        settings: ``section.key=value`` each.

    Returns:
        The contents of ``metrics/evaluate.json`` and ``metrics/baselines.json``.

    Raises:
        UserError: a stage failed; its own message is on stderr.
    """
    name = f"throwaway-{uuid.uuid4().hex[:8]}"
    options = [argument for setting in settings for argument in ("--set-param", setting)]
    print(" ".join(settings[-2:]), file=sys.stderr)
    try:
        command = ["dvc", "exp", "run", "--temp", "--quiet", "--name", name, *options]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:  # noqa: S603 - no shell
            raise UserError("the experiment failed: see above")
        return {part: json.loads(_committed(name, f"metrics/{part}.json")) for part in ("evaluate", "baselines")}
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


if __name__ == "__main__":
    run(main)
