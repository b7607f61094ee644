"""Broken rating and movie files in every layout: refused with file and line, or read as the table that they mean."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from recommender.data.movielens import RELEASES
from recommender.paths import ARCHIVE
from stages import extract as extract_stage
from tests.conftest import Ending, set_params
from tests.samples import ITEM_ROWS, ITEM_TEXT, RATING_ROWS, RATING_TEXT, extracted, pack, rows


class Files:
    """The movies and ratings of a release, to be broken."""

    def __init__(self, name: str) -> None:
        """Start with good ones."""
        self.release = RELEASES[name]
        self.items, self.ratings = ITEM_TEXT[name], RATING_TEXT[name]
        layout = self.release.layout
        self.separators = dict(zip(("ratings", "items"), layout.separators, strict=True))
        self.separator, self.encoding = layout.separator, layout.encoding
        self.first = self.release.layout.first_line - 1

    def lines(self, member: str, change: Callable[[list[str]], object]) -> None:
        """Change the lines of a member."""
        lines = getattr(self, member).splitlines()
        change(lines)
        setattr(self, member, "\n".join(lines) + "\n")


Change = Callable[[Files], object]


def sub(member: str, pattern: str, text: str) -> Change:
    """Return a change by a regular expression; `::` in a text is the layout's separator."""

    def change(files: Files) -> None:
        by = text.replace("::", files.separators[member])
        setattr(files, member, re.sub(pattern, lambda _: by, getattr(files, member), flags=re.MULTILINE))

    return change


def title(text: str) -> Change:
    """Return a change of the title in the second row of the movies."""
    return sub("items", "Toy: Story", text)


def inserted(member: str, row: int, text: str) -> Change:
    """Return a change that puts a line before a row; row 0 is the first with values."""
    return lambda files: files.lines(
        member, lambda lines: lines.insert(files.first + row, text.replace("::", files.separators[member]))
    )


def row(*values: object, at: int = 1) -> Change:
    """Return a change that replaces a row of the ratings."""
    return lambda files: files.lines(
        "ratings", lambda lines: lines.__setitem__(files.first + at, files.separator.join(map(str, values)))
    )


def value(column: int, found: object) -> Change:
    """Return a change of one value in the second row of the ratings."""
    values: list[object] = [9, 1, 3, 5]
    values[column] = found
    return row(*values)


def separated(by: str) -> Change:
    """Return a change of the separator in the ratings."""
    return lambda files: setattr(files, "ratings", files.ratings.replace(files.separator, by))


def in_encoding(name: str) -> Change:
    """Return a change of the encoding."""
    return lambda files: setattr(files, "encoding", name)


def exchanged(files: Files) -> None:
    files.items, files.ratings = files.ratings, files.items


def three_columns(files: Files) -> None:
    for at in range(4):
        row(9, 1, 3, at=at)(files)


ALL = r"(?s)\A.*\Z"
WHOLE = "must be a whole number up to 2147483647; found"
LONG = "must be a whole number up to 9223372036854775807; found"
IDS = "ids are 1 to 2147483647"
# Each with words of its message, where {row} is the number of the line with the second row.
CASES: dict[str, tuple[Change, str]] = {
    "semicolons between columns": (separated(";"), "line 1"),
    "bars between columns": (separated("|"), "line 1"),
    "spaces between columns": (separated(" "), "line 1"),
    "a column too few": (row(9, 1, 3), "line {row}: has 3 columns where 4 "),
    "a column too many": (row(9, 1, 3, 5, 6), "line {row}: has 5 columns where 4 "),
    "a separator at the end": (row(9, 1, 3, 5, ""), "line {row}: has 5 columns where 4 "),
    "a separator at the start": (row("", 9, 1, 3), f"line {{row}}: user_id {WHOLE} ''"),
    "a column missing in all lines": (three_columns, "has 3 columns where 4 "),
    "a column too many among the movies": (title("Toy::"), r"line {row}: has \d+ columns"),
    "a last line cut off": (sub("ratings", r".{5}\n\Z", ""), "line"),
    "a blank line at the top": (inserted("ratings", 0, ""), f"user_id {WHOLE} ''"),
    "a blank line in the middle": (inserted("ratings", 1, ""), f"line {{row}}: user_id {WHOLE} ''"),
    "a blank line at the end": (inserted("ratings", 4, ""), f"user_id {WHOLE} ''"),
    "a blank line among the movies": (inserted("items", 1, ""), f"line {{row}}: item_id {WHOLE} ''"),
    "a line of spaces": (inserted("ratings", 1, "   "), "line {row}: "),
    "a comment": (inserted("ratings", 1, "# more ratings"), "line {row}: "),
    "a second header": (inserted("ratings", 1, "user::item::rating::time"), f"line {{row}}: user_id {WHOLE} 'user'"),
    "another header": (sub("ratings", r"\A", "user::item::stars::when\n"), "line 1"),
    "an empty file": (sub("ratings", ALL, ""), "is empty"),
    "a file of line ends": (sub("ratings", ALL, "\n\r\n\n"), "is empty"),
    "an empty list of movies": (sub("items", ALL, ""), "is empty"),
    "ratings and movies exchanged": (exchanged, "line 1"),
    "UTF-16": (in_encoding("utf-16"), "line [14]"),
    "random bytes": (sub("ratings", ALL, bytes(range(1, 256)).decode("ascii", "surrogateescape") * 8), "line 1"),
    "JSON": (sub("ratings", ALL, '[{"userId": 9, "movieId": 3, "rating": 4}]\n'), "line 1"),
    "a line without end": (row("9" * 100_000, 1, 3, 5), f"line {{row}}: user_id {WHOLE} '999"),
    "NUL in a number": (value(1, "1\0"), rf"item_id {WHOLE} '1\\x00'"),
    "NUL in a title": (title("Toy\0Story"), "line {row}: the text of item_id 1 contains a control character"),
    "a command to the terminal in a title": (title("\x1b[2JToy"), "contains a control character"),
    "a command to the terminal in a number": (value(0, "\x1b[2J9"), r"found '\\x1b\[2J9'"),
    "a user id beyond 32 bits": (value(0, 2**31), f"user_id {WHOLE} '2147483648'"),
    "a movie id beyond 64 bits": (value(1, 2**70), f"item_id {WHOLE} '1180"),
    "a negative user id": (value(0, -9), f"user_id is -9; {IDS}"),
    "a user id of 0": (value(0, 0), f"user_id is 0; {IDS}"),
    "a user id with decimals": (value(0, "9.0"), f"user_id {WHOLE} '9.0'"),
    "a user id in words": (value(0, "nine"), f"user_id {WHOLE} 'nine'"),
    "no movie id": (value(1, ""), f"item_id {WHOLE} ''"),
    "a rating below the scale": (value(2, 0), "line {row}: rating is 0; ratings are"),
    "a rating above the scale": (value(2, 6), "rating is 6; ratings are"),
    "a rating off the grid": (value(2, 3.7), "rating is 3.7; ratings are"),
    "a negative rating": (value(2, -3), "rating is -3; ratings are"),
    "a rating that is not a number": (value(2, "nan"), "rating is nan; ratings are"),
    "an infinite rating": (value(2, "inf"), "rating is inf; ratings are"),
    "a rating with a decimal comma": (value(2, "3,5"), "line {row}: (rating must be a number|has 5 columns)"),
    "no rating": (value(2, ""), "rating must be a number; found ''"),
    "a negative timestamp": (value(3, -5), "timestamp is -5; timestamps are seconds since 1970, from 0 on"),
    "no timestamp": (value(3, ""), f"timestamp {LONG} ''"),
    "a timestamp in words": (value(3, "2001-01-01"), f"timestamp {LONG} '2001-01-01'"),
    "a timestamp beyond 64 bits": (value(3, 2**63), f"timestamp {LONG} '9223372036854775808'"),
    "a movie that is not listed": (sub("items", "^7.*\n", ""), "item_id 7 is not in "),
    "a movie listed twice": (sub("items", "^7", "3"), "item_id 3 is listed a second time"),
    "a listed movie id of 0": (sub("items", "^1", "0"), f"line {{row}}: item_id is 0; {IDS}"),
    "a listed movie id in words": (sub("items", "^1", "one"), f"line {{row}}: item_id {WHOLE} 'one'"),
    "a pair rated twice": (row(9, 3, 5, 9, at=2), "user 9 and item 3 on lines"),
}
CSV = ("ml-100k", "ml-latest-small")  # those with a header
# The same for some of the layouts.
SOME: dict[str, tuple[tuple[str, ...], Change, str]] = {
    "commas between columns": (("ml-1m", "ml-10m", "ml-100k", "ml-100k-zip"), separated(","), "line 1"),
    "tabs between columns": (("ml-1m", "ml-10m", "ml-latest-small"), separated("\t"), "line 1"),
    "a tab in a title": (tuple(ITEM_TEXT), title("Toy\tStory"), "line {row}: .*(tab|control character|5 columns)"),
    "a movie id in full-width digits": (CSV, value(1, "１"), f"item_id {WHOLE}"),  # noqa: RUF001
    "no header": (CSV, sub("ratings", r"\A.*\n", ""), "line 1 is .* is expected"),
    "no header among the movies": (CSV, sub("items", r"\A.*\n", ""), "line 1 is .* is expected"),
    "a header with a space": (CSV, sub("ratings", r"\A", " "), "line 1 is .* is expected"),
    "a header alone": (CSV, sub("ratings", r"(?s)\n.*", "\n"), "has no rows under its header"),
    "a header alone among the movies": (CSV, sub("items", r"(?s)\n.*", ""), "has no rows under its header"),
    "Latin-1 in place of UTF-8": (CSV, in_encoding("latin-1"), "line 2: is not UTF-8 text"),
    "Latin-1 in place of UTF-8 between colons": (("ml-10m",), in_encoding("latin-1"), "line 1: is not UTF-8 text"),
    "a flag of 2": (("ml-100k-zip",), sub("items", "0$", "2"), "the flag of Western of item_id 3 is neither 0 nor 1"),
    "a flag in words": (
        ("ml-100k-zip",),
        sub("items", r"\|\|\|\|1", "||||yes"),
        "line 3: the flag of unknown of item_id 7",
    ),
    "no flag": (("ml-100k-zip",), sub("items", r"\|0$", "|"), "the flag of Western of item_id"),
    "a flag too few": (("ml-100k-zip",), sub("items", r"(?<=Story)\|0", ""), "line 2: has 23 columns where 24 "),
    "a flag too many": (("ml-100k-zip",), sub("items", r"(?<=Story)\|0", "|0|0"), "line 2: has 25 columns where 24 "),
    "the columns of a later release": (
        ("ml-100k-zip",),
        sub("items", r"\|.*", "|Toy|Drama"),
        "line 1: has 3 columns where 24 ",
    ),
    "a column too many and text that is not UTF-8": (("ml-100k",), title("\udc80\tStory"), "is not UTF-8 text"),
    "an open quote": (("ml-latest-small",), title('"Toy: Story'), "line"),
    "a title over two lines": (("ml-latest-small",), title('"Toy\nStory"'), "line {row}: .* a quote is not closed"),
    "two open quotes": (("ml-latest-small",), sub("items", ",(?=[Tu])", ',"'), "line {row}"),
    "a comma in a title without quotes": (("ml-latest-small",), title("Toy, Story"), "line {row}: has 4 columns"),
}
PARAMETERS = [
    pytest.param(name, change, words, id=f"{case}, {name}")
    for case, (change, words) in (CASES | {case: rest for case, (_, *rest) in SOME.items()}).items()
    for name in (SOME[case][0] if case in SOME else ITEM_TEXT)
]


def place(workspace: Path, name: str, change: Change) -> Files:
    """Put an archive of changed files where fetch would."""
    files = Files(name)
    change(files)
    (workspace / ARCHIVE).parent.mkdir(parents=True)
    texts = (text.encode(files.encoding, "surrogateescape") for text in (files.items, files.ratings))
    pack(workspace / ARCHIVE, name, *texts)
    set_params(workspace, data__dataset=name)
    return files


@pytest.mark.parametrize(("name", "change", "words"), PARAMETERS)
def test_refused(workspace: Path, ending: Ending, name: str, change: Change, words: str) -> None:
    files = place(workspace, name, change)
    message = ending(extract_stage.main)
    assert message.startswith((files.release.ratings, files.release.items))
    assert re.search(words.replace("{row}", str(files.first + 2)), message), message
    assert len(message) < 400


def line_ends(end: str, last: str) -> Change:
    """Return a change of the line ends in both files, and of the last one."""

    def change(files: Files) -> None:
        for member in ("items", "ratings"):
            setattr(files, member, end.join(getattr(files, member).splitlines()) + last)

    return change


HARMLESS: dict[str, Change] = {
    "Windows line ends": line_ends("\r\n", "\r\n"),
    "no last line end": line_ends("\n", ""),
    "Windows line ends, but no last one": line_ends("\r\n", ""),
    "a byte order mark": in_encoding("utf-8-sig"),
    "spaces around numbers": row(" 9", "1 ", " 3 ", " 978302109"),
    "zeros before numbers": row("009", "01", "03", "0978302109"),
    "decimals of whole ratings": row(9, 1, "3.00", 978302109),
    "quoted numbers": row('"9"', '"1"', '"3"', '"978302109"'),
    "a quoted title": title('"Toy: Story"'),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for case in HARMLESS for name in (["ml-latest-small"] if "quoted" in case else ITEM_TEXT)],
)
def test_harmless(workspace: Path, name: str, case: str) -> None:
    place(workspace, name, HARMLESS[case])
    ratings, items = extracted(ARCHIVE, name)
    assert rows(ratings) == RATING_ROWS
    assert rows(items) == ITEM_ROWS
