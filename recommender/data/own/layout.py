"""What the first lines of a file show: its format, separator and header, and which column is which."""

import codecs
import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import pyarrow.parquet as pq

from recommender.data.own.files import START, File, whole
from recommender.params import Column, Own

if TYPE_CHECKING:
    from _csv import Reader

Kind = Literal["text", "json", "parquet"]
SAMPLE: Final = 100  # lines
SEPARATORS: Final = ("::", "\t", ",", ";", "|", " ")
LETTER: Final = "\x1f"  # in place of a separator of two letters, which no parser takes
KINDS: Final = {b"<": "a web page or XML", b"[": "a JSON array; write one object a line", b"%PDF": "a PDF file"}
ENCODINGS: Final = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
TYPED: Final = re.compile(r"(.+):(token|token_seq|float|float_seq)$")  # a header of RecBole's atomic files
VALUE: Final = re.compile(r"\s*([-+]?[\d.]+(e[-+]?\d+)?|\d{4}-\d\d-\d\d.*)\s*", re.IGNORECASE)  # a number or a date

# Names that are recognized, in any case and with or without signs between words; of several, the first counts.
NAMES: Final = {
    "user": "user_id user uid customer_id customer reviewer_id member_id visitor_id reader_id",
    "item": "item_id item iid movie_id movie book_id book isbn asin parent_asin product_id product song_id track_id "
    "artist_id game_id anime_id article_id business_id sku",
    "rating": "rating score stars book_rating user_rating overall",
    "timestamp": "timestamp time ts unix_review_time datetime date created_at review_time",
    "title": "title movie_title book_title item_title product_title name item_name product_name",
    "categories": "categories category genres genre class tags",
}
RATINGS: Final = ("user", "item", "rating", "timestamp")
ITEMS: Final = ("item", "title", "categories")
NO_COLUMN: Final = "none"


@dataclass(frozen=True)
class Layout:
    """How a file is written."""

    kind: Kind
    names: tuple[str, ...]  # of the columns; their numbers, from 1, where there is no header
    header: bool = True
    separator: str = ""
    quoted: bool = False
    skip: int = 0  # lines before the first row
    atomic: bool = False

    def __str__(self) -> str:
        """Return the layout in words."""
        if self.kind != "text":
            return {"json": "JSON lines", "parquet": "Parquet"}[self.kind]
        kind = "a RecBole atomic file" if self.atomic else f"text, separated by {self.separator!r}"
        return f"{kind}, {'with' if self.header else 'without'} a header"


def recognize(file: File, own: Own, roles: Sequence[str]) -> Layout:
    """Return the layout of a file with columns for some of `NAMES`; `own` overrides what is found of the ratings."""
    start = file.start()
    if not start.strip():
        file.refuse("is empty")
    if start.startswith(b"PAR1"):
        with file.reading(), file.open() as stream, pq.ParquetFile(whole(stream)) as parquet:
            return Layout("parquet", tuple(parquet.schema_arrow.names))
    for magic, kind in (KINDS | ENCODINGS).items():
        if start.lstrip().startswith(magic):
            file.refuse(f"is {kind}; allowed are UTF-8 text, JSON lines, Parquet and RecBole's atomic files")
    text = start.decode("utf-8-sig", "replace")
    lines = text.splitlines(keepends=True)
    lines = lines[: max(1, len(lines) - (len(start) == START))][:SAMPLE]  # the last may be cut
    if text.lstrip().startswith("{"):
        return Layout("json", tuple(dict.fromkeys(name for line in lines for name in _keys(line))))
    given = own if roles == RATINGS else None
    separator = (given and given.separator) or _separator(lines)
    if separator is None or separator not in lines[0]:
        wanted = "a separator of columns" if separator is None else repr(separator)
        file.refuse(f"line 1 is {lines[0].rstrip()!r:.80}, without {wanted}", "set data.own.separator")
    typed = all(TYPED.fullmatch(name) for name in lines[0].rstrip("\r\n").split(separator))
    quoted = separator != "::" and not typed
    parser = fields(lines, separator, quoted=quoted)
    first = next(parser)
    skip, rest = parser.line_num, list(parser)
    header = given.header if given and given.header is not None else typed or _header(first, rest, own, roles)
    if header is None:
        problem = f"line 1 is {lines[0].rstrip()!r:.80}: names of columns or values?"
        file.refuse(problem, "set data.own.header to true or false")
    if not header:
        return Layout("text", tuple(map(str, range(1, len(first) + 1))), False, separator, quoted, 0)
    names = tuple(TYPED.sub(r"\1", name.strip()) if typed else name.strip() for name in first)
    return Layout("text", names, True, separator, quoted, skip, typed)


def fields(lines: Iterable[str], separator: str, *, quoted: bool) -> "Reader":
    """Return the standard library's reader of rows, which knows the number of the line that it has read."""
    if len(separator) > 1:
        return fields((line.replace(separator, LETTER) for line in lines), LETTER, quoted=quoted)
    return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)


def choose(file: File, layout: Layout, own: Own, roles: Sequence[str]) -> dict[str, int]:
    """Return the position of the column of every role that has one; user and item must."""
    found: dict[str, int] = {}
    names = list(layout.names)
    shown = ", ".join(f"{name:.40}" for name in names[:20])
    for role in roles:
        given: Column = getattr(own.columns, role)
        if roles == ITEMS and role == "item" and given not in names:
            continue  # columns.item is about the ratings; the items may call it by a common name
        if given in (None, NO_COLUMN):
            continue
        if given > len(names) if isinstance(given, int) else names.count(given) != 1:
            problem = "several columns have that name" if given in names else "there is no such column"
            file.refuse(f"data.own.columns.{role} is {given!r:.80}, but {problem}: {shown}", "set it to one of these")
        found[role] = given - 1 if isinstance(given, int) else names.index(given)
    for position, role in enumerate(roles):
        if role not in found and getattr(own.columns, role) != NO_COLUMN:
            at = _named(file, names, role, roles) if layout.header else position if position < len(names) else None
            if at is not None and at not in found.values():
                found[role] = at
    for role in ("user", "item"):
        if role in roles and role not in found:
            fix = f'set data.own.columns.{role}, or COLUMNS="{role}=NAME"'
            file.refuse(f"no column for the {role} is found among {shown}", fix)
    for role, position in found.items():
        if list(found.values()).count(position) > 1:
            problem = f"column {names[position]!r:.40} cannot be the {role} and something else"
            file.refuse(problem, "set data.own.columns")
    return found


def _keys(line: str) -> list[str]:
    try:
        record = json.loads(line)
    except ValueError:
        return []  # the reader names the line
    return list(record) if isinstance(record, dict) else []


def _separator(lines: list[str]) -> str | None:
    """Return the separator that divides most lines, or else the first, into most columns; a space comes last."""
    best: tuple[bool, int, str | None] = (False, 1, None)
    for separator in SEPARATORS:
        lengths = [len(row) for row in fields(lines, separator, quoted=separator != "::") if row]
        same = 2 * lengths.count(lengths[0]) > len(lengths)
        if (same, lengths[0]) > best[:2] and lengths[0] > 1 and (separator != " " or best[2] is None):
            best = same, lengths[0], separator
    return best[2]


def _header(first: list[str], rest: list[list[str]], own: Own, roles: Sequence[str]) -> bool | None:
    """Return whether the first row has names; None where that cannot be seen."""
    known = {_plain(name) for role in roles for name in NAMES[role].split()} | {
        _plain(str(name)) for _, name in own.columns if name is not None
    }
    if sum(_plain(name) in known for name in first) >= min(2, len(first)):
        return True
    columns = [(name, [row[at] for row in rest if at < len(row)]) for at, name in enumerate(first)]
    if any(values and all(map(VALUE.fullmatch, values)) and not VALUE.fullmatch(name) for name, values in columns):
        return True
    return False if any(map(VALUE.fullmatch, first)) else None


def _named(file: File, names: Sequence[str], role: str, roles: Sequence[str]) -> int | None:
    plain = [_plain(name) for name in names]
    for known in map(_plain, [*NAMES[role].split(), *(["id"] if (role, roles) == ("item", ITEMS) else [])]):
        if plain.count(known) > 1:
            file.refuse(f"two columns are called {names[plain.index(known)]!r:.40}", f"set data.own.columns.{role}")
        if known in plain:
            return plain.index(known)
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", TYPED.sub(r"\1", name.strip())).casefold()
