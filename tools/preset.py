"""Run the pipeline with the parameters that were chosen for a purpose: python -m tools.preset ranking | rating.

The data set is ml-1m with an archive, else ml-100k, where none is given.
"""

import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from recommender.errors import UserError, run
from tools import results
from tools.experiments import as_settings, data_source, source_parser

PRESETS: Final = Path("presets.yaml")
PURPOSES: Final = ("ranking", "rating")
# Whose parameters a data set has before it is tuned.
STARTS: Final = {"ml-100k-zip": "ml-100k", **dict.fromkeys(("ml-10m", "ml-20m", "ml-25m", "ml-32m", "own"), "ml-1m")}


def main() -> None:
    """Print the `dvc exp run` line of a preset, run it, and show the results."""
    parser = source_parser("make ranking|rating", __doc__)
    parser.add_argument("purpose", choices=PURPOSES)
    parser.set_defaults(dataset=None)
    arguments = parser.parse_args()
    dataset = arguments.dataset or ("ml-1m" if arguments.archive else "ml-100k")
    chosen = presets(dataset).get(arguments.purpose)
    if chosen is None:
        raise UserError(f"{PRESETS}: has no {arguments.purpose} for {dataset}; `make tune` finds one")
    settings = as_settings(data_source(dataset, arguments.archive, arguments.sha256) | chosen)
    command = ["dvc", "exp", "run", *(part for setting in settings for part in ("-S", setting))]
    print(shlex.join(command), flush=True)
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - no shell
        raise UserError("the pipeline failed: see above; `git checkout . && dvc checkout` undoes the changes")
    results.main()


def presets(dataset: str) -> dict[str, dict[str, Any]]:
    """Return the parameters that were chosen on a data set, by purpose or by peer of the benchmarks.

    Before it is tuned, a data set of `STARTS` has those of another.
    """
    every = read_presets().items()
    start = STARTS.get(dataset)
    untuned = {name: chosen[start] for name, chosen in every if start in chosen}
    return untuned | {name: chosen[dataset] for name, chosen in every if dataset in chosen}


def read_presets() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the chosen parameters by purpose or peer and by data set."""
    found: dict[str, Any] = yaml.safe_load(PRESETS.read_text(encoding="utf-8")) if PRESETS.exists() else {}
    return found


if __name__ == "__main__":
    run(main)
