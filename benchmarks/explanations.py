"""Explain the recommendations of five users to somebody who looks at them, and write metrics/explanations.json.

The users are drawn by a fixed seed, before anybody has looked; the model is the one tuned to rank.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.measure import keep, run_stage, split_workspace, workspace
from recommender.errors import run
from recommender.ranking.recommender import Recommender
from tools.console import show_markdown
from tools.docs import TABLES
from tools.experiments import data_source, source_parser
from tools.preset import presets

OUTPUT: Final = Path("metrics/explanations.json")
PEOPLE, SHOWN, BEHIND, SEED = 5, 3, 3, 7  # users, recommendations of each, rated items behind each
Values = dict[str, Any]


def main() -> None:
    """Explain on one data set and print the table."""
    arguments = source_parser("make explanations", __doc__).parse_args()
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    with tempfile.TemporaryDirectory() as folder:
        place = split_workspace(Path(folder), source)
        workspace(place, source | presets(arguments.dataset)["ranking"])
        run_stage("train", place)
        with contextlib.chdir(place):
            people = explained(Recommender.read())
    keep(OUTPUT, arguments.dataset, {"people": people})
    show_markdown(TABLES["explanations"](arguments.dataset))


def explained(recommender: Recommender) -> list[Values]:
    """Return the first recommendations of some users, and the rated items that add most to the score of each."""
    drawn = np.random.default_rng(SEED).choice(len(recommender.user_ids), PEOPLE, replace=False)
    people = []
    for user in sorted(drawn.tolist()):
        shown = recommender.show_user(str(recommender.user_ids[user]), SHOWN, explain=True)
        for item in shown["recommendations"]:
            item["rated"] = len(item["why"]["rated"])
            item["why"]["rated"] = item["why"]["rated"][:BEHIND]
        people.append({key: shown[key] for key in ("user_id", "favourites", "recommendations")})
    return people


if __name__ == "__main__":
    run(main)
