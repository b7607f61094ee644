"""The charts of the page, one function each."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from recommender.report.drawing import LINES, MARKERS, SERIES, Chart, figure, finish, label_points, plain_numbers

DAY: Final = 86_400  # seconds
BARS: Final = 40  # over the time of all ratings
RANKS: Final = 400  # points of a line over all items
GROUPS: Final = {"0": 0, "1-4": 1, "5-19": 5, "20-49": 20, "50-199": 50, "200+": 200}  # the least of each, in ratings
Counts = NDArray[np.int64]


def ratings_by_value(ratings: NDArray[np.float32]) -> Chart:
    """Draw how many ratings have each value."""
    stars, counts = np.unique(ratings, return_counts=True)
    drawn, axes = figure(bars=True)
    axes.bar(stars, counts, width=0.8 * np.diff(stars).min(initial=1.0), color=SERIES[0])
    axes.set(xlabel="rating (stars)", ylabel="ratings", xticks=stars[:: 1 if len(stars) < 6 else 2])
    axes.yaxis.set_major_formatter("{x:,.0f}")
    shares = ", ".join(f"{count / len(ratings):.0%} are {star:g}" for star, count in zip(stars, counts, strict=True))
    return finish(drawn, "values", "Ratings by value", f"Of {len(ratings):,} ratings {shares}.")


def popularity_tail(item_counts: Counts) -> Chart:
    """Draw how many ratings each item has, the most rated first, on logarithmic axes."""
    counts = np.sort(item_counts)[::-1]
    drawn, axes = figure()
    rank = _ranks(len(counts))
    axes.loglog(rank, counts[rank - 1], color=SERIES[0])
    axes.set(xlabel="items, most rated first (rank)", ylabel="ratings of the item")
    plain_numbers(axes.xaxis, axes.yaxis)
    tenth = counts[: max(len(counts) // 10, 1)].sum() / counts.sum()
    text = (
        f"The most rated item has {counts[0]:,} ratings, the one in the middle {counts[len(counts) // 2]:,}; "
        f"the most rated tenth of the items has {tenth:.0%} of all ratings."
    )
    return finish(drawn, "tail", "The popularity tail", text)


def ratings_by_user(user_counts: Counts) -> Chart:
    """Draw how many users have how many ratings."""
    low, high = user_counts.min(), user_counts.max()
    drawn, axes = figure(bars=True)
    axes.hist(user_counts, bins=np.geomspace(low, high + 1, 21).tolist(), color=SERIES[0])
    axes.set(xscale="log", xlabel="ratings of the user", ylabel="users")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain_numbers(axes.xaxis)
    text = f"Users have {low:,} to {high:,} ratings, the one in the middle {np.median(user_counts):,.0f}."
    return finish(drawn, "users", "Ratings per user", text)


def ratings_over_time(times: Counts) -> Chart:
    """Draw how many ratings were made when; times are (n,) seconds since 1970."""
    low, high = int(times.min()), int(times.max())
    counts, edges = np.histogram(times / DAY, BARS, (low / DAY, max(high, low + DAY) / DAY))
    drawn, axes = figure(bars=True)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=SERIES[0])
    axes.set(xlabel="time (UTC)", ylabel="ratings")
    axes.xaxis_date()
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    months = times.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    by_month = np.bincount(months - months.min())
    busiest = np.datetime64(int(months.min() + by_month.argmax()), "M")
    first, last = (str(np.datetime64(second, "s"))[:10] for second in (low, high))
    text = (
        f"From {first} to {last}; {by_month.max() / len(times):.0%} of the ratings are of {busiest}, the busiest month."
    )
    return finish(drawn, "time", "Ratings over time", text)


def by_list_length(metric: str, models: Mapping[str, NDArray[np.float64]]) -> Chart:
    """Draw one metric, (K,) values for each model, at every list length."""
    drawn, axes = figure()
    for number, (model, values) in enumerate(models.items()):
        axes.plot(np.arange(1, len(values) + 1), values, LINES[number], color=SERIES[number], label=model)
    axes.lines[0].set_linewidth(3)
    axes.set(xlabel="k (items in the list)", ylabel="mean over users", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn.legend(loc="outside upper left", ncols=2, handlelength=2.5)
    last = ", ".join(f"{model} {values[-1]:.4f}" for model, values in models.items())
    title = {"map": "Mean average precision", "ndcg": "NDCG"}.get(metric, metric.capitalize().replace("_", " "))
    return finish(drawn, f"curve-{metric}", f"{title} at k", f"At k = {len(values)}: {last}.")


def loss_by_epoch(losses: Mapping[str, NDArray[np.float64]], unit: str) -> Chart:
    """Draw losses, (epochs,) values for each part of the ratings, NaN where an epoch has none."""
    drawn, axes = figure()
    words = []
    for number, (part, values) in enumerate(losses.items()):
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            axes.plot(known + 1, values[known], color=SERIES[number], label=part, marker=MARKERS[number])
            words.append(f"{part} from {values[known[0]]:.4f} to {values[known[-1]]:.4f}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=unit)
    drawn.legend(loc="outside upper left", ncols=2)
    return finish(drawn, "loss", "Loss by epoch", f"Loss over {len(values)} epochs: {'; '.join(words)}.")


def share_by_popularity(popular: Counts, kinds: Mapping[str, NDArray[np.int32]]) -> Chart:
    """Draw which share of the recommendations falls on how popular items.

    `popular` are all items, most rated first; `kinds` are items, repeated as often as they occur: "recommended", and
    others to compare with.
    """
    drawn, axes = figure()
    rank = _ranks(len(popular))
    tenth = max(len(popular) // 10, 1)
    words = []
    for number, (kind, items) in enumerate(kinds.items()):
        share = np.cumsum(np.bincount(items, minlength=len(popular))[popular]) / len(items)
        axes.semilogx(rank, share[rank - 1], color=SERIES[number], label=kind, linestyle=LINES[number])
        words.append(f"{share[tenth - 1]:.0%} of the items {kind}")
    axes.set(xlabel="items, most rated first (rank)", ylabel="share up to there", ylim=(0, 1.02))
    plain_numbers(axes.xaxis)
    axes.yaxis.set_major_formatter("{x:.0%}")
    drawn.legend(loc="outside upper left", ncols=2)
    text = (
        f"The most popular tenth of the items makes up {', '.join(words[:-1])} and {words[-1]}. "
        f"{len(np.unique(kinds['recommended'])):,} of {len(popular):,} items are recommended to somebody."
    )
    return finish(drawn, "popularity", "Where recommendations fall", text)


def recall_by_user(recall: NDArray[np.float64], k: int) -> Chart:
    """Draw how many users have which recall at k."""
    drawn, axes = figure(bars=True)
    # Recall is a fraction of small numbers: half a bin's shift puts 1/10, 2/10, ... inside bins.
    axes.hist(recall, bins=np.linspace(-0.05, 1.05, 12).tolist(), color=SERIES[0], rwidth=0.85)
    axes.set(xlabel=f"recall@{k} of the user", ylabel="users", xticks=np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter("{x:.0%}")
    text = (
        f"{np.mean(recall == 0):.0%} of {len(recall):,} users find none of their relevant items among the {k}, "
        f"{np.mean(recall == 1):.0%} find all; the mean is {recall.mean():.4f}."
    )
    return finish(drawn, "recall", "Recall by user", text)


def error_by_popularity(squared_errors: NDArray[np.float64], counts: Counts) -> Chart:
    """Draw the RMSE of test ratings by how many train ratings their items have, both (n,)."""
    group = np.digitize(counts, list(GROUPS.values())) - 1
    numbers, sizes = np.unique(group, return_counts=True)
    labels = [list(GROUPS)[number] for number in numbers]
    errors = [float(np.sqrt(squared_errors[group == number].mean())) for number in numbers]
    drawn, axes = figure(bars=True)
    axes.bar(labels, errors, color=SERIES[0])
    axes.set(xlabel="ratings of the item in train", ylabel="RMSE (stars)")
    bars = zip(labels, errors, sizes, strict=True)
    words = ", ".join(f"{label} ratings {error:.3f} ({size:,} test ratings)" for label, error, size in bars)
    return finish(drawn, "error", "Rating error by popularity", f"RMSE of items with {words}.")


def item_map(vectors: NDArray[np.float32], titles: Sequence[str], genres: Sequence[str]) -> Chart:
    """Draw items by the two principal components of their (n, size) vectors, coloured by first genre."""
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    places[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    # The sign of a component is free: the farthest point goes right and up.
    farthest = np.argmax(np.abs(places), axis=0)
    places *= np.where(places[farthest, np.arange(2)] < 0, -1, 1)
    names, counts = np.unique(genres, return_counts=True)
    common = names[np.argsort(-counts, kind="stable")][: len(SERIES) - 1].tolist()
    drawn, axes = figure((5.2, 5.0))
    tooltips = {}
    for number, genre in enumerate([*common, "other"]):
        rows = [row for row, own in enumerate(genres) if own == genre or (genre == "other" and own not in common)]
        if rows:
            look: dict[str, Any] = {"c": SERIES[number], "marker": MARKERS[number], "alpha": 0.85, "linewidths": 0}
            axes.scatter(places[rows, 0], places[rows, 1], 22, **look, label=genre, gid=f"genre-{number}")
            tooltips[f"genre-{number}"] = [f"{titles[row]} ({genres[row]})" for row in rows]
    axes.set(xlabel="first component", ylabel="second component", xticks=[], yticks=[])
    axes.margins(0.12, 0.06)
    drawn.legend(loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1)
    drawn.draw_without_rendering()
    label_points(axes, places, titles)
    share = float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-12))
    text = (
        f"The {len(titles)} most rated items by the first two principal components of their vectors, which explain "
        f"{share:.0%} of the variance: the closer two are, the more alike are their scores, apart from the biases."
    )
    return finish(drawn, "map", "A map of the items", text, tooltips)


def _ranks(count: int) -> Counts:
    # As many of the ranks as can be distinguished on a logarithmic axis.
    return np.unique(np.round(np.geomspace(1, count, RANKS)).astype(np.int64))
