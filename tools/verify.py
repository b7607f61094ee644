"""Run the committed pipeline from nothing, or compare two such runs of different machines: `make verify`.

The first compares the result with what is committed, byte for byte, and writes `reproduction.json`: what came out, and
on what machine. The second names the first output that differs and, given both caches, where in it.
"""

import argparse
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict
from threadpoolctl import threadpool_info

from recommender.errors import UserError, run
from recommender.paths import ENVIRONMENT, ENVIRONMENT_GROUPS, STAGES
from recommender.storage import atomic, checksum, write_json
from tools.console import call
from tools.differences import file_difference, flat

REPRODUCTION: Final = Path("reproduction.json")
LOCK: Final = Path("dvc.lock")


class Record(BaseModel):
    """A part of `reproduction.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Output(Record):
    """A file that a stage wrote; MD5 is its name in DVC's cache."""

    stage: str
    path: str
    md5: str
    sha256: str

    def within(self, cache: Path) -> Path:
        """Return where a DVC cache has the file."""
        return cache / "files" / "md5" / self.md5[:2] / self.md5[2:]


class Reproduction(Record):
    """What came out of a commit, in the order of the stages, and what it was made with."""

    commit: str
    as_committed: bool
    lock: str  # SHA-256 of dvc.lock
    outputs: list[Output]
    machine: dict[str, str | list[str]]
    versions: dict[str, str]
    began: str
    seconds: float


def main() -> None:
    """Reproduce HEAD, or compare two reproductions."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__)
    parser.add_argument("reproductions", nargs="*", type=Path, metavar="JSON", help="two files to compare; none: run")
    parser.add_argument(
        "--cache", action="append", default=[], type=Path, help="folder to keep the outputs in, or one for each file"
    )
    arguments = parser.parse_args()
    paths, caches = arguments.reproductions, arguments.cache
    if len(paths) == 2 and len(caches) in (0, 2):
        compare(paths, caches)
    elif not paths and len(caches) < 2:
        reproduce(*caches)
    else:
        parser.error("expected two files with no cache or one --cache for each, or no file and at most one --cache")


def reproduce(cache: Path | None = None) -> None:
    """Run HEAD in a temporary clone with an empty DVC cache; keep what comes out in `cache`, if it is given."""
    began, started = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        call("git", "clone", "--quiet", "--no-hardlinks", ".", str(clone))
        call("dvc", "repro", "--force", cwd=clone)
        status = _output("git", "status", "--porcelain", "--", "dvc.lock", "metrics", cwd=clone)
        made = yaml.safe_load((clone / LOCK).read_text(encoding="utf-8"))
        reproduction = Reproduction(
            commit=_output("git", "rev-parse", "HEAD", cwd=clone).strip(),
            as_committed=not status,
            lock=checksum(clone / LOCK),
            outputs=list(outputs(clone, made)),
            machine=machine(),
            versions=versions(),
            began=began,
            seconds=time.monotonic() - started,
        )
        write_json(REPRODUCTION, reproduction.model_dump())
        if cache:
            keep(reproduction, clone, cache)
        if status:
            committed = yaml.safe_load(_output("git", "show", f"HEAD:{LOCK}", cwd=clone))
            print(first_difference(committed, made))
            print(_output("git", "diff", "--unified=0", "--", "metrics", cwd=clone))
            changed = ", ".join(line[3:] for line in status.splitlines())
            raise UserError(
                f"the committed pipeline makes other bytes than are committed: {changed}; if that is intended, run "
                "`dvc repro` and commit dvc.lock and metrics/; if not, see docs/reproducibility.md"
            )
    print("reproduced: dvc.lock and metrics/ come out byte for byte as they are committed")


def outputs(folder: Path, lock: dict[str, Any]) -> Iterator[Output]:
    """Yield every file that the stages have written to a folder."""
    for stage in STAGES:
        for entry in lock["stages"][stage]["outs"]:
            path = folder / entry["path"]
            for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
                name = file.relative_to(folder).as_posix()
                yield Output(stage=stage, path=name, md5=checksum(file, algorithm="md5"), sha256=checksum(file))


def keep(reproduction: Reproduction, folder: Path, cache: Path) -> None:
    """Copy all outputs, those that DVC does not cache too, from where they were made to where a DVC cache has them."""
    for output in reproduction.outputs:
        with atomic(output.within(cache)) as temporary:
            shutil.copyfile(folder / output.path, temporary)


def machine() -> dict[str, str | list[str]]:
    """Return what of this machine might decide the bytes."""
    processors, simd = Path("/proc/cpuinfo"), np.show_config(mode="dicts")["SIMD Extensions"]
    names = processors.read_text(encoding="utf-8").splitlines() if processors.exists() else []
    return {
        "system": platform.platform(),
        "processor": next((line.partition(": ")[2] for line in names if line.startswith("model name")), "unknown"),
        "features": [*simd["baseline"], *simd["found"]],  # in the words of NumPy
        "blas": sorted({f"{each['internal_api']} {each.get('architecture', '')}" for each in threadpool_info()}),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, DVC and the packages that decide the bytes of the stages."""
    lists = (ENVIRONMENT / f"{group}.txt" for group in ENVIRONMENT_GROUPS)
    lines = [line for path in lists for line in path.read_text(encoding="utf-8").splitlines()]
    names = {"dvc", *(line.partition("==")[0] for line in lines)}
    return {"python": platform.python_version(), **{name: version(name) for name in sorted(names)}}


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


def compare(paths: Sequence[Path], caches: Sequence[Path]) -> None:
    """Print how the machines differ and which output does first; raise a `UserError` where one does."""
    both = [read(path) for path in paths]
    before, now = (dict(flat(each.model_dump(exclude={"outputs", "began", "seconds"}))) for each in both)
    for name in dict.fromkeys([*before, *now]):
        values = [each[name].tolist() if name in each else None for each in (before, now)]
        if values[0] != values[1]:
            print(f"{name}: {values[0]} and {values[1]}")
    ours, theirs = ({output.path: output for output in each.outputs} for each in both)
    every = dict.fromkeys([*ours, *theirs])
    changed = [path for path in every if ours.get(path) != theirs.get(path)]
    if not changed:
        return print(f"equal: {len(every)} outputs of all stages, byte for byte")
    first = changed[0]
    found = [each[first] for each in (ours, theirs) if first in each]
    where = ""
    if len(found) < 2:
        where = f": only in {paths[first in theirs]}"
    elif caches:
        old, new = (cached(output, cache) for output, cache in zip(found, caches, strict=True))
        where = f": {file_difference(old, new, Path(first).suffix)}"
    print(f"first difference: stage {found[0].stage}, output {first}{where}")
    raise UserError(
        f"{paths[0]} and {paths[1]} differ in {len(changed)} of {len(every)} outputs: {', '.join(changed)}; "
        "docs/reproducibility.md says what is promised"
    )


def read(path: Path) -> Reproduction:
    """Read what `reproduce` has written."""
    try:
        return Reproduction.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as what `make verify` writes: {error}") from None


def cached(output: Output, cache: Path) -> Path:
    """Return where a cache has an output, which must be what was recorded."""
    path = output.within(cache)
    if not path.is_file() or checksum(path) != output.sha256:
        state = "damaged" if path.is_file() else "not there"
        raise UserError(f"{cache}: {output.path}, in {path.relative_to(cache)}, is {state}; copy that cache again")
    return path


def _output(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell


if __name__ == "__main__":
    run(main)
