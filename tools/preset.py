"""Run the pipeline with the parameters that were chosen for a purpose: python -m tools.preset ranking | rating."""

import argparse
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from recommender.data.movielens import RELEASES
from recommender.errors import UserError, run
from tools import results
from tools.experiments import as_settings, data_source

PRESETS: Final = Path("presets.yaml")
PURPOSES: Final = ("ranking", "rating")


def main() -> None:
    """Print the `dvc exp run` line of a preset, run it, and show the results."""
    parser = argparse.ArgumentParser(prog="make ranking|rating", description=__doc__)
    parser.add_argument("purpose", choices=PURPOSES)
    parser.add_argument("--dataset", choices=sorted(RELEASES), help="ml-1m with an archive, else ml-100k")
    parser.add_argument("--archive", help="a path or address in place of the release's own")
    parser.add_argument("--sha256", help="its checksum; computed from a file where not given")
    arguments = parser.parse_args()
    dataset = arguments.dataset or ("ml-1m" if arguments.archive else "ml-100k")
    source = data_source(dataset, arguments.archive, arguments.sha256)
    settings = as_settings(source | preset(arguments.purpose, dataset))
    command = ["dvc", "exp", "run", *(part for setting in settings for part in ("-S", setting))]
    print(shlex.join(command), flush=True)
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - no shell
        raise UserError("the pipeline failed: see above; `git checkout . && dvc checkout` undoes the changes")
    results.main()


def preset(name: str, dataset: str) -> dict[str, Any]:
    """Return the parameters that were chosen for a purpose, or for a peer of the benchmarks, on a data set."""
    try:
        chosen: dict[str, Any] = yaml.safe_load(PRESETS.read_text(encoding="utf-8"))[name][dataset]
    except (OSError, KeyError, TypeError):
        raise UserError(f"{PRESETS}: has no {name} for {dataset}; `make tune` finds one") from None
    return chosen


if __name__ == "__main__":
    run(main)
