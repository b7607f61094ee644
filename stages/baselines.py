"""Measure the models that any model must beat: popularity, the damped item mean, and EASE."""

import functools
import sys
from typing import Any

import numpy as np

from recommender.data.interactions import Interactions
from recommender.environment import check_environment
from recommender.errors import run
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.metrics import at_k, rating_errors, summary
from recommender.params_file import load_params
from recommender.paths import BASELINES, BASELINES_AT_K
from recommender.ranking.baselines import ease_top_k, ease_weights, item_means, liked
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
    known, given = Interactions.read_learned(params.train.learned_from)
    held_out = HeldOut.read(params.evaluate.relevance_quantile, params.train.learned_from)
    check_k("params.yaml: evaluate.k", k, known.num_items)
    means = item_means(known, settings.item_mean_damping)
    same_for_all = {"popularity": known.item_counts().astype(np.float64), "item_mean": means}
    lists = {
        name: top_k_of_all(held_out.users, held_out.seen, k, scores, held_out.learned.candidates)
        for name, scores in same_for_all.items()
    }
    if known.num_items <= settings.ease_max_items:
        interactions = liked(known, settings.ease_min_rating)
        weights = ease_weights(interactions, settings.ease_lambda)
        history = liked(known.joined(given), settings.ease_min_rating)
        lists["ease"] = held_out.lists(functools.partial(ease_top_k, history, weights), k)
    else:
        print(
            f"EASE is skipped: it inverts a {known.num_items} x {known.num_items} matrix, and baselines.ease_max_items "
            f"allows {settings.ease_max_items}",
            file=sys.stderr,
        )

    def measured(name: str, part: HeldOut) -> dict[str, Any]:
        test, own = part.ratings, lists[name][np.isin(held_out.users, part.users)]
        errors = rating_errors(means[test.items], test.ratings) if name == "item_mean" else {}
        return summary(part.measure(own), errors) | part.known_users(functools.partial(measured, name))

    write_json(BASELINES, {name: measured(name, held_out) for name in lists})
    curves = {name: at_k(held_out.measure(found)) for name, found in lists.items()}
    columns = {f"{name}_{key}": curve[key] for name, curve in curves.items() for key in curve if key != "k"}
    write_csv(BASELINES_AT_K, {"k": curves["popularity"]["k"], **columns})


if __name__ == "__main__":
    run(main)
