"""Recommend items to every user, to one user, or to a new user who likes some items."""

import argparse
import json

import numpy as np

from recommender.data.sampling import Sample
from recommender.environment import check_environment
from recommender.errors import UserError, run
from recommender.parallel.recommending import recommend_in_parts
from recommender.params_file import load_params
from recommender.paths import RECOMMENDATIONS
from recommender.ranking.recommender import Recommender, as_text
from recommender.ranking.topk import check_k
from recommender.storage import write_table


def main() -> None:
    """Write the recommendations for every user or, with ``--user`` or ``--likes``, print those of one."""
    check_environment("tables")
    parser = argparse.ArgumentParser(prog="python -m stages.recommend", description=__doc__)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--user", metavar="ID", help="show this user and write nothing")
    who.add_argument("--likes", nargs="+", metavar="TITLE", help="show a new user who likes these, and write nothing")
    parser.add_argument("--k", type=int, help="number of items (default: recommend.k of params.yaml)")
    for name, metavar, what in (
        ("--category", "NAME", "list only items that have one of these categories"),
        ("--exclude", "TITLE_OR_ID", "leave these items out"),
    ):
        parser.add_argument(name, nargs="+", action="extend", default=[], metavar=metavar, help=what)
    parser.add_argument(
        "--from-year", metavar="YEAR", help="list only items whose titles end with this year or a later"
    )
    parser.add_argument("--explain", action="store_true", help="show which rated items are behind each recommendation")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    everybody = arguments.user is None and arguments.likes is None
    if everybody and vars(arguments) != vars(parser.parse_args([])):
        parser.error("these options show one user: give --user ID or --likes TITLE too")
    params = load_params()
    if everybody and params.engine.parts > 1:
        recommend_in_parts(params)
        return
    recommender = Recommender.read(params.train.learned_from)
    k = params.recommend.k if arguments.k is None else arguments.k
    if k < 1:
        raise UserError(f"--k: must be at least 1; found {k}")
    check_k("params.yaml: recommend.k" if arguments.k is None else "--k", k, len(recommender.items))
    if everybody:
        sample = Sample(params.recommend.user_share, params.split.seed)
        write_table(RECOMMENDATIONS, recommender.recommend_all(k, sample.has(np.arange(len(recommender.user_ids)))))
        return
    wanted = recommender.wanted_by_name(arguments.category, arguments.exclude, arguments.from_year)
    if arguments.likes is None:
        shown = recommender.show_user(arguments.user, k, wanted, explain=arguments.explain)
    else:
        liked = [recommender.find(title) for title in arguments.likes]
        shown = recommender.show_new_user(liked, k, wanted, explain=arguments.explain)
    print(json.dumps(shown, ensure_ascii=False, indent=2) if arguments.json else as_text(shown))


if __name__ == "__main__":
    run(main)
