"""List the packages that decide the bytes of each group of stages: `make environment`, and `make lock` with --locked.

A list has what the group's stages import and, of what those packages need in turn, whatever has compiled code.
"""

import argparse
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from recommender.data.own.fetching import check_local
from recommender.environment import check_environment
from recommender.errors import UserError, run
from recommender.params_file import load_params
from recommender.paths import ENVIRONMENT, ENVIRONMENT_GROUPS
from recommender.storage import write_text

LOCK: Final = Path("requirements.lock")
MODELS: Final = Path("recommender/models")  # imported by name
COMPILED: Final = re.compile(r"\.(so|pyd|dylib)(\.|$)")


def main() -> None:
    """Write every list."""
    parser = argparse.ArgumentParser(prog="make environment", description=__doc__)
    parser.add_argument("--locked", action="store_true", help=f"versions of {LOCK} in place of those installed")
    parser.add_argument("--check", action="store_true", help="check params.yaml and what is installed; write nothing")
    arguments = parser.parse_args()
    if arguments.check:
        data = load_params().data  # which reports all mistakes at once, and before the first stage runs
        if data.dataset == "own":
            check_local(data.own)  # DVC does not know where they came from
        for group in ENVIRONMENT_GROUPS:
            check_environment(group)
        return
    locked = locked_versions(LOCK.read_text(encoding="utf-8")) if arguments.locked else None
    for group, stages in ENVIRONMENT_GROUPS.items():
        path = ENVIRONMENT / f"{group}.txt"
        packages = decisive(imported_packages(stages))
        versions = {name: found.version if locked is None else locked[name] for name, found in packages.items()}
        write_text(path, "".join(f"{name}=={versions[name]}\n" for name in sorted(versions)))
        print(f"{path}: {len(versions)} packages", file=sys.stderr)


def locked_versions(lock: str) -> dict[str, str]:
    """Return the versions in the text of a lock file, by normalized name; refuse two versions of one package."""
    found: dict[str, str] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE):
        if found.setdefault(canonicalize_name(name), version) != version:
            raise UserError(f"{LOCK}: has {name} in two versions, {found[canonicalize_name(name)]} and {version}")
    return found


def imported_packages(stages: tuple[str, ...]) -> set[str]:
    """Return the distributions that stages import, directly or through modules of this repository."""
    finder = ModuleFinder(["."])  # of what is imported, only this repository's modules are found there
    for path in (
        *(Path(f"stages/{stage}.py") for stage in stages),
        *(MODELS.rglob("*.py") if "train" in stages else ()),
    ):
        finder.run_script(str(path))
    installed = packages_distributions()
    elsewhere = {name.split(".")[0] for name in finder.badmodules}
    return {canonicalize_name(package) for name in elsewhere for package in installed.get(name, [])}


def decisive(packages: set[str]) -> dict[str, Distribution]:
    """Return these packages and, of all that they need, those with compiled code."""
    found: dict[str, Distribution] = {}
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # needed on other systems alone
            continue
        needed = [Requirement(text) for text in found[name].requires or []]
        needed = [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
        waiting += {canonicalize_name(each.name) for each in needed} - set(found)
    return {name: each for name, each in found.items() if name in packages or is_compiled(each)}


def is_compiled(package: Distribution) -> bool:
    """Return whether a package contains compiled code."""
    return any(COMPILED.search(file.name) for file in package.files or [])


if __name__ == "__main__":
    run(main)
