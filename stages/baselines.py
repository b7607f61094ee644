"""Measure the models that any model must beat: popularity, the damped item mean, and EASE."""

import sys

from recommender.data.interactions import Interactions
from recommender.environment import check_environment
from recommender.errors import run
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.metrics import at_k, rating_errors, summary
from recommender.params_file import load_params
from recommender.paths import BASELINES, BASELINES_AT_K, TEST, TRAIN, VALIDATION
from recommender.ranking.baselines import ease_lists, ease_weights, item_means, liked
from recommender.ranking.topk import check_k, top_k_of_all
from recommender.storage import write_csv, write_json


def main() -> None:
    """Measure every baseline as ``params.yaml`` says."""
    check_environment("tables")
    params = load_params()
    k, settings = params.evaluate.k, params.baselines
    test, train = Interactions.read(TEST), Interactions.read(TRAIN, VALIDATION)
    held_out = HeldOut.of(test, train, params.evaluate.relevance_quantile)
    users, seen = held_out.users, held_out.seen
    check_k("params.yaml: evaluate.k", k, test.num_items)
    means = item_means(train, settings.item_mean_damping)
    lists = {
        "popularity": top_k_of_all(users, seen, k, train.item_counts()),
        "item_mean": top_k_of_all(users, seen, k, means),
    }
    if train.num_items <= settings.ease_max_items:
        interactions = liked(train, settings.ease_min_rating)
        lists["ease"] = ease_lists(interactions, ease_weights(interactions, settings.ease_lambda), users, seen, k)
    else:
        print(
            f"EASE is skipped: it inverts a {train.num_items} x {train.num_items} matrix, and baselines.ease_max_items "
            f"allows {settings.ease_max_items}",
            file=sys.stderr,
        )
    rankings = {name: held_out.measure(found) for name, found in lists.items()}
    errors = {"item_mean": rating_errors(means[test.items], test.ratings)}
    write_json(BASELINES, {name: summary(ranking, errors.get(name)) for name, ranking in rankings.items()})
    curves = {name: at_k(ranking) for name, ranking in rankings.items()}
    columns = {f"{name}_{key}": curve[key] for name, curve in curves.items() for key in curve if key != "k"}
    write_csv(BASELINES_AT_K, {"k": curves["popularity"]["k"], **columns})


if __name__ == "__main__":
    run(main)
