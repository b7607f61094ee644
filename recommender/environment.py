"""The packages whose versions decide the bytes of a stage: `environment/` lists them, and DVC tracks the lists."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recommender.errors import UserError
from recommender.paths import ENVIRONMENT


def check_environment(group: str, project: Path = Path()) -> None:
    """Refuse installed packages that differ from the versions listed for a group of stages, such as ``tables``."""
    path = ENVIRONMENT / f"{group}.txt"
    for line in (project / path).read_text(encoding="utf-8").splitlines():
        name, listed = line.split("==")
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
