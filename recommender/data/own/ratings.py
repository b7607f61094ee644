"""Read and check the ratings of a user's own file."""

import contextlib
import sys
from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recommender.data.own.files import File
from recommender.data.own.layout import RATINGS, choose, recognize
from recommender.data.own.rows import Rows
from recommender.params import Own

IDS: Final = ("user", "item")
WHOLE: Final = r"^(0|-?[1-9][0-9]{0,18})$"  # a whole number as it would be written again
LONGEST_ID: Final = 1000  # characters
STRINGS: Final = ("string", "large_string", "string_view")
FINITE: Final = float(np.finfo(np.float32).max)
MILLISECONDS: Final = 10**11  # numbers from here on count milliseconds: as seconds they are past the year 5000
LATEST: Final = 10**14
TIMES: Final = "seconds or milliseconds since 1970, or an ISO date such as 2004-05-06 or 2004-05-06T10:11:12Z"
ZONE: Final = r"([zZ]|[-+]\d\d:?\d\d)$"
ERRORS = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
Convert = Callable[[pa.Array], pa.Array]
Coded = tuple[NDArray[np.int32], pa.Array]  # codes, and the ids that they number
SHOWN: Final = 3  # repeated pairs in a message


def read_ratings(file: File, own: Own) -> pa.Table:
    """Return user_id, item_id (int64, or text as a dictionary), rating (float32) and timestamp (int64, or all null)."""
    layout = recognize(file, own, RATINGS)
    columns = choose(file, layout, own, RATINGS)
    rows = Rows(file, layout)
    parts: dict[str, list[pa.Array]] = {role: [] for role in columns}
    converters: dict[str, Convert] = {}
    for first, batch in rows.batches(columns):
        for role, column in batch.items():
            if role in IDS:
                parts[role].append(encode(rows, role, column, first))
            else:
                convert = converters.setdefault(role, _rating if role == "rating" else _time(column))
                parts[role].append(_convert(rows, role, column, convert, first, own))
    users, items = (unify(parts.pop(role)) for role in IDS)
    count = len(users[0])
    rating = pa.chunked_array(parts.pop("rating", [pa.array(np.ones(count, np.float32))]))
    timestamp = pa.chunked_array(parts.pop("timestamp", [pa.nulls(count, pa.int64())]))
    if not timestamp.null_count and pc.max(timestamp).as_py() >= MILLISECONDS:
        timestamp = pc.divide(timestamp, 1000)
    pa.default_memory_pool().release_unused()
    kept, rating = _without_duplicates(rows, users, items, rating, timestamp, own.duplicates)
    if kept is not None:
        print(f"{file.name}: {np.count_nonzero(~kept)} repeated ratings are left out", file=sys.stderr)
        users, items = ((codes[kept], ids) for codes, ids in (users, items))
        rating, timestamp = (column.filter(pa.array(kept)) for column in (rating, timestamp))
    user_id, item_id = (
        pa.DictionaryArray.from_arrays(codes, ids) if pa.types.is_string(ids.type) else ids.take(codes)
        for codes, ids in (users, items)
    )
    return pa.table({"user_id": user_id, "item_id": item_id, "rating": rating, "timestamp": timestamp})


def encode(rows: Rows, role: str, column: pa.Array, offset: int) -> pa.DictionaryArray:
    """Return a batch of ids as codes of text, or refuse its first wrong row."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pa.types.is_integer(column.type) and str(column.type) not in STRINGS:
        found = f"{column[0].as_py()!s:.40}, of type {column.type}"
        rows.refuse(offset, f"{role} is {found}; ids are whole numbers or text")
    if column.null_count:
        rows.refuse(offset + column.is_null().index(True).as_py(), f"{role} is missing")
    coded = column.dictionary_encode()
    values = coded.dictionary.cast(pa.string())
    for wrong, problem in (
        (pc.equal(values, ""), "is empty"),
        (pc.match_substring(values, "\n"), "runs over the end of the line; is a quote not closed?"),
        (pc.greater(pc.utf8_length(values), LONGEST_ID), f"is longer than {LONGEST_ID} characters"),
    ):
        if (code := wrong.index(True).as_py()) >= 0:
            row = coded.indices.index(pa.scalar(code, pa.int32())).as_py()
            rows.refuse(offset + row, f"{role} {problem}: {values[code].as_py()!r:.80}")
    return pa.DictionaryArray.from_arrays(coded.indices, values)


def unify(parts: list[pa.DictionaryArray]) -> Coded:
    """Return codes and the ids that they number: int64 where all are whole numbers, else text. Empties the list."""
    column = pa.chunked_array(parts).unify_dictionaries()
    parts.clear()
    codes, values = np.concatenate([chunk.indices for chunk in column.chunks]), column.chunk(0).dictionary
    if pc.all(pc.match_substring_regex(values, WHOLE)).as_py():
        with contextlib.suppress(pa.ArrowInvalid):  # beyond 64 bits
            values = values.cast(pa.int64())
    return codes, values


def _convert(rows: Rows, role: str, column: pa.Array, convert: Convert, offset: int, own: Own) -> pa.Array:
    """Return a batch of ratings or timestamps as numbers, or refuse its first wrong row."""
    if column.null_count:
        rows.refuse(offset + column.is_null().index(True).as_py(), f"{role} is missing")
    try:
        values = convert(column)
    except ERRORS:
        row = bisect_left(range(len(column)), True, key=lambda row: not _converts(column[: row + 1], convert))
        allowed = "a number" if role == "rating" else TIMES
        rows.refuse(offset + row, f"{role} must be {allowed}; found {column[row].as_py()!r:.80}")
    low, high, allowed = 0.0, float(LATEST), f"timestamps are {TIMES}, from 1970 on"
    if role == "rating":
        low, high = own.scale or (-FINITE, FINITE)
        allowed = f"ratings are {low:g} to {high:g}, by data.own.scale" if own.scale else "ratings are finite numbers"
    wrong = ~((values.to_numpy() >= low) & (values.to_numpy() <= high))
    if wrong.any():
        row = int(np.argmax(wrong))
        rows.refuse(offset + row, f"{role} is {column[row].as_py()!s:.80}; {allowed}")
    return values


def _rating(column: pa.Array) -> pa.Array:
    return _number(column).cast(pa.float32(), safe=False)


def _number(column: pa.Array) -> pa.Array:
    if pa.types.is_boolean(column.type) or pa.types.is_temporal(column.type):
        raise pa.ArrowInvalid("not a number")
    column = pc.utf8_trim_whitespace(column.cast(pa.string())) if str(column.type) in STRINGS else column
    return column.cast(pa.float64(), safe=False)


def _time(column: pa.Array) -> Convert:
    """Return how a column of times is converted, which its first value shows."""
    if pa.types.is_temporal(column.type):
        return _dates
    return _seconds if _converts(column[:1], _number) else _iso_dates


def _seconds(column: pa.Array) -> pa.Array:
    return pc.floor(_number(column)).cast(pa.int64(), safe=False)


def _dates(column: pa.Array) -> pa.Array:
    zone = getattr(column.type, "tz", None)
    return pc.divide(column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64()), 1_000_000)


def _iso_dates(column: pa.Array) -> pa.Array:
    """Return seconds since 1970 of ISO dates, in UTC where they name no zone."""
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    text = pc.if_else(pc.equal(pc.utf8_length(text), 10), pc.binary_join_element_wise(text, "T00:00:00", ""), text)
    text = pc.if_else(pc.match_substring_regex(text, ZONE), text, pc.binary_join_element_wise(text, "Z", ""))
    return _dates(text.cast(pa.timestamp("us", "UTC")))


def _converts(column: pa.Array, convert: Convert) -> bool:
    try:
        convert(column)
    except ERRORS:
        return False
    return True


def _without_duplicates(
    rows: Rows,
    users: Coded,
    items: Coded,
    rating: pa.ChunkedArray,
    timestamp: pa.ChunkedArray,
    policy: Literal["error", "last", "mean", "max"],
) -> tuple[NDArray[np.bool_] | None, pa.ChunkedArray]:
    """Return which rows to keep, None for all, and the ratings; or refuse duplicates.

    Of each pair, the last in time is kept and, of the same time or without times, the last in the file: for ``max`` of
    those with the highest rating, and for ``mean`` with the mean as its rating.
    """
    pairs = _pairs(users, items)
    pairs.sort()  # in place, and computed again below: memory is short here
    repeated = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
    if not len(repeated):
        return None, rating
    pairs = _pairs(users, items)
    of_repeated = np.flatnonzero(pc.is_in(pa.array(pairs), value_set=pa.array(repeated)))
    pairs = pairs[of_repeated]
    if policy == "error":
        shown = []
        for pair in repeated[:SHOWN]:
            found = of_repeated[pairs == pair]
            user, item = (ids[int(codes[found[0]])].as_py() for codes, ids in (users, items))
            places = ", ".join(rows.places(found[:5].tolist()))
            shown.append(f"user {user!s:.40} and item {item!s:.40} on {places}")
        rows.file.refuse(
            f"{len(pairs) - len(repeated)} ratings repeat a user and item rated before: {'; '.join(shown)}",
            "keep one of each, or set data.own.duplicates to last, max or mean",
        )
    values, times = (column.take(pa.array(of_repeated)).to_numpy() for column in (rating, timestamp))
    keys = [values, pairs] if policy == "max" else [pairs]
    order = np.lexsort(keys if timestamp.null_count else [times, *keys])
    last = np.append(np.diff(pairs[order]) != 0, True)
    kept = np.ones(len(rating), dtype=bool)
    kept[of_repeated[order[~last]]] = False
    if policy == "mean":
        groups = np.searchsorted(repeated, pairs)
        means = np.bincount(groups, weights=values) / np.bincount(groups)
        new = rating.to_numpy().copy()
        new[of_repeated] = means[groups]
        rating = pa.chunked_array([new])
    return kept, rating


def _pairs(users: Coded, items: Coded) -> NDArray[np.int64]:
    """Return a number for each row's user and item."""
    pairs = users[0].astype(np.int64)
    pairs *= len(items[1])
    pairs += items[0]
    return pairs
