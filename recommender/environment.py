"""The packages whose versions decide the bytes of a stage: `environment/` lists them, and DVC tracks the lists."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from recommender.errors import UserError
from recommender.paths import ENVIRONMENT

LINE: Final = re.compile(r"([\w.-]+)==(\S+)")


def check_environment(group: str) -> None:
    """Refuse installed packages that differ from the versions listed for a group of stages, such as ``tables``."""
    path = ENVIRONMENT / f"{group}.txt"
    for name, listed in read_versions(path).items():
        try:
            installed = version(name)
            found = f"{name} {installed} is installed"
        except PackageNotFoundError:
            installed, found = None, f"{name} is not installed"
        if installed != listed:
            raise UserError(
                f"{path}: lists {name} {listed}, but {found}, which would give other results: reinstall the locked "
                "packages (`pip install -r requirements.lock`), or run `make environment` to track what is installed"
            )


def read_versions(path: Path) -> dict[str, str]:
    """Read a list of ``name==version`` lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; run `git checkout environment`") from None
    found = [LINE.fullmatch(line) for line in lines]
    if not lines or None in found:
        raise UserError(f"{path}: must consist of lines `name==version`; run `git checkout environment`")
    return {match[1]: match[2] for match in found if match}
