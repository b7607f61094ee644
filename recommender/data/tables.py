"""Parse and check the two tables of a release: ratings and items."""

import codecs
import io
from pathlib import Path
from textwrap import shorten
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from recommender.data.archive import FIX, WRONG_RELEASE, read_members
from recommender.data.movielens import GENRES, RATING_COLUMNS, Layout, Release
from recommender.errors import UserError

RATING_TYPES: Final = dict(zip(RATING_COLUMNS, (pa.int32(), pa.int32(), pa.float32(), pa.int64()), strict=True))
NUMBERS: Final = {pa.int32(): f"a whole number up to {2**31 - 1}", pa.int64(): f"a whole number up to {2**63 - 1}"}


def extract(path: Path, release: Release) -> tuple[pa.Table, pa.Table]:
    """Parse and check the ratings and items in an archive.

    Returns:
        ``ratings``: user_id, item_id (int32), rating (float32), timestamp (int64), in the file's order;
        ``items``: item_id (int32), title, categories (strings; categories joined by ``|``), in the file's order.
    """
    item_text, rating_text = read_members(path, release)
    items = _parse_items(item_text, release)
    ratings = _parse(rating_text, release.ratings, release.layout, RATING_TYPES, 0)
    del item_text, rating_text  # larger than the tables, and checking needs memory too
    _check_ratings(ratings, items, release)
    return ratings, items


def _parse_items(data: bytes, release: Release) -> pa.Table:
    layout = release.layout
    types = {name: pa.int32() if name == "item_id" else pa.string() for name in layout.columns}
    items = _parse(data, release.items, layout, types, 1)
    ids = items["item_id"].to_numpy()
    _refuse(ids < 1, ids, release.items, layout, "item_id is {}; ids are 1 to 2147483647")
    repeated = np.ones(len(ids), dtype=bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    _refuse(repeated, ids, release.items, layout, "item_id {} is listed a second time")
    title = items["title"]
    categories = items["categories"] if "categories" in layout.columns else _flagged(items, ids, release)
    for column in (title, categories):
        broken = pc.match_substring(column, "\n").to_numpy()
        _refuse(broken, ids, release.items, layout, "item_id {} runs over the end of the line: a quote is not closed")
        control = pc.match_substring_regex(column, r"[\x00-\x1f\x7f]").to_numpy()
        _refuse(control, ids, release.items, layout, "the text of item_id {} contains a control character")
    if "year" in layout.columns:
        with_year = pc.binary_join_element_wise(title, " (", items["year"], ")", "")
        title = pc.if_else(pc.equal(items["year"], ""), title, with_year)
    categories = pc.replace_substring(categories, layout.category_separator, "|")
    return pa.table({"item_id": items["item_id"], "title": title, "categories": categories})


def _flagged(items: pa.Table, ids: NDArray[np.int32], release: Release) -> pa.ChunkedArray:
    """Return the genres whose flags are set, joined by the layout's separator."""
    names = []
    for genre in GENRES:
        wrong = pc.invert(pc.is_in(items[genre], pa.array(["0", "1"]))).to_numpy()
        _refuse(wrong, ids, release.items, release.layout, f"the flag of {genre} of item_id {{}} is neither 0 nor 1")
        names.append(pc.if_else(pc.equal(items[genre], "1"), genre, pa.scalar(None, pa.string())))
    return pc.binary_join_element_wise(*names, release.layout.category_separator, null_handling="skip")


def _parse(data: bytes, name: str, layout: Layout, types: dict[str, pa.DataType], which: int) -> pa.Table:
    """Parse one member with the given column types, or name the first line that cannot be parsed."""
    written = layout.separators[which]
    separator = written if len(written) == 1 else "\t"
    encoding = "utf-8" if data.startswith(codecs.BOM_UTF8) else layout.encoding
    if layout.header:
        first = data.split(b"\n", 1)[0].decode(encoding, "replace").removeprefix("\ufeff").rstrip("\r")
        expected = separator.join(layout.header[which])
        if first != expected:
            raise UserError(f"{name}: line 1 is {first!r:.80}; {expected!r} is expected; {WRONG_RELEASE}")
        if b"\n" not in data.strip():
            raise UserError(f"{name}: has no rows under its header; {WRONG_RELEASE}")
    skipped, quote = layout.first_line - 1, '"' if layout.quoted else False
    reading = pyarrow.csv.ReadOptions(column_names=list(types), skip_rows=skipped, encoding=encoding)
    parsing = pyarrow.csv.ParseOptions(delimiter=separator, quote_char=quote, ignore_empty_lines=False)
    converting = pyarrow.csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False)
    try:
        return pyarrow.csv.read_csv(io.BytesIO(data), reading, parsing, converting)
    except pa.ArrowInvalid:
        pass
    # Only the slower, single-threaded parser knows the line at fault, and it cannot show one that is not text.
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}: line {line}: is not UTF-8 text; {FIX}") from None
    invalid: list[pyarrow.csv.InvalidRow] = []

    def keep(row: pyarrow.csv.InvalidRow) -> str:
        invalid.append(row)
        return "error"

    reading.use_threads, parsing.invalid_row_handler = False, keep
    try:
        return pyarrow.csv.read_csv(io.BytesIO(data), reading, parsing, converting)
    except pa.ArrowInvalid as error:
        if invalid:
            row = invalid[0]
            raise UserError(
                f"{name}: line {row.number}: has {row.actual_columns} columns where {row.expected_columns} "
                f"({shorten(', '.join(types), 60, placeholder=' ...')}) are expected, separated by {written!r}: "
                f"{row.text.replace(separator, written)!r:.80}; {FIX}"
            ) from None
        raise UserError(f"{name}: {_plain(str(error), types)}; {FIX}") from None


def _plain(message: str, types: dict[str, pa.DataType]) -> str:
    """Return pyarrow's conversion error in terms of the file: line, column, value."""
    line = message.split("Row #")[1].split(":")[0] if "Row #" in message else "?"
    names = list(types)
    column = names[int(message.split("CSV column #")[1].split(":")[0])] if "CSV column #" in message else "a value"
    found = message.split("invalid value ", 1)[-1]
    return f"line {line}: {column} must be {NUMBERS.get(types.get(column), 'a number')}; found {found:.80}"


def _check_ratings(ratings: pa.Table, items: pa.Table, release: Release) -> None:
    name, layout = release.ratings, release.layout
    low, high, step = release.scale
    values = ratings["rating"].to_numpy()
    with np.errstate(invalid="ignore"):
        right = (values >= low) & (values <= high) & (np.mod(values, step) == 0)
    _refuse(~right, values, name, layout, f"rating is {{}}; ratings are {low:g} to {high:g} in steps of {step:g}")
    users, ids = ratings["user_id"].to_numpy(), ratings["item_id"].to_numpy()
    _refuse(users < 1, users, name, layout, "user_id is {}; ids are 1 to 2147483647")
    seconds = ratings["timestamp"].to_numpy()
    _refuse(seconds < 0, seconds, name, layout, "timestamp is {}; timestamps are seconds since 1970, from 0 on")
    unknown = ~np.isin(ids, items["item_id"].to_numpy())
    _refuse(unknown, ids, name, layout, f"item_id {{}} is not in {release.items}")
    pairs = users.astype(np.int64) << 32 | ids
    ordered = np.sort(pairs)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        shown = []
        for pair in np.unique(repeated)[:3]:
            lines = np.flatnonzero(pairs == pair) + layout.first_line
            shown.append(f"user {pair >> 32} and item {pair & 0xFFFFFFFF} on lines {', '.join(map(str, lines[:5]))}")
        raise UserError(
            f"{name}: {len(repeated)} ratings repeat a user and item rated before: {'; '.join(shown)}; "
            "keep one rating of each pair"
        )


def _refuse(wrong: NDArray[np.bool_], values: NDArray[np.generic], name: str, layout: Layout, problem: str) -> None:
    """Raise a `UserError` about the first row where `wrong` is true."""
    if wrong.any():
        row = int(np.argmax(wrong))
        more = f" (and {np.count_nonzero(wrong) - 1} more lines)" if np.count_nonzero(wrong) > 1 else ""
        found = problem.format(f"{values[row]:g}" if values.dtype.kind == "f" else values[row])
        raise UserError(f"{name}: line {row + layout.first_line}: {found}{more}; {FIX}")
