"""What the stages evaluate and baselines measure, all users at once; `recommender.parallel.measuring` cuts them."""

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.data.sampling import Sample
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.lists import Categories, ListMeasures
from recommender.evaluation.results import Results, Summed, measure
from recommender.params import Baselines as Settings
from recommender.params import Params
from recommender.paths import BASELINES_USERS, USER_METRICS
from recommender.ranking.baselines import ItemSums, ease_top_k, ease_weights, item_means, liked
from recommender.ranking.factors import Factors
from recommender.ranking.topk import check_k, top_k_of_all
from recommender.storage import write_table


def evaluate_at_once(params: Params) -> Summed:
    """Measure the trained factors; write the results by user and return them added up."""
    held_out = _held_out(params)
    factors = Factors.load()
    factors.check_shape(held_out.ratings.shape)
    measures = ListMeasures(held_out, Categories.read(), params.evaluate.k)
    model = params.train.model
    return _added({model: measure_factors(model, factors, measures)}, measures, USER_METRICS)[model]


def baselines_at_once(params: Params) -> dict[str, Summed]:
    """Measure every baseline; write the results by user and return those of each added up."""
    known, given = Interactions.read_learned(params.train.learned_from)
    held_out, settings = _held_out(params), params.baselines
    sums, weights = ItemSums.of(known), None
    if allows_ease(settings, known.num_items):
        weights = ease_weights(liked(known, settings.ease_min_rating), settings.ease_lambda)
    baselines = Baselines(sums.counts, item_means(sums, settings.item_mean_damping), weights)
    measures = ListMeasures(held_out, Categories.read(), params.evaluate.k)
    history = liked(known.joined(given), settings.ease_min_rating)
    return _added(baselines.measure(measures, history), measures, BASELINES_USERS)


def measure_factors(model: str, factors: Factors, measures: ListMeasures) -> Results:
    """Measure a trained model."""
    held_out = measures.held_out
    test = held_out.ratings
    predicted = factors.predict(test.users, test.items) if factors.predicts_ratings else None
    return measure(model, measures, held_out.lists(factors.top_k, measures.k), predicted)


@dataclass(frozen=True)
class Baselines:
    """What the baselines have learned."""

    counts: NDArray[np.int64]  # (num_items,) ratings of each item
    means: NDArray[np.float64]  # (num_items,) damped means of these
    weights: NDArray[np.float64] | None  # (num_items, num_items) of EASE, where it is not skipped

    def measure(self, measures: ListMeasures, history: sp.csr_array) -> dict[str, Results]:
        """Measure each by its name; `history` are users x items with 1 for the items that EASE lists by."""
        held_out, k = measures.held_out, measures.k
        same_for_all = {"popularity": self.counts.astype(np.float64), "item_mean": self.means}
        lists = {
            name: top_k_of_all(held_out.users, held_out.seen, k, scores, held_out.learned.candidates)
            for name, scores in same_for_all.items()
        }
        if self.weights is not None:
            lists["ease"] = held_out.lists(functools.partial(ease_top_k, history, self.weights), k)
        predicted = {"item_mean": self.means[held_out.ratings.items]}
        return {name: measure(name, measures, found, predicted.get(name)) for name, found in lists.items()}


def allows_ease(settings: Settings, num_items: int) -> bool:
    """Return whether a catalogue is small enough for EASE, and say so where it is not."""
    allowed = num_items <= settings.ease_max_items
    if not allowed:
        print(
            f"EASE is skipped: it inverts a {num_items} x {num_items} matrix, and baselines.ease_max_items "
            f"allows {settings.ease_max_items}",
            file=sys.stderr,
        )
    return allowed


def _held_out(params: Params) -> HeldOut:
    settings, sample = params.evaluate, Sample(params.evaluate.user_share, params.split.seed)
    held_out = HeldOut.read(settings.relevance_quantile, params.train.learned_from, sample)
    check_k("params.yaml: evaluate.k", settings.k, held_out.ratings.num_items)
    return held_out


def _added(results: Mapping[str, Results], measures: ListMeasures, path: Path) -> dict[str, Summed]:
    """Write the results of each model by user, and return them added up."""
    summed = {name: Summed(measures.k, measures.held_out.ratings.num_items) for name in results}
    for name, (totals, table) in results.items():
        summed[name].add(totals, table)
    write_table(path, pa.concat_tables(table for _, table in results.values()))
    return summed
