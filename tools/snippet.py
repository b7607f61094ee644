"""Run a Python snippet of a page, where nothing of this repository can be imported.

python -m tools.snippet PAGE [NUMBER]
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
    parser.add_argument("number", type=int, nargs="?", default=1, help="of the snippet on the page (default: 1)")
    arguments = parser.parse_args()
    print(output(arguments.page, Path(), arguments.number), end="")


def output(page: Path, folder: Path, number: int = 1) -> str:
    """Return what a snippet of a page prints in a folder."""
    found = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if not 1 <= number <= len(found):
        raise UserError(f"{page}: has {len(found)} Python snippets, not {number}; give the number of one of them")
    command = [sys.executable, "-I", "-c", found[number - 1]]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if result.returncode:
        raise UserError(f"{page}: its snippet failed: {result.stderr}")
    return result.stdout


if __name__ == "__main__":
    run(main)
