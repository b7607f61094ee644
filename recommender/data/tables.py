"""Parse and check the two tables of a release: ratings and items."""

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recommender.data.archive import FIX, WRONG_RELEASE, Text, open_members
from recommender.data.movielens import GENRES, RATING_COLUMNS, Layout, Release
from recommender.errors import UserError
from recommender.storage import ROW_GROUP, atomic, row_groups

RATING_TYPES: Final = dict(zip(RATING_COLUMNS, (pa.int32(), pa.int32(), pa.float32(), pa.int64()), strict=True))
NUMBERS: Final = {pa.int32(): f"a whole number up to {2**31 - 1}", pa.int64(): f"a whole number up to {2**63 - 1}"}
AHEAD: Final = 8  # blocks of text in memory, which are parsed while the next ones are unpacked
MOST_PAIRS: Final = 2**25  # of users and items sorted at once, about
Wrong = tuple[str, NDArray[np.generic], NDArray[np.bool_]]  # a problem, the values of a column, and which have it


class Unparsed(NamedTuple):
    """Why a block of text cannot be parsed."""

    row: str  # the number of the first wrong row, from 1
    problem: str
    rows: int | None  # of the block; None where rows cannot be told


Parsed: TypeAlias = pa.Table | Unparsed


def extract(path: Path, release: Release, output: Path) -> pa.Table:
    """Parse and check the ratings and items in an archive; write the ratings and return the items.

    Ratings are never in memory whole but for 8 bytes of each of `MOST_PAIRS`. What is written to `output`: user_id,
    item_id (int32), rating (float32), timestamp (int64), in the file's order.

    Returns:
        item_id (int32), title, categories (strings; categories joined by ``|``), in the file's order.
    """
    with open_members(path, release) as (of_items, of_ratings):
        items = _parse_items(of_items, release)
        with atomic(output) as temporary:
            _write_ratings(temporary, of_ratings, items["item_id"].to_numpy(), release)
            _check_pairs(temporary, release)
    return items


def _parse_items(text: Text, release: Release) -> pa.Table:
    layout = release.layout
    types = {name: pa.int32() if name == "item_id" else pa.string() for name in layout.columns}
    items = pa.concat_tables(_parse(text, layout, types, 1))
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


def _parse(text: Text, layout: Layout, types: dict[str, pa.DataType], which: int) -> Iterator[pa.Table]:
    """Yield the rows of each block of a text with the given column types, or name the first line that is wrong."""
    written = layout.separators[which]
    separator = written if len(written) == 1 else "\t"
    blocks = iter(text)
    first = next(blocks)
    encoding = "utf-8" if first.startswith(codecs.BOM_UTF8) else layout.encoding
    if layout.header:
        start, _, first = first.partition(b"\n")
        header = start.decode(encoding, "replace").removeprefix("\ufeff").rstrip("\r")
        expected = separator.join(layout.header[which])
        if header != expected:
            raise UserError(f"{text.name}: line 1 is {header!r:.80}; {expected!r} is expected; {WRONG_RELEASE}")
        if not first or first.isspace():
            raise UserError(f"{text.name}: has no rows under its header; {WRONG_RELEASE}")
    quote = '"' if layout.quoted else False
    converting = pyarrow.csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False)

    def parse(block: bytes) -> Parsed:
        invalid: list[pyarrow.csv.InvalidRow] = []

        def keep(row: pyarrow.csv.InvalidRow) -> str:
            invalid.append(row)
            return "error"

        try:
            data = block.decode(encoding).encode()
        except UnicodeDecodeError:
            return Unparsed("?", "is not text", None)
        # Arrow numbers rows only where it has one thread. It never reads a Python file here, which its own threads
        # would go on with after an error, and abort the process.
        reading = pyarrow.csv.ReadOptions(column_names=list(types), use_threads=False, block_size=len(data) + 1)
        parsing = pyarrow.csv.ParseOptions(
            delimiter=separator, quote_char=quote, ignore_empty_lines=False, invalid_row_handler=keep
        )
        try:
            return pyarrow.csv.read_csv(pa.BufferReader(data), reading, parsing, converting)
        except pa.ArrowInvalid as error:
            if not invalid:
                return Unparsed(*_plain(str(error), types), len(block.splitlines()))
            row = invalid[0]
            problem = (
                f"has {row.actual_columns} columns where {row.expected_columns} "
                f"({shorten(', '.join(types), 60, placeholder=' ...')}) are expected, separated by {written!r}: "
                f"{row.text.replace(separator, written)!r:.80}"
            )
            return Unparsed(str(row.number), problem, None)

    line, problem = layout.first_line, ""
    for parsed in _in_threads(parse, chain([first], blocks)):
        if isinstance(parsed, Unparsed):
            number = str(line - 1 + int(parsed.row)) if parsed.row.isdecimal() else parsed.row
            if parsed.rows is None or not problem:
                problem = f"line {number}: {parsed.problem}"
            if parsed.rows is None:  # columns go before values, wherever in the file
                break
            line += parsed.rows
        else:
            yield parsed
            line += len(parsed)
    if problem:
        _check_encoding(text, encoding)
        raise UserError(f"{text.name}: {problem}; {FIX}")


def _in_threads(parse: Callable[[bytes], Parsed], blocks: Iterable[bytes]) -> Iterator[Parsed]:
    """Yield each block parsed, in their order, while up to `AHEAD` further ones are read and parsed."""
    with ThreadPoolExecutor() as pool:
        running: deque[Future[Parsed]] = deque()
        for block in blocks:
            running.append(pool.submit(parse, block))
            if len(running) > AHEAD:
                yield running.popleft().result()
        for future in running:
            yield future.result()


def _check_encoding(text: Text, encoding: str) -> None:
    line = 1
    for block in text:
        try:
            block.decode(encoding)
        except UnicodeDecodeError as error:
            line += block.count(b"\n", 0, error.start)
            raise UserError(f"{text.name}: line {line}: is not UTF-8 text; {FIX}") from None
        line += block.count(b"\n")


def _plain(message: str, types: dict[str, pa.DataType]) -> tuple[str, str]:
    """Return pyarrow's conversion error in terms of the file: the row's number, and column and value."""
    row = message.split("Row #")[1].split(":")[0] if "Row #" in message else "?"
    names = list(types)
    column = names[int(message.split("CSV column #")[1].split(":")[0])] if "CSV column #" in message else "a value"
    found = message.split("invalid value ", 1)[-1]
    return row, f"{column} must be {NUMBERS.get(types.get(column), 'a number')}; found {found:.80}"


def _write_ratings(path: Path, text: Text, listed: NDArray[np.int32], release: Release) -> None:
    """Write the ratings of users and listed items as they are read, and refuse wrong ones after that."""
    refused: dict[str, tuple[str, int]] = {}  # by problem: the first line with it, and the number of such lines
    line = release.layout.first_line
    with row_groups(path, pa.schema(RATING_TYPES)) as write:
        for rows in _grouped(_parse(text, release.layout, RATING_TYPES, 0)):
            write(rows)
            for problem, values, wrong in _wrong_ratings(rows, listed, release):
                first, count = refused.get(problem, ("", 0))
                if wrong.any():
                    first = first or _first(wrong, values, problem, line)
                refused[problem] = first, count + int(np.count_nonzero(wrong))
            line += len(rows)
    for first, count in refused.values():
        if count:
            raise _refusal(release.ratings, first, count)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of tables in tables of `ROW_GROUP`, and the rest."""
    rest = pa.schema(RATING_TYPES).empty_table()
    for table in tables:
        rest = pa.concat_tables([rest, table])
        while len(rest) >= ROW_GROUP:
            yield rest[:ROW_GROUP]
            rest = rest[ROW_GROUP:]
    if len(rest):
        yield rest


def _wrong_ratings(ratings: pa.Table, listed: NDArray[np.int32], release: Release) -> Iterator[Wrong]:
    low, high, step = release.scale
    users, ids, values, seconds = (ratings[name].to_numpy() for name in RATING_COLUMNS)
    with np.errstate(invalid="ignore"):
        right = (values >= low) & (values <= high) & (np.mod(values, step) == 0)
    yield f"rating is {{}}; ratings are {low:g} to {high:g} in steps of {step:g}", values, ~right
    yield "user_id is {}; ids are 1 to 2147483647", users, users < 1
    yield "timestamp is {}; timestamps are seconds since 1970, from 0 on", seconds, seconds < 0
    yield f"item_id {{}} is not in {release.items}", ids, ~np.isin(ids, listed)


def _check_pairs(path: Path, release: Release) -> None:
    """Refuse ratings of a user and an item rated before, of one share of the users after the other."""
    line, repeats = release.layout.first_line, 0
    with pq.ParquetFile(path) as file:
        count = file.metadata.num_rows
        shares = -(-count // MOST_PAIRS)
        every = np.empty(count, dtype=np.int64)  # takes memory only as far as a share fills it
        shown: list[int] = []
        for share in range(shares):
            filled = 0
            for read in _read_pairs(file):
                own = read[(read >> 32) % shares == share]
                every[filled : filled + len(own)] = own
                filled += len(own)
            pairs = every[:filled]
            pairs.sort()
            repeated = pairs[1:][pairs[1:] == pairs[:-1]]
            repeats += len(repeated)
            shown = sorted([*shown, *np.unique(repeated)[:3].tolist()])[:3]
        if not repeats:
            return
        lines: dict[int, list[int]] = {pair: [] for pair in shown}
        for read in _read_pairs(file):
            for pair, found in lines.items():
                found += (np.flatnonzero(read == pair)[:5] + line).tolist()
            line += len(read)
    places = [
        f"user {pair >> 32} and item {pair & 0xFFFFFFFF} on lines {', '.join(map(str, found[:5]))}"
        for pair, found in lines.items()
    ]
    raise UserError(
        f"{release.ratings}: {repeats} ratings repeat a user and item rated before: {'; '.join(places)}; "
        "keep one rating of each pair"
    )


def _read_pairs(file: pq.ParquetFile) -> Iterator[NDArray[np.int64]]:
    """Yield user and item ids in the upper and lower half of a number each, of one row group after the other."""
    for group in range(file.num_row_groups):
        users, items = (column.to_numpy() for column in file.read_row_group(group, ["user_id", "item_id"]).columns)
        yield users.astype(np.int64) << 32 | items


def _refuse(wrong: NDArray[np.bool_], values: NDArray[np.generic], name: str, layout: Layout, problem: str) -> None:
    """Raise a `UserError` about the first row where `wrong` is true."""
    if wrong.any():
        raise _refusal(name, _first(wrong, values, problem, layout.first_line), int(np.count_nonzero(wrong)))


def _first(wrong: NDArray[np.bool_], values: NDArray[np.generic], problem: str, line: int) -> str:
    """Return the problem of the first row where `wrong` is true; `line` is that of the first row."""
    row = int(np.argmax(wrong))
    return f"line {row + line}: {problem.format(f'{values[row]:g}' if values.dtype.kind == 'f' else values[row])}"


def _refusal(name: str, first: str, count: int) -> UserError:
    more = f" (and {count - 1} more lines)" if count > 1 else ""
    return UserError(f"{name}: {first}{more}; {FIX}")
