"""Run the first Python snippet of a page, where nothing of this repository can be imported.

python -m tools.snippet PAGE
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from recommender.errors import UserError, run


def main() -> None:
    """Print what the snippet prints."""
    parser = argparse.ArgumentParser(prog="python -m tools.snippet", description=__doc__)
    parser.add_argument("page", type=Path)
    print(output(parser.parse_args().page, Path()), end="")


def output(page: Path, folder: Path) -> str:
    """Return what the first snippet of a page prints in a folder."""
    found = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise UserError(f"{page}: has no Python snippet; give a page that has one")
    command = [sys.executable, "-I", "-c", found[1]]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if result.returncode:
        raise UserError(f"{page}: its snippet failed: {result.stderr}")
    return result.stdout


if __name__ == "__main__":
    run(main)
