"""Compare the mutants that no test noticed with those that tests/README.md explains: `make mutants`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

README: Final = Path(__file__).with_name("README.md")
MOST: Final = 0.05  # of all mutants may survive


def mutmut(*arguments: str) -> str:
    """Run mutmut and return what it prints."""
    return subprocess.run(["mutmut", *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Print the mutants that README does not explain, and exit with status 1 if there are any, or too many in all."""
    alive = [line.split(": ")[0].strip() for line in mutmut("results").splitlines() if not line.endswith(": timeout")]
    explained = README.read_text(encoding="utf-8")
    unexplained = 0
    for name in alive:
        shown = mutmut("show", name)
        added = [line[1:].strip() for line in shown.splitlines() if line.startswith("+") and line[:3] != "+++"]
        if not added or any(f"`{line}`" not in explained for line in added):
            unexplained += 1
            print(shown)
    mutmut("export-cicd-stats")
    total = json.loads(Path("mutants/mutmut-cicd-stats.json").read_text(encoding="utf-8"))["total"]
    print(f"{len(alive)} of {total} mutants were not noticed ({len(alive) / total:.1%}); {unexplained} are unexplained")
    sys.exit(unexplained > 0 or len(alive) > MOST * total)


if __name__ == "__main__":
    main()
