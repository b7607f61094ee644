"""Measure the models that any model must beat: popularity, the damped item mean, and EASE."""

import functools
import sys

import numpy as np
import pyarrow as pa

from recommender.data.interactions import Interactions
from recommender.environment import check_environment
from recommender.errors import run
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.lists import Categories, ListMeasures
from recommender.evaluation.results import measure, no_users
from recommender.params_file import load_params
from recommender.paths import BASELINES, BASELINES_AT_K, BASELINES_USERS
from recommender.ranking.baselines import ease_top_k, ease_weights, item_means, liked
from recommender.ranking.topk import check_k, top_k_of_all
from recommender.storage import write_csv, write_json, write_table


def main() -> None:
    """Measure every baseline as ``params.yaml`` says; they learn from the same ratings as the model."""
    check_environment("tables")
    params = load_params()
    k, settings = params.evaluate.k, params.baselines
    if params.train.final_fit == "all":
        write_json(BASELINES, {})
        write_csv(BASELINES_AT_K, {"k": np.empty(0)})
        write_table(BASELINES_USERS, no_users(k))
        return
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

    predicted = {"item_mean": means[held_out.ratings.items]}
    measures = ListMeasures(held_out, Categories.read(), k)
    results = {name: measure(name, measures, found, predicted.get(name)) for name, found in lists.items()}
    write_json(BASELINES, {name: metrics for name, (metrics, _, _) in results.items()})
    columns = {f"{name}_{key}": curve for name, (_, curves, _) in results.items() for key, curve in curves.items()}
    write_csv(BASELINES_AT_K, {"k": np.arange(1, k + 1), **columns})
    write_table(BASELINES_USERS, pa.concat_tables(table for _, _, table in results.values()))


if __name__ == "__main__":
    run(main)
