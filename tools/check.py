"""Run the committed pipeline from nothing and compare the result with what is committed, byte for byte."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from recommender.errors import UserError, run
from recommender.paths import STAGES
from tools.console import call


def main() -> None:
    """Check HEAD in a temporary clone with an empty DVC cache."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        call("git", "clone", "--quiet", "--no-hardlinks", ".", str(clone))
        call("dvc", "repro", "--force", cwd=clone)
        status = _output("git", "status", "--porcelain", "--", "dvc.lock", "metrics", cwd=clone)
        if status:
            committed = yaml.safe_load(_output("git", "show", "HEAD:dvc.lock", cwd=clone))
            print(first_difference(committed, yaml.safe_load((clone / "dvc.lock").read_text(encoding="utf-8"))))
            print(_output("git", "diff", "--unified=0", "--", "metrics", cwd=clone))
            changed = ", ".join(line[3:] for line in status.splitlines())
            raise UserError(
                f"the committed pipeline makes other bytes than are committed: {changed}; if that is intended, run "
                "`dvc repro` and commit dvc.lock and metrics/; if not, see docs/reproducibility.md"
            )
    print("reproduced: dvc.lock and metrics/ come out byte for byte as they are committed")


def first_difference(committed: dict[str, Any], made: dict[str, Any]) -> str:
    """Return the first stage, and its first output or dependency, that differs between two versions of ``dvc.lock``."""
    for stage in STAGES:
        before, now = (lock["stages"].get(stage, {}) for lock in (committed, made))
        for part, title in (("outs", "output"), ("deps", "dependency")):
            for file in now.get(part, []):
                if file not in before.get(part, []):
                    return f"first difference: stage {stage}, {title} {file['path']}"
        if before != now:
            return f"first difference: stage {stage}, its command or parameters"
    return "dvc.lock has the same stages"


def _output(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell


if __name__ == "__main__":
    run(main)
