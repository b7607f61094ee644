"""Run the committed pipeline from nothing and compare what comes out with what is committed, byte for byte."""

import difflib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from stages.lib.errors import UserError, run


def main() -> None:
    """Check HEAD in a scratch clone with an empty DVC cache."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        _run("git", "clone", "--quiet", "--no-hardlinks", ".", str(clone))
        _run("dvc", "repro", "--force", cwd=clone)
        changed = _output("git", "status", "--porcelain", "--", "dvc.lock", "metrics", cwd=clone).split("\n")
        changed = [line[3:] for line in changed if line]
        if changed:
            committed, made = (
                yaml.safe_load(text)
                for text in (_output("git", "show", "HEAD:dvc.lock", cwd=clone), (clone / "dvc.lock").read_text())
            )
            print(first_difference(committed, made))
            for name in changed:
                if name.startswith("metrics/"):
                    print(_output("git", "diff", "--unified=0", "--", name, cwd=clone) or f"{name} is not committed")
            raise UserError(
                f"the committed pipeline makes other bytes than are committed: {', '.join(changed)}; if the change is "
                "meant, run `dvc repro` and commit dvc.lock and metrics/; if not, see Reproducibility in README.md"
            )
    print("reproduced: dvc.lock and metrics/ come out byte for byte as they are committed")


def first_difference(committed: dict[str, Any], made: dict[str, Any]) -> str:
    """Say where two contents of ``dvc.lock`` first part, in the order in which the stages run.

    Args:
        committed: the file in HEAD.
        made: the file after the run.

    Returns:
        One line that names the stage and its first differing output, or else its first differing command, dependency
        or parameter.
    """
    for stage, entry in made["stages"].items():
        before = committed["stages"].get(stage)
        if before is None:
            return f"first difference: stage {stage} is not in the committed dvc.lock"
        if before == entry:
            continue
        for part, title in (("outs", "output"), ("deps", "dependency")):
            hashes = {item["path"]: item for item in before.get(part, [])}
            for item in entry.get(part, []):
                if hashes.get(item["path"]) != item:
                    return f"first difference: stage {stage}, {title} {item['path']}"
        lines = difflib.ndiff(yaml.safe_dump(before).splitlines(), yaml.safe_dump(entry).splitlines())
        return f"first difference: stage {stage}: " + "; ".join(line for line in lines if line[0] in "+-")
    return "dvc.lock holds the same stages"


def _run(*command: str, cwd: Path | None = None) -> None:
    if subprocess.run(command, cwd=cwd, stdout=sys.stderr, check=False).returncode:  # noqa: S603 - no shell
        raise UserError(f"`{' '.join(command)}` failed: see above")


def _output(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell


if __name__ == "__main__":
    run(main)
