"""Results by user: a table with a row for each model and user, from which whatever is known of the models derives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recommender.errors import RERUN, UserError
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.lists import BY_ITEMS, LISTS
from recommender.evaluation.metrics import ACCURACY, ERRORS, Measured, user_errors
from recommender.evaluation.statistics import Statistics, statistics
from recommender.storage import read_table

BY_USER: Final = (*ACCURACY, *ERRORS, *LISTS, *BY_ITEMS)  # the metrics that have a value for each user
DECIMALS: Final = 9  # keeps noise in the last bits out of the file


def user_table(
    model: str,
    held_out: HeldOut,
    measured: Measured,
    lists: NDArray[np.int32],
    predicted: NDArray[np.float64] | None = None,
) -> pa.Table:
    """Return a model's results by user.

    Returns:
        model (its name), user (index, int32), known_ratings and test_ratings (how many the user has, int32), float64
        columns of `BY_USER` at K, null where a metric says nothing of the user, and items, the list of K item indices
        (int32, -1 where there are no more candidates).
    """
    users, test = held_out.users, held_out.ratings
    values = dict(measured.users)
    if predicted is not None:
        values |= user_errors(np.searchsorted(users, test.users), predicted, test.ratings)
    absent = np.full(len(users), np.nan)
    columns = {
        "model": [model] * len(users),
        "user": users,
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
    return pa.schema([("model", pa.string()), *counts, *values, ("items", pa.list_(pa.int32(), k))]).empty_table()


@dataclass(frozen=True)
class UserResults:
    """What `user_table` holds, of several models and the same users."""

    metrics: dict[str, dict[str, NDArray[np.float64]]]  # model -> metric -> (users,), NaN where it has none
    lists: dict[str, NDArray[np.int32]]  # model -> (users, K)
    user: NDArray[np.int32]  # (users,)
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
            part = table.filter(pc.equal(table["model"], model)).combine_chunks()
            values[model] = {name: part[name].to_numpy() for name in BY_USER}
            lists[model] = part["items"].combine_chunks().flatten().to_numpy().reshape(len(part), -1)
            rows.append([part[name].to_numpy() for name in ("user", "known_ratings", "test_ratings")])
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
        return UserResults(
            values, lists, *(each[chosen] for each in (self.user, self.known_ratings, self.test_ratings))
        )

    def statistics(self, metrics: Sequence[str] = BY_USER, *, pairs: bool = True) -> Statistics:
        """Return intervals of the models' metrics and the differences of the models, see `statistics`."""
        return statistics(self.metrics, metrics, self.test_ratings, pairs=pairs)
