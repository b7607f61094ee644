"""The charts of what kind of lists the models make: one function each."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from recommender.evaluation.results import UserResults
from recommender.evaluation.statistics import Estimate, Statistics
from recommender.report.drawing import LINES, MARKERS, SERIES, Chart, figure, finish

POINTS: Final = 100  # of a line over all items
MOST_CATEGORIES: Final = 20  # drawn
USER_GROUPS: Final = {"0": 0, "1-19": 1, "20-49": 20, "50-99": 50, "100-199": 100, "200+": 200}  # the least of each
FEWEST: Final = 10  # users in a group, or there is no estimate


def plain(model: str) -> str:
    """Return a model's name as words."""
    return model.replace("_", " ")


def accuracy_and_novelty(found: Statistics, k: int) -> Chart:
    """Draw the MAP of each model over its novelty, with their intervals."""
    drawn, axes = figure()
    for number, (model, row) in enumerate(found.estimates.items()):
        _errors(axes, row["novelty"], row["map"], number, plain(model))
    axes.set(xlabel="novelty (bits: 1 more is half as well known)", ylabel=f"MAP@{k}", ylim=(0, None))
    drawn.legend(loc="outside upper left", ncols=2)
    best = " and ".join(map(plain, found.best("map")))
    words = ", ".join(f"{plain(model)} {row['novelty'].value:.2f}" for model, row in found.estimates.items())
    text = (
        f"Most accurate: {best}. Bits of novelty: {words}. A list that is more novel and less accurate is merely odd."
    )
    return finish(drawn, "novelty", "Accuracy against novelty", text)


def exposure(lists: Mapping[str, NDArray[np.int32]], num_items: int) -> Chart:
    """Draw the Lorenz curves of how the places of (users, K) lists are shared among all items."""
    drawn, axes = figure()
    places = np.unique(np.round(np.linspace(0, num_items, POINTS)).astype(np.int64))
    words = []
    axes.plot([0, 1], [0, 1], color="#0a0002", linewidth=1, label="every item as often")
    for number, (model, rows) in enumerate(lists.items()):
        counts = np.sort(np.bincount(rows[rows >= 0], minlength=num_items))
        placed = np.concatenate([[0], np.cumsum(counts)])
        share = placed / max(placed[-1], 1)
        axes.plot(places / num_items, share[places], LINES[number], color=SERIES[number], label=plain(model))
        words.append(f"{plain(model)} {num_items - np.searchsorted(2 * placed, placed[-1], 'right') + 1:,}")
    axes.set(xlabel="items, least recommended first", ylabel="share of all places in lists", xlim=(0, 1), ylim=(0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.0%}")
    drawn.legend(loc="outside upper left", ncols=2, handlelength=2.5)
    text = f"Items that share half of all places in a model's lists, of {num_items:,}: {', '.join(words)}."
    return finish(drawn, "exposure", "Who gets the places", text)


def by_users(results: UserResults, k: int) -> Chart:
    """Draw each model's recall for users with few to many known ratings."""
    number = np.digitize(results.known_ratings, list(USER_GROUPS.values())) - 1
    sizes = np.bincount(number, minlength=len(USER_GROUPS))
    groups = [(name, place) for place, name in enumerate(USER_GROUPS) if sizes[place] >= FEWEST]
    found = [results.of_users(number == place).statistics(["recall"], pairs=False).estimates for _, place in groups]
    models = {model: [each[model]["recall"] for each in found] for model in results.metrics}
    counts = ", ".join(f"{sizes[place]:,} with {name}" for name, place in groups)
    return _groups(
        "by-users",
        f"Recall@{k} by the user's ratings",
        "ratings known of the user",
        [name for name, _ in groups],
        models,
        f"Users: {counts} ratings. ",
    )


def by_items(found: Statistics, k: int) -> Chart:
    """Draw each model's recall of relevant items from head, middle and tail."""
    names = ("head", "middle", "tail")
    models = {
        model: [row.get(f"recall_{name}", Estimate(np.nan, np.nan, np.nan)) for name in names]
        for model, row in found.estimates.items()
    }
    about = "Head are the best-known items with a fifth of all ratings, tail the least known with a fifth. "
    return _groups("by-items", f"Recall@{k} by popularity", "relevant items", list(names), models, about)


def calibration(shares: Mapping[str, NDArray[np.float64]], names: list[str], found: Statistics) -> Chart:
    """Draw the mean shares of categories, "known ratings" first and then of each model's lists."""
    kinds = list(shares)
    shown = [name or "none" for name in names]
    top = np.argsort(-shares[kinds[0]], kind="stable")[:MOST_CATEGORIES][::-1]
    drawn, axes = figure((4.4, 1.2 + 0.2 * len(top)))
    for number, (kind, values) in enumerate(shares.items()):
        look = (
            {"color": "#0a0001", "marker": "|", "markersize": 12}
            if not number
            else {
                "color": SERIES[number - 1],
                "marker": MARKERS[number - 1],
                "markersize": 5,
            }
        )
        axes.plot(values[top], np.arange(len(top)), linestyle="", label=plain(kind), **look)
    axes.set(yticks=range(len(top)), yticklabels=[shown[place] for place in top], xlabel="share, mean over users")
    axes.xaxis.set_major_formatter("{x:.0%}")
    drawn.legend(loc="outside upper left", ncols=2, handlelength=1)
    words = []
    for model in kinds[1:]:
        off = shares[model] - shares[kinds[0]]
        value, extremes = found.estimates[model]["miscalibration"].value, (int(np.argmax(off)), int(np.argmin(off)))
        words.append(f"{plain(model)} {value:.2f} ({', '.join(f'{shown[one]} {off[one]:+.0%}' for one in extremes)})")
    text = f"Miscalibration, and the categories most over- and underrepresented: {'; '.join(words)}."
    return finish(drawn, "calibration", "Categories rated and listed", text)


def _groups(
    name: str, title: str, label: str, groups: list[str], models: Mapping[str, list[Estimate]], about: str
) -> Chart:
    drawn, axes = figure()
    for number, (model, row) in enumerate(models.items()):
        shift = 0.14 * (number - (len(models) - 1) / 2)
        for place, estimate in enumerate(row):
            at = Estimate(place + shift, place + shift, place + shift)
            _errors(axes, at, estimate, number, None if place else plain(model))
    axes.set(xticks=range(len(groups)), xticklabels=groups, xlabel=label, ylabel="recall", ylim=(0, None))
    axes.xaxis.grid(visible=False)
    drawn.legend(loc="outside upper left", ncols=2)
    words = "; ".join(
        f"{plain(model)} {', '.join(f'{each.value:.3f}' for each in row)}" for model, row in models.items()
    )
    return finish(drawn, name, title, f"{about}Recall from left to right: {words}.")


def _errors(axes: Axes, x: Estimate, y: Estimate, number: int, label: str | None) -> None:
    bars = [[[each.value - each.low], [each.high - each.value]] for each in (x, y)]
    axes.errorbar(
        [x.value],
        [y.value],
        xerr=bars[0],
        yerr=bars[1],
        fmt=MARKERS[number],
        markersize=6,
        color=SERIES[number],
        label=label,
    )
