"""List the packages that decide the bytes of each group of stages: `make environment`.

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
from recommender.errors import run
from recommender.params_file import load_params
from recommender.paths import ENVIRONMENT, ENVIRONMENT_GROUPS
from recommender.storage import write_text

MODELS: Final = Path("recommender/models")  # imported by name
ELSEWHERE: Final = {"dask", "distributed"}  # decide where work is done and not what comes out
COMPILED: Final = re.compile(r"\.(so|pyd|dylib)(\.|$)")


def main() -> None:
    """Write every list."""
    parser = argparse.ArgumentParser(prog="make environment", description=__doc__)
    parser.add_argument("--check", action="store_true", help="check params.yaml and what is installed; write nothing")
    if parser.parse_args().check:
        data = load_params().data  # which reports all mistakes at once, and before the first stage runs
        if data.dataset == "own":
            check_local(data.own)  # DVC does not know where they came from
        for group in ENVIRONMENT_GROUPS:
            check_environment(group)
        return
    for group, stages in ENVIRONMENT_GROUPS.items():
        path = ENVIRONMENT / f"{group}.txt"
        packages = sorted(decisive(imported_packages(stages)).items())
        write_text(path, "".join(f"{name}=={package.version}\n" for name, package in packages))
        print(f"{path}: {len(packages)} packages", file=sys.stderr)


def imported_packages(stages: tuple[str, ...]) -> set[str]:
    """Return the distributions that stages import, directly or through modules of this repository."""
    finder = ModuleFinder(["."])  # of what is imported, only this repository's modules are found there
    for path in (
        *(Path(f"stages/{stage}.py") for stage in stages),
        *(MODELS.rglob("*.py") if "train" in stages else ()),
    ):
        finder.run_script(str(path))
    installed = packages_distributions()
    others = {name.split(".")[0] for name in finder.badmodules} - ELSEWHERE
    return {canonicalize_name(package) for name in others for package in installed.get(name, [])}


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
        for needed in map(Requirement, found[name].requires or []):
            if (package := canonicalize_name(needed.name)) not in found:
                waiting += [package] if not needed.marker or needed.marker.evaluate({"extra": ""}) else []
    compiled = {name for name in found if any(COMPILED.search(file.name) for file in found[name].files or [])}
    return {name: found[name] for name in packages | compiled if name in found}


if __name__ == "__main__":
    run(main)
