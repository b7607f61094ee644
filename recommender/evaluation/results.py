"""Results by user: a table with a row for each model and user, from which whatever is known of the models derives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recommender.errors import RERUN, UserError
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.lists import BY_ITEMS, LISTS, ListMeasures
from recommender.evaluation.metrics import (
    ACCURACY,
    ERRORS,
    Measured,
    Totals,
    error_totals,
    exposure,
    means,
    places,
    user_errors,
)
from recommender.evaluation.statistics import Statistics, statistics
from recommender.storage import read_table

BY_USER: Final = (*ACCURACY, *ERRORS, *LISTS, *BY_ITEMS)  # the metrics that have a value for each user
USER: Final = ("user", "cold", "known_ratings", "test_ratings")  # what is the same for all models
DECIMALS: Final = 9  # keeps noise in the last bits out of the file


Results = tuple[Totals, pa.Table]  # of a model: what `Summed` adds up, and the results by user, as in `UserResults`


def measure(
    model: str, measures: ListMeasures, lists: NDArray[np.int32], predicted: NDArray[np.float64] | None
) -> Results:
    """Measure a model's (users, K) lists for the users of a held-out part, and its (n,) predicted ratings, if any."""
    held_out, measured = measures.held_out, measures.measure(lists)
    totals, ratings = dict(measured.totals), held_out.ratings
    if predicted is not None:
        totals |= error_totals(predicted, ratings.ratings, held_out.learned.users[ratings.users])
    return totals, user_table(model, held_out, measured, lists, predicted)


class Summed:
    """A model's results, added up over parts of the users."""

    def __init__(self, k: int, num_items: int) -> None:
        """Start with no users, for lists of k items."""
        self.totals: Totals = {}
        # Lists that have an item at a rank, of all users and of those known.
        self.placed = np.zeros((2, k, num_items), dtype=np.int64)

    def add(self, totals: Totals, table: pa.Table) -> None:
        """Add what `measure` returns of a part."""
        self.totals = {name: self.totals.get(name, 0) + total for name, total in totals.items()}
        lists, known = _lists(table), ~table["cold"].to_numpy()
        for placed, rows in zip(self.placed, (lists, lists[known]), strict=True):
            for rank, counts in enumerate(places(rows, placed.shape[1])):
                placed[rank] += counts

    @property
    def users(self) -> tuple[int, int]:
        """The users measured, and how many of them the model knows."""
        every, known = self.totals["map"][:, -1].astype(int).tolist()
        return every, known

    def curves(self, row: int = 0) -> dict[str, NDArray[np.float64]]:
        """Return the metrics at every k, (K,) each, of all users or, in row 1, of those known."""
        ranking = {name: total for name, total in self.totals.items() if name not in ERRORS}
        return means(ranking, row) | exposure(self.placed[row])

    def metrics(self) -> dict[str, Any]:
        """Return the metrics at K as they are written to JSON, those of known users too where there are others."""

        def summarised(row: int) -> dict[str, Any]:
            found = {"users": self.users[row], **{name: float(curve[-1]) for name, curve in self.curves(row).items()}}
            errors = means({name: self.totals[name] for name in ERRORS if name in self.totals}, row)
            return found | {name: float(mean[0]) ** (0.5 if name == "rmse" else 1) for name, mean in errors.items()}

        every, known = self.users
        return summarised(0) | ({"known_users": summarised(1)} if 0 < known < every else {})


def user_table(
    model: str,
    held_out: HeldOut,
    measured: Measured,
    lists: NDArray[np.int32],
    predicted: NDArray[np.float64] | None = None,
) -> pa.Table:
    """Return a model's results by user.

    Returns:
        model (its name), user (index, int32), cold (whether the model knows nothing of the user), known_ratings and
        test_ratings (how many the user has, int32), float64 columns of `BY_USER` at K, null where a metric says nothing
        of the user, and items, the list of K item indices (int32, -1 where there are no more candidates).
    """
    users, test = held_out.users, held_out.ratings
    values = dict(measured.users)
    if predicted is not None:
        values |= user_errors(np.searchsorted(users, test.users), predicted, test.ratings)
    absent = np.full(len(users), np.nan)
    columns = {
        "model": [model] * len(users),
        "user": users,
        "cold": held_out.cold,
        "known_ratings": np.diff(held_out.seen.indptr)[users],
        "test_ratings": np.bincount(test.users)[users],
        **{name: pa.array(values.get(name, absent).round(DECIMALS), from_pandas=True) for name in BY_USER},
        "items": pa.FixedSizeListArray.from_arrays(lists.ravel(), lists.shape[1]),
    }
    return pa.table(columns, no_users(lists.shape[1]).schema)


def no_users(k: int) -> pa.Table:
    """Return a table as of `user_table` without rows, for lists of k items."""
    counts = [(name, pa.int32()) for name in ("user", "known_ratings", "test_ratings")]
    values = [(name, pa.float64()) for name in BY_USER]
    names = [("model", pa.string()), counts[0], ("cold", pa.bool_()), *counts[1:]]
    return pa.schema([*names, *values, ("items", pa.list_(pa.int32(), k))]).empty_table()


def _lists(table: pa.Table) -> NDArray[np.int32]:
    items: NDArray[np.int32] = table["items"].combine_chunks().flatten().to_numpy()
    return items.reshape(len(table), table.schema.field("items").type.list_size)


@dataclass(frozen=True)
class UserResults:
    """What `user_table` holds, of several models and the same users, whatever the order of its rows."""

    metrics: dict[str, dict[str, NDArray[np.float64]]]  # model -> metric -> (users,), NaN where it has none
    lists: dict[str, NDArray[np.int32]]  # model -> (users, K)
    user: NDArray[np.int32]  # (users,) ascending
    cold: NDArray[np.bool_]  # (users,)
    known_ratings: NDArray[np.int32]  # (users,)
    test_ratings: NDArray[np.int32]  # (users,)

    @classmethod
    def read(cls, *paths: Path) -> Self:
        """Read files of such tables."""
        return cls.of(pa.concat_tables([read_table(path) for path in paths]))

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Read the content of such a file."""
        return cls.of(pq.read_table(pa.BufferReader(data)))

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Take such tables, one after another; those of other users than the first raise a `UserError`."""
        values, lists, rows = {}, {}, []
        for model in pc.unique(table["model"]).to_pylist():
            part = table.filter(pc.equal(table["model"], model)).sort_by("user").combine_chunks()
            values[model] = {name: part[name].to_numpy() for name in BY_USER if name in part.column_names}
            lists[model] = _lists(part)
            rows.append([part[name].to_numpy() for name in USER])
            if not all(np.array_equal(own, other) for own, other in zip(rows[-1], rows[0], strict=True)):
                raise UserError(
                    f"results by user: {model} was measured on other users than {next(iter(values))}; {RERUN}"
                )
        if not rows:
            raise UserError(f"results by user: there are none, because nothing was measured; {RERUN}")
        return cls(values, lists, *rows[0])

    def of_models(self, names: Mapping[str, str]) -> "UserResults":
        """Return the results of some of the models by other names, each with the name that it has here."""
        values = {name: self.metrics[model] for name, model in names.items()}
        return replace(self, metrics=values, lists={name: self.lists[model] for name, model in names.items()})

    def of_users(self, chosen: NDArray[np.bool_]) -> "UserResults":
        """Return the results of some of the users."""
        values = {model: {name: value[chosen] for name, value in row.items()} for model, row in self.metrics.items()}
        lists = {model: rows[chosen] for model, rows in self.lists.items()}
        return UserResults(values, lists, *(getattr(self, name)[chosen] for name in USER))

    def statistics(self, metrics: Sequence[str] = BY_USER, *, pairs: bool = True) -> Statistics:
        """Return intervals of the models' metrics and the differences of the models, see `statistics`."""
        return statistics(self.metrics, metrics, self.test_ratings, pairs=pairs)
