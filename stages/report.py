"""Write a page that shows the data, what the model learned, how it compares and what it recommends."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jinja2
import matplotlib as mpl
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from stages.lib.errors import run
from stages.lib.factors import Factors
from stages.lib.heldout import HeldOut
from stages.lib.metrics import COLUMNS, CURVES, LOWER_IS_BETTER
from stages.lib.params import Params, flat, load_params
from stages.lib.ratings import MOVIES, TRAIN, USERS, VALIDATION, Ratings
from stages.lib.similar import cosines
from stages.lib.storage import read_csv, read_json, read_table, write_text

REPORT = Path("reports/index.html")
TEMPLATE = Path("stages/report.html")
METRICS = Path("metrics")
RECOMMENDATIONS = Path("data/recommendations.parquet")

SEED = 7  # of the users shown
USERS_SHOWN = 5
FAVOURITES = 10
WELL_KNOWN = 10  # movies whose neighbours are shown
NEIGHBOURS = 5
MAPPED = 300  # movies on the map
RANKS = 400  # points of a line over all movies
LABELLED = 24  # of them, at most
GROUPS = ((0, 0), (1, 4), (5, 19), (20, 49), (50, 199), (200, 2**31 - 1))  # of movies, by their ratings in train
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
# What is drawn in these colours takes its colour from the page's style, which knows light from dark.
INK, MUTED, GRID, PAPER = "#0a0001", "#0a0002", "#0a0003", "#0a0004"
SERIES = ("#0a0011", "#0a0012", "#0a0013", "#0a0014", "#0a0015", "#0a0016")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {
    color: f"series-{number}" for number, color in enumerate(SERIES, start=1)
}
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Chart:
    """A drawing with the words that go with it.

    Attributes:
        title: above it.
        text: what it shows, in words, for those who do not see it.
        svg: the drawing.
    """

    title: str
    text: str
    svg: Markup


@dataclass(frozen=True)
class Run:
    """Everything that the page is made from.

    Attributes:
        params: of the run.
        known: the ratings that the model was chosen and trained by.
        held_out: the test ratings.
        movies: movie_id, title and genres of each movie index.
        user_ids: (users,) int32.
        factors: the trained model.
        recommendations: as the recommend stage lists them.
        lists: (users with test ratings, K) int32, the model's best movies, -1 where there are no more candidates.
        metrics: one mapping a model, this one first.
    """

    params: Params
    known: Ratings
    held_out: HeldOut
    movies: pa.Table
    user_ids: NDArray[np.int32]
    factors: Factors
    recommendations: pa.Table
    lists: NDArray[np.int32]
    metrics: dict[str, dict[str, Any]]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many known ratings each movie has: (movies,) int64."""
        return np.bincount(self.known.movies, minlength=self.known.shape[1])

    @property
    def popular(self) -> NDArray[np.int64]:
        """Movie indices by known ratings, most first: (movies,) int64."""
        return np.argsort(-self.counts, kind="stable")

    @property
    def titles(self) -> list[str]:
        """The title of each movie index."""
        titles: list[str] = self.movies["title"].to_pylist()
        return titles

    @property
    def predicts_ratings(self) -> bool:
        """Whether the model's scores are in stars."""
        return self.params.train.loss == "mse"


def main() -> None:
    """Read what the other stages wrote and write the page."""
    write_text(REPORT, render(read_run(load_params())))


def read_run(params: Params) -> Run:
    """Read what the page is made from.

    Args:
        params: of the run.

    Returns:
        All of it.

    Raises:
        UserError: a file is missing or damaged.
    """
    held_out = HeldOut.read(params.evaluate.relevance_quantile)
    factors = Factors.load()
    factors.check_shape(held_out.ratings.shape)
    lists, _ = factors.top_k(held_out.users, held_out.seen, params.evaluate.k)
    this = read_json(METRICS / "evaluate.json")
    if params.train.loss == "softmax":  # its scores are no ratings
        this |= dict.fromkeys(LOWER_IS_BETTER)
    return Run(
        params=params,
        known=Ratings.read(TRAIN, VALIDATION),
        held_out=held_out,
        movies=read_table(MOVIES, ["movie_id", "title", "genres"]),
        user_ids=read_table(USERS, ["user_id"])["user_id"].to_numpy(),
        factors=factors,
        recommendations=read_table(RECOMMENDATIONS),
        lists=lists,
        metrics={"this model": this, **read_json(METRICS / "baselines.json")},
    )


def render(shown: Run) -> str:
    """Fill the page's template.

    Args:
        shown: what the page is made from.

    Returns:
        HTML that needs no other file.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's own settings are
        mpl.rcParams.update(STYLE)
        # Fonts of the machine would change how much room text takes.
        font_manager.fontManager.ttflist = [
            entry for entry in font_manager.fontManager.ttflist if entry.fname.startswith(mpl.get_data_path())
        ]
        charts = {
            "data": [ratings_by_value(shown), popularity_tail(shown), ratings_by_user(shown)],
            "curves": [at_k(shown, name) for name in CURVES],
            "training": [loss(shown)],
            "recommendations": [on_the_popularity_axis(shown), recall_by_user(shown)],
            "map": [movie_map(shown)],
        }
        if shown.predicts_ratings:
            charts["recommendations"].append(error_by_popularity(shown))
    return template.render(
        charts=charts,
        params=dict(parameters(shown.params)),
        split=read_json(METRICS / "split.json"),
        train=read_json(METRICS / "train.json"),
        columns=COLUMNS,
        rows=table(shown.metrics),
        neighbours=neighbours(shown),
        median_cosine=float(np.median(directions(shown)[1])),
        users=users(shown),
        headline=headline(shown),
        predicts_ratings=shown.predicts_ratings,
        stages=("fetch", "extract", "split", "train", "evaluate", "baselines", "recommend", "report"),
    )


def parameters(params: Params) -> Iterator[tuple[str, Any]]:
    """Give the dotted name and the value of every parameter but the archive's place."""
    # That is somebody's machine, which says nothing about the result.
    yield from (("data.dataset", params.data.dataset), ("data.sha256", params.data.sha256))
    for name in ("split", "train", "evaluate", "baselines", "recommend"):
        yield from flat(getattr(params, name), f"{name}.")


def table(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lay out the metrics of all models, with the best of each column marked.

    Args:
        metrics: one mapping a model; None where a model lacks a metric.

    Returns:
        For each model ``name`` and ``cells``, each with ``text`` and ``best``.
    """
    best = {}
    for column in COLUMNS:
        values = [row[column] for row in metrics.values() if row[column] is not None]
        best[column] = (min if column in LOWER_IS_BETTER else max)(values) if len(values) > 1 else None
    return [
        {
            "name": name.replace("_", " "),
            "cells": [
                {
                    "text": "-" if row[column] is None else f"{row[column]:.4f}",
                    "best": row[column] is not None and row[column] == best[column],
                }
                for column in COLUMNS
            ],
        }
        for name, row in metrics.items()
    ]


def headline(shown: Run) -> list[dict[str, str]]:
    """Give the figures at the top of the page: ``name``, ``value`` and how it compares, in words."""
    this, popular = shown.metrics["this model"], shown.metrics["popularity"]
    k = shown.params.evaluate.k
    figures = [
        {
            "name": f"{'MAP' if name == 'map' else name.upper() if name == 'ndcg' else name.capitalize()}@{k}",
            "value": f"{this[name]:.4f}",
            "beside": f"{change(this[name], popular[name])} popularity",
        }
        for name in ("map", "precision", "recall", "ndcg")
    ]
    if shown.predicts_ratings:
        beside = f"{change(this['rmse'], shown.metrics['item_mean']['rmse'])} the item mean"
        figures.append({"name": "RMSE", "value": f"{this['rmse']:.4f}", "beside": beside})
    return figures


def change(value: float, other: float) -> str:
    """Say by how much a value is above or below another, as ``12 % above``."""
    if other == 0:
        return "beside 0 of"
    share = round(100 * (value / other - 1))
    return f"{abs(share)} % {'above' if share > 0 else 'below'}" if share else "level with"


def directions(shown: Run) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the cosines of the most rated movies' vectors with those of the more rated half of the catalogue.

    Args:
        shown: the run.

    Returns:
        candidates: movie indices, most rated first; cosine: (`WELL_KNOWN`, candidates) float64. Movies that few have
        rated are left out, since their vectors are close to where they began.
    """
    popular = shown.popular
    candidates = popular[: max(len(popular) // 2, min(WELL_KNOWN, len(popular)))]
    vectors = shown.factors.movies[candidates]
    rows = [cosines(vectors, row) for row in range(min(WELL_KNOWN, len(candidates)))]
    return candidates, np.round(rows, 9)  # the last bits must not decide an order


def neighbours(shown: Run) -> list[dict[str, Any]]:
    """List the nearest movies of well-known ones, by the cosine of their vectors.

    Args:
        shown: the run.

    Returns:
        For each ``title`` and ``near``, a list of ``title`` and ``cosine``.
    """
    candidates, cosine = directions(shown)
    titles = shown.titles
    listed = []
    for row, values in enumerate(cosine):
        order = [int(other) for other in np.argsort(-values, kind="stable") if other != row][:NEIGHBOURS]
        near = [{"title": titles[candidates[other]], "cosine": f"{values[other]:.3f}"} for other in order]
        listed.append({"title": titles[candidates[row]], "near": near})
    return listed


def users(shown: Run) -> list[dict[str, Any]]:
    """Show what some users rated best and what they are recommended.

    Args:
        shown: the run.

    Returns:
        For each user ``id``, ``ratings`` (how many), ``favourites`` and ``recommendations``.
    """
    generator = np.random.default_rng(SEED)
    chosen = generator.choice(shown.held_out.users, min(USERS_SHOWN, len(shown.held_out.users)), replace=False)
    everything = shown.known.joined(shown.held_out.ratings)
    listed = shown.recommendations["user_id"].to_numpy()
    found = []
    for user in np.sort(chosen):
        own = np.flatnonzero(everything.users == user)
        best = own[np.lexsort((everything.movies[own], -everything.values[own]))][:FAVOURITES]
        favourites = shown.movies.take(pa.array(everything.movies[best])).to_pylist()
        for movie, value in zip(favourites, everything.values[best].tolist(), strict=True):
            movie["rating"] = f"{value:g}"
        rows = np.flatnonzero(listed == shown.user_ids[user])
        recommendations = shown.recommendations.take(pa.array(rows)).to_pylist()
        for movie in recommendations:
            movie["score"] = f"{movie['score']:.2f}"
        for movie in (*favourites, *recommendations):
            movie["genres"] = movie["genres"].replace("|", ", ")
        found.append(
            {
                "id": int(shown.user_ids[user]),
                "ratings": len(own),
                "favourites": favourites,
                "recommendations": recommendations,
            }
        )
    return found


def figure(width: float = 4.4, height: float = 3.0) -> tuple[Figure, Axes]:
    """Give an empty figure of that size in inches."""
    made = Figure(figsize=(width, height))
    return made, made.add_subplot()


def finish(
    made: Figure, name: str, title: str, text: str, tooltips: Mapping[str, Sequence[str]] | None = None
) -> Chart:
    """Turn a figure into SVG for a page: colours from its style, no fixed size, unique names, words for readers.

    Args:
        made: the figure.
        name: of the chart, unique on the page.
        title: above the chart.
        text: what it shows.
        tooltips: for the points of a collection, by its group's name, what to say when pointed at.

    Returns:
        The chart.
    """
    file = io.StringIO()
    mpl.rcParams["svg.hashsalt"] = name
    made.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawn = file.getvalue()
    for color, variable in VARIABLES.items():
        drawn = drawn.replace(color, f"var(--{variable})")
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(drawn)  # noqa: S314 - matplotlib's own
    for group, words in (tooltips or {}).items():
        points = root.find(f".//*[@id='{group}']").iter(f"{{{SVG}}}use")  # type: ignore[union-attr]
        for point, word in zip(points, words, strict=True):
            ET.SubElement(point, f"{{{SVG}}}title").text = word
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    names: dict[str, str] = {}

    def renamed(reference: re.Match[str]) -> str:
        return "#" + names.setdefault(reference[1], f"{name}-{len(names)}")

    for element in root.iter():
        for key, value in element.attrib.items():
            if key != "id":
                # Six decimals, which matplotlib writes, can show the last bits of a matrix product; two cannot.
                rounded = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", value)
                element.set(key, re.sub(r"#([^)\s]+)", renamed, rounded))
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in names:
            element.set("id", names[identity])
    for key in ("width", "height"):
        del root.attrib[key]
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-text"}
    for position, (tag, content) in enumerate((("title", title), ("desc", text))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{'title' if tag == 'title' else 'text'}"})
        element.text = content
        root.insert(position, element)
    return Chart(title, text, Markup(ET.tostring(root, encoding="unicode")))  # noqa: S704 - matplotlib's own


def ratings_by_value(shown: Run) -> Chart:
    """Draw how many ratings have each value."""
    values = np.concatenate([shown.known.values, shown.held_out.ratings.values])
    stars, counts = np.unique(values, return_counts=True)
    made, axes = figure()
    axes.bar(stars, counts, width=0.8 * np.diff(stars).min(initial=1.0), color=SERIES[0])
    axes.set(xlabel="rating (stars)", ylabel="ratings", xticks=stars[:: 1 if len(stars) < 6 else 2])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.grid(visible=False, axis="x")
    shares = ", ".join(f"{count / len(values):.0%} are {star:g}" for star, count in zip(stars, counts, strict=True))
    return finish(made, "values", "Ratings by value", f"Of {len(values):,} ratings {shares}.")


def popularity_tail(shown: Run) -> Chart:
    """Draw how many ratings each movie has, the most rated first, on logarithmic axes."""
    counts = np.sort(np.bincount(shown.known.joined(shown.held_out.ratings).movies, minlength=shown.known.shape[1]))
    counts = counts[::-1]
    made, axes = figure()
    rank = ranks_to_draw(len(counts))
    axes.loglog(rank, counts[rank - 1], color=SERIES[0])
    axes.set(xlabel="movies, most rated first (rank)", ylabel="ratings of the movie")
    plain(axes.xaxis)
    plain(axes.yaxis)
    tenth = counts[: max(len(counts) // 10, 1)].sum() / counts.sum()
    text = (
        f"The most rated movie has {counts[0]:,} ratings, the one in the middle {counts[len(counts) // 2]:,}; "
        f"the tenth of the movies that is rated most has {tenth:.0%} of all ratings."
    )
    return finish(made, "tail", "The popularity tail", text)


def ranks_to_draw(count: int) -> NDArray[np.int64]:
    """Give some of the ranks from 1 to a number, as many as can be told apart on a logarithmic axis."""
    return np.unique(np.round(np.geomspace(1, count, RANKS)).astype(np.int64))


def ratings_by_user(shown: Run) -> Chart:
    """Draw how many users have how many ratings."""
    counts = np.bincount(shown.known.joined(shown.held_out.ratings).users, minlength=shown.known.shape[0])
    made, axes = figure()
    axes.hist(counts, bins=np.geomspace(counts.min(), counts.max() + 1, 21).tolist(), color=SERIES[0])
    axes.set(xscale="log", xlabel="ratings of the user", ylabel="users")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain(axes.xaxis)
    axes.grid(visible=False, axis="x")
    text = f"Users have {counts.min():,} to {counts.max():,} ratings, the one in the middle {np.median(counts):,.0f}."
    return finish(made, "users", "Ratings a user", text)


def at_k(shown: Run, name: str) -> Chart:
    """Draw one metric at every list length, of the model and the baselines."""
    this, others = read_csv(METRICS / "at_k.csv"), read_csv(METRICS / "baselines_at_k.csv")
    lines = {"this model": this[name]} | {
        key: others[f"{key}_{name}"] for key in shown.metrics if f"{key}_{name}" in others
    }
    made, axes = figure()
    for number, (key, values) in enumerate(lines.items()):
        axes.plot(
            this["k"],
            values,
            color=SERIES[number],
            label=key.replace("_", " "),
            linestyle=("-", "--", ":", "-.")[number],
            linewidth=3 if number == 0 else 2,
        )
    axes.set(xlabel="k (movies in the list)", ylabel="mean over users", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    made.legend(loc="outside upper left", ncols=2, handlelength=2.5)
    last = ", ".join(f"{key.replace('_', ' ')} {values[-1]:.4f}" for key, values in lines.items())
    title = {"map": "Mean average precision", "ndcg": "NDCG"}.get(name, name.capitalize())
    return finish(made, f"curve-{name}", f"{title} at k", f"At k = {len(this['k'])}: {last}.")


def loss(shown: Run) -> Chart:
    """Draw the losses of every epoch."""
    history = read_csv(METRICS / "history.csv")
    made, axes = figure()
    words = []
    names = {"loss": "train", "val_loss": "validation" if shown.params.split.validation_size else "test"}
    for number, (key, label) in enumerate(names.items()):
        values = history.get(key, np.empty(0))
        known = np.isfinite(values)
        if known.any():
            axes.plot(
                history["epoch"][known] + 1, values[known], color=SERIES[number], label=label, marker=MARKERS[number]
            )
            words.append(f"{label} from {values[known][0]:.4f} to {values[known][-1]:.4f}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="squared error + L2 (stars²)" if shown.predicts_ratings else "cross entropy + L2")
    made.legend(loc="outside upper left", ncols=2)
    text = f"Loss over {len(history['epoch'])} epochs: {'; '.join(words)}."
    return finish(made, "loss", "Loss by epoch", text)


def on_the_popularity_axis(shown: Run) -> Chart:
    """Draw which share of the recommendations falls on how popular movies."""
    ranks = np.empty(shown.known.shape[1], dtype=np.int64)
    ranks[shown.popular] = np.arange(len(ranks))
    listed = shown.lists[shown.lists >= 0]
    kinds = {
        "recommended": listed,
        "liked in test": shown.held_out.ratings.movies[shown.held_out.relevant],
        "rated in train": shown.known.movies,
    }
    made, axes = figure()
    rank = ranks_to_draw(len(ranks))
    tenth = max(len(ranks) // 10, 1)
    words = []
    for number, (label, movies) in enumerate(kinds.items()):
        share = np.cumsum(np.bincount(ranks[movies], minlength=len(ranks))) / len(movies)
        axes.semilogx(rank, share[rank - 1], color=SERIES[number], label=label, linestyle=("-", "--", ":")[number])
        words.append(f"{share[tenth - 1]:.0%} of the movies {label}")
    axes.set(xlabel="movies, most rated first (rank)", ylabel="share up to there", ylim=(0, 1.02))
    plain(axes.xaxis)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    made.legend(loc="outside upper left", ncols=2)
    text = (
        f"The most popular tenth of the movies makes up {', '.join(words[:-1])} and {words[-1]}. "
        f"{len(np.unique(listed)):,} of {len(ranks):,} movies are recommended to somebody."
    )
    return finish(made, "popularity", "Where recommendations fall", text)


def recall_by_user(shown: Run) -> Chart:
    """Draw how many users have which recall."""
    recall = shown.held_out.measure(shown.lists).user_recall
    made, axes = figure()
    # Recall is a fraction of small numbers: half a bin's shift puts 1/10, 2/10, ... inside bins.
    axes.hist(recall, bins=np.linspace(-0.05, 1.05, 12).tolist(), color=SERIES[0], rwidth=0.85)
    k = shown.params.evaluate.k
    axes.set(xlabel=f"recall@{k} of the user", ylabel="users", xticks=np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(visible=False, axis="x")
    text = (
        f"{np.mean(recall == 0):.0%} of {len(recall):,} users find none of their relevant movies among the {k}, "
        f"{np.mean(recall == 1):.0%} find all; the mean is {recall.mean():.4f}."
    )
    return finish(made, "recall", "Recall by user", text)


def error_by_popularity(shown: Run) -> Chart:
    """Draw the rating error by how many train ratings the movie has."""
    test = shown.held_out.ratings
    squared = (shown.factors.predict(test.users, test.movies) - test.values.astype(np.float64)) ** 2
    count = shown.counts[test.movies]
    groups = [
        (f"{low}" if low == high else f"{low}+" if high == GROUPS[-1][1] else f"{low}-{high}", squared[inside])
        for low, high in GROUPS
        if (inside := (count >= low) & (count <= high)).any()
    ]
    made, axes = figure()
    errors = [float(np.sqrt(values.mean())) for _, values in groups]
    axes.bar([label for label, _ in groups], errors, color=SERIES[0])
    axes.set(xlabel="ratings of the movie in train", ylabel="RMSE (stars)")
    axes.grid(visible=False, axis="x")
    words = ", ".join(
        f"{label} ratings {error:.3f} ({len(values):,} test ratings)"
        for (label, values), error in zip(groups, errors, strict=True)
    )
    return finish(made, "error", "Rating error by popularity", f"RMSE of movies with {words}.")


def movie_map(shown: Run) -> Chart:
    """Draw the most rated movies by the two main directions of their vectors, coloured by genre."""
    chosen = shown.popular[:MAPPED]
    vectors = shown.factors.movies[chosen].astype(np.float64)
    vectors -= vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    places = np.zeros((len(chosen), 2))
    places[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    # The sign of a direction is free: the farthest point goes right and up.
    farthest = np.argmax(np.abs(places), axis=0)
    places *= np.where(places[farthest, np.arange(2)] < 0, -1, 1)
    genres = [str(text).split("|")[0] for text in shown.movies["genres"].take(pa.array(chosen)).to_pylist()]
    names, counts = np.unique(genres, return_counts=True)
    common = [str(name) for name in names[np.argsort(-counts, kind="stable")][: len(SERIES) - 1]]
    titles = [shown.titles[movie] for movie in chosen]
    made, axes = figure(5.2, 5.0)
    tooltips = {}
    for number, genre in enumerate([*common, "other"]):
        rows = [row for row, own in enumerate(genres) if own == genre or (genre == "other" and own not in common)]
        if rows:
            points = axes.scatter(
                places[rows, 0],
                places[rows, 1],
                s=22,
                color=SERIES[number],
                marker=MARKERS[number],
                label=genre,
                alpha=0.85,
                linewidths=0,
            )
            points.set_gid(f"genre-{number}")
            tooltips[f"genre-{number}"] = [f"{titles[row]} ({genres[row]})" for row in rows]
    axes.set(xlabel="first direction", ylabel="second direction", xticks=[], yticks=[])
    axes.margins(0.12, 0.06)
    made.legend(loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1)
    made.draw_without_rendering()
    label_apart(axes, places, titles)
    share = float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-12))
    text = (
        f"The {len(chosen)} most rated movies in the plane of the two main directions of their vectors, which holds "
        f"{share:.0%} of their variance: the closer two are, the more alike are their scores, but for the biases."
    )
    return finish(made, "map", "A map of the movies", text, tooltips)


def label_apart(axes: Axes, places: NDArray[np.float64], titles: Sequence[str]) -> None:
    """Label the first of some points, skipping labels that would cover others or leave the axes.

    Args:
        axes: to draw on, laid out.
        places: (n, 2) of the points.
        titles: of the points.
    """
    inside = axes.get_window_extent()
    taken: list[Bbox] = []
    for (x, y), title in zip(places, titles, strict=True):
        short = title.rsplit(" (", 1)[0]
        label = axes.annotate(
            short if len(short) <= 24 else short[:22] + "…", (x, y), (4, 3), textcoords="offset points", fontsize=8
        )
        box = label.get_window_extent()
        fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and box.y1 <= inside.y1
        if fits and len(taken) < LABELLED and not any(box.overlaps(other) for other in taken):
            taken.append(box)
        else:
            label.remove()


def plain(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis in full."""
    axis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    run(main)
