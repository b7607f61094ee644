"""The page: what it is made from, and its tables and charts in the template."""

import math
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recommender import paths
from recommender.data.interactions import Interactions
from recommender.data.sampling import Sample
from recommender.errors import one_line
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.lists import JUDGED, LISTS, Categories
from recommender.evaluation.metrics import COLUMNS, CURVES, LOWER_IS_BETTER
from recommender.evaluation.results import UserResults
from recommender.evaluation.statistics import Statistics, as_text
from recommender.params import Params, Section, TrainedSection
from recommender.params_file import data_name, flatten
from recommender.ranking.factors import SIMILAR_MIN_RATINGS, Factors, similar_items
from recommender.ranking.topk import stored_entries
from recommender.report import charts
from recommender.report import lists as list_charts
from recommender.report.drawing import Chart, style
from recommender.storage import read_csv, read_json, read_row_groups, read_table, row_group_sizes

THIS: Final = "this model"
NAMES: Final = {"item_mean": "the item mean", "ease": "EASE"}  # of baselines in a sentence
TEMPLATE: Final = Path(__file__).with_name("page.html")
MOST_RATINGS: Final = 20_000_000  # about, that the page is drawn from
SEED: Final = 7  # of the users shown
USERS_SHOWN: Final = 5
FAVOURITES: Final = 10
WELL_KNOWN: Final = 10  # items whose neighbours are shown
NEIGHBOURS: Final = 5
MAPPED: Final = 300  # items on the map


class Run:
    """Everything that the page is made from; "this model" is the first of the models."""

    def __init__(self, params: Params) -> None:
        """Read what the other stages wrote."""
        self.params = params
        self.split = read_json(paths.SPLIT_METRICS)
        # Of the users, whose ratings the page is drawn from; their share is 1 but for very many ratings.
        self.drawn = Sample(min(1.0, MOST_RATINGS / self.split["ratings"]), params.split.seed)
        known = paths.TRAIN, paths.VALIDATION, paths.GIVEN  # before the model is measured
        self.known = Interactions.read(*known, sample=self.drawn)
        measured = Sample(params.evaluate.user_share, params.split.seed)
        quantile, learned_from = params.evaluate.relevance_quantile, params.train.learned_from
        self.held_out = HeldOut.read(quantile, learned_from, measured, self.drawn)
        self.ratings = Interactions.read(*known, paths.TEST, sample=self.drawn)
        self.popular = np.argsort(-self.known.item_counts(), kind="stable")  # item indices, most known ratings first
        self.times = _times(math.ceil(self.split["ratings"] / MOST_RATINGS))
        self.items = read_table(paths.ITEMS).drop_columns("item")  # item_id, title, categories, what own files have
        self.titles: list[str] = self.items["title"].to_pylist()
        self.user_ids = read_table(paths.USERS, ["user_id"])["user_id"].to_numpy()
        self.factors = Factors.load()
        self.factors.check_shape(self.held_out.ratings.shape)
        self.recommendations = read_table(paths.RECOMMENDATIONS)
        closed_form = not isinstance(params.train.section, TrainedSection)
        self.history = {} if closed_form else read_csv(paths.HISTORY)  # the losses of every epoch
        self.epochs = read_json(paths.TRAIN_METRICS).get("epochs")  # None for a closed form
        # Of each model its metrics at K, and (K,) values of each metric; empty where it has learned the test part.
        self.metrics: dict[str, dict[str, Any]] = {THIS: read_json(paths.METRICS), **read_json(paths.BASELINES)}
        self.at_k: dict[str, dict[str, NDArray[np.float64]]] = {}
        self.measured = bool(self.metrics[THIS])
        self.statistics = Statistics({}, {})
        if self.measured:
            columns, others = read_csv(paths.BASELINES_AT_K), list(self.metrics)[1:]
            self.at_k = {name: {curve: columns[f"{name}_{curve}"] for curve in CURVES} for name in others}
            self.at_k = {THIS: read_csv(paths.AT_K), **self.at_k}
            names = {name: params.train.model if name == THIS else name for name in self.metrics}
            self.results = UserResults.read(paths.USER_METRICS, paths.BASELINES_USERS).of_models(names)
            self.statistics = self.results.statistics()


def _times(every: int) -> pa.ChunkedArray:
    """Return the time of every n-th rating of a row group, before filters."""
    groups = range(len(row_group_sizes(paths.RATINGS)))
    times = (read_row_groups(paths.RATINGS, [group], ["timestamp"])["timestamp"] for group in groups)
    if every == 1:
        return pa.chunked_array([chunk for each in times for chunk in each.chunks])
    return pa.chunked_array([each.take(pa.array(np.arange(0, len(each), every))).combine_chunks() for each in times])


def render(run: Run) -> str:
    """Return the page: HTML that needs no other file."""
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True)
    environment.filters["one_line"] = lambda value: one_line(str(value))
    environment.filters["interval"] = as_text
    similar, median_cosine = nearest(run)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        run=run,
        name=data_name(run.params.data),
        charts=draw(run),
        params=parameters(run.params),
        tables={"Accuracy": COLUMNS, "What kind of lists": (*LISTS, "gini")},
        best=best(run.metrics, run.statistics),
        headline=headline(run),
        similar=similar,
        median_cosine=median_cosine,
        min_ratings=SIMILAR_MIN_RATINGS,
        users=users(run),
        others=run.items.column_names[3:],
        cold=int((run.results if run.measured else run.held_out).cold.sum()),
        stages=paths.STAGES,
    )


def draw(run: Run) -> dict[str, list[Chart]]:
    """Draw the charts of each section."""
    test, popular, predicts_ratings = run.held_out.ratings, run.popular, run.factors.predicts_ratings
    parts = {"loss": "train", "val_loss": "validation" if "validation_ratings" in run.split else "test"}
    losses = {part: run.history[column] for column, part in parts.items() if column in run.history}
    section = run.params.train.section
    mapped = popular[:MAPPED]
    genres = [run.items["categories"][item].as_py().split("|")[0] or "no category" for item in mapped]
    models = [(name.replace("_", " "), at_k) for name, at_k in run.at_k.items()]
    with style():
        drawn = {
            "data": [
                charts.ratings_by_value(run.ratings.ratings),
                charts.popularity_tail(run.ratings.item_counts()),
                charts.ratings_by_user(np.unique(run.ratings.users, return_counts=True)[1]),
            ],
            "training": [charts.loss_by_epoch(losses, section.loss)] if isinstance(section, TrainedSection) else [],
            "map": [charts.item_map(run.factors.item_factors[mapped], [run.titles[item] for item in mapped], genres)],
        }
        if not run.times.null_count:
            drawn["data"].append(charts.ratings_over_time(run.times.to_numpy()))
        if not run.measured:
            return drawn
        k, lists = run.params.evaluate.k, run.results.lists
        kinds = {
            "recommended": lists[THIS][lists[THIS] >= 0],
            "liked in test": test.items[run.held_out.relevant],
            "rated in train": run.known.items,
        }
        drawn["curves"] = [
            charts.by_list_length(curve, {name: at_k[curve] for name, at_k in models}) for curve in CURVES
        ]
        drawn["recommendations"] = [
            charts.share_by_popularity(popular, kinds),
            charts.recall_by_user(run.results.metrics[THIS]["recall"], k),
        ]
        drawn["lists"] = [
            list_charts.accuracy_and_novelty(run.statistics, k),
            list_charts.exposure(lists, test.num_items),
            list_charts.by_items(run.statistics, k),
            list_charts.by_users(run.results, k),
        ]
        if categories := Categories.read():
            shares = {"known ratings": categories.mean_shares(*stored_entries(run.held_out.seen, run.held_out.users))}
            for model, rows in lists.items():
                shares[model] = categories.mean_shares(np.nonzero(rows >= 0)[0], rows[rows >= 0])
            drawn["lists"].append(list_charts.calibration(shares, categories.names, run.statistics))
        if predicts_ratings:
            errors = run.factors.predict(test.users, test.items) - test.ratings.astype(np.float64)
            drawn["recommendations"].append(charts.error_by_popularity(errors**2, run.known.item_counts()[test.items]))
    return drawn


def parameters(params: Params) -> dict[str, Any]:
    """Return the dotted name and the value of every parameter that the run depends on."""
    # Without data.archive and own paths: a place on somebody's machine says nothing about the result.
    source = "data.sha256" if params.data.dataset != "own" else "data.own"
    names = ["data.dataset", source, "data.min_ratings", "data.min_rating_value", "split", "train.model", "train.seed"]
    names += ["train.early_stopping", "train.final_fit", f"train.{params.train.model}"]
    names += ["evaluate", "baselines", "recommend"]
    found: dict[str, Any] = {}
    for name in names:
        value = attrgetter(name)(params)
        found |= dict(flatten(value, f"{name}.")) if isinstance(value, Section) else {name: value}
    return {name: value for name, value in found.items() if name not in ("data.own.ratings", "data.own.items")}


def best(metrics: Mapping[str, Mapping[str, Any]], found: Statistics) -> dict[str, list[str]]:
    """Return for each column, where models compete, those of which none is known to be worse than the best."""
    marked: dict[str, list[str]] = {}
    for column in (*COLUMNS, *JUDGED):
        values = {model: row[column] for model, row in metrics.items() if column in row}
        value = (min if column in LOWER_IS_BETTER else max)(values.values(), default=0)
        group = found.best(column) or [model for model in values if values[model] == value]
        marked[column] = group if len(values) > 1 else []
    return marked


def headline(run: Run) -> list[dict[str, Any]]:
    """Return the figures at the top of the page: ``name``, ``value`` and ``beside``, a comparison in words."""
    if not run.measured:
        return []
    this, baselines = run.metrics[THIS], {name: values for name, values in run.metrics.items() if name != THIS}
    names = {"map": "MAP", "precision": "Precision", "recall": "Recall", "ndcg": "NDCG"}
    figures = []
    for key, name in names.items():
        strongest = max(baselines, key=lambda other: baselines[other][key])
        figures.append((key, f"{name}@{run.params.evaluate.k}", dict.fromkeys((strongest, "popularity"))))
    if "rmse" in this:
        figures.append(("rmse", "RMSE", dict.fromkeys(["item_mean"])))
    shown = []
    for key, name, others in figures:
        changes = (f"{change(this[key], baselines[other][key])} {NAMES.get(other, other)}" for other in others)
        shown.append({"name": name, "value": this[key], "beside": ", ".join(changes)})
    return shown


def change(value: float, other: float) -> str:
    """Return in words by how much a value is above or below another, as ``12 % above``."""
    if other == 0:
        return "above the 0 of" if value else "level with"
    share = round(100 * (value / other - 1))
    return f"{abs(share)} % {'above' if share > 0 else 'below'}" if share else "level with"


def nearest(run: Run) -> tuple[list[dict[str, Any]], float]:
    """Return the most rated items, each a ``title`` with the ``near`` ones, and the median cosine with all items."""
    counts = np.rint(run.ratings.item_counts() / run.drawn.share).astype(np.int64)
    listed, well_known = [], run.popular[:WELL_KNOWN].tolist()
    for item in well_known:
        others, values = similar_items(run.factors, counts, item, NEIGHBOURS)
        near = [{"title": run.titles[other], "cosine": cosine} for other, cosine in zip(others, values, strict=True)]
        listed.append({"title": run.titles[item], "near": near})
    return listed, float(np.median([run.factors.cosines(item) for item in well_known]))


def users(run: Run) -> list[dict[str, Any]]:
    """Return some users, each with ``id``, ``ratings`` (how many), ``favourites`` and ``recommendations``."""
    sample = Sample(run.params.recommend.user_share, run.params.split.seed)
    test_users, ratings = run.held_out.users[sample.has(run.held_out.users)], run.ratings
    chosen = np.random.default_rng(SEED).choice(test_users, min(USERS_SHOWN, len(test_users)), replace=False)
    listed = []
    for user in np.sort(chosen):
        own = np.flatnonzero(ratings.users == user)
        top = own[np.lexsort((ratings.items[own], -ratings.ratings[own]))][:FAVOURITES]
        favourites = run.items.take(pa.array(ratings.items[top])).append_column("rating", [ratings.ratings[top]])
        rows = np.flatnonzero(run.recommendations["user_id"].to_numpy() == run.user_ids[user])
        recommended = run.recommendations.take(pa.array(rows))
        named = run.items.take(pc.index_in(recommended["item_id"], run.items["item_id"].combine_chunks()))
        recommendations = named.append_column("score", recommended["score"]).to_pylist()
        shown = {"id": run.user_ids[user], "ratings": len(own), "favourites": favourites.to_pylist()}
        listed.append({**shown, "recommendations": recommendations})
    return listed
