"""Measure the models that any model must beat: popularity, the damped item mean, and EASE."""

import sys

import numpy as np

from recommender.data.interactions import Interactions
from recommender.environment import check_environment
from recommender.errors import run
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.metrics import at_k, rating_errors, summary
from recommender.params_file import load_params
from recommender.paths import BASELINES, BASELINES_AT_K, PARTS
from recommender.ranking.baselines import ease_lists, ease_weights, item_means, liked
from recommender.ranking.topk import check_k, top_k_of_all
from recommender.storage import write_csv, write_json


def main() -> None:
    """Measure every baseline as ``params.yaml`` says; they learn from the same ratings as the model."""
    check_environment("tables")
    params = load_params()
    if params.train.final_fit == "all":
        write_json(BASELINES, {})
        write_csv(BASELINES_AT_K, {"k": np.empty(0)})
        return
    k, settings = params.evaluate.k, params.baselines
    known = Interactions.read(*(PARTS[name] for name in params.train.learned_from))
    held_out = HeldOut.read(params.evaluate.relevance_quantile)
    users, seen, test = held_out.users, held_out.seen, held_out.ratings
    check_k("params.yaml: evaluate.k", k, test.num_items)
    means = item_means(known, settings.item_mean_damping)
    lists = {
        "popularity": top_k_of_all(users, seen, k, known.item_counts()),
        "item_mean": top_k_of_all(users, seen, k, means),
    }
    if known.num_items <= settings.ease_max_items:
        interactions = liked(known, settings.ease_min_rating)
        lists["ease"] = ease_lists(interactions, ease_weights(interactions, settings.ease_lambda), users, seen, k)
    else:
        print(
            f"EASE is skipped: it inverts a {known.num_items} x {known.num_items} matrix, and baselines.ease_max_items "
            f"allows {settings.ease_max_items}",
            file=sys.stderr,
        )
    rankings = {name: held_out.measure(found) for name, found in lists.items()}
    errors = {"item_mean": rating_errors(means[test.items], test.ratings)}
    write_json(BASELINES, {name: summary(ranking, errors.get(name, {})) for name, ranking in rankings.items()})
    curves = {name: at_k(ranking) for name, ranking in rankings.items()}
    columns = {f"{name}_{key}": curve[key] for name, curve in curves.items() for key in curve if key != "k"}
    write_csv(BASELINES_AT_K, {"k": curves["popularity"]["k"], **columns})


if __name__ == "__main__":
    run(main)
