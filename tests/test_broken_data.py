"""Broken rating and movie files in every layout: refused with file and line, or read as the table that they mean."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import extract
from stages.lib.releases import RELEASES
from tests.conftest import Ending, set_params
from tests.test_extract import MOVIE_ROWS, MOVIE_TEXT, RATING_ROWS, RATING_TEXT, encoded, pack, rows


class Files:
    """The movies and ratings of a release, to be broken line by line."""

    def __init__(self, name: str) -> None:
        """Start with good ones."""
        self.name, self.release = name, RELEASES[name]
        self.separator = self.release.layout.separator
        self.first = 1 if self.release.layout.header else 0
        self.movies: str | bytes = MOVIE_TEXT[name]
        self.ratings: str | bytes = RATING_TEXT[name]

    def rating(self, *values: object, row: int = 1) -> None:
        """Replace a row of the ratings."""
        lines = str(self.ratings).splitlines()
        lines[row + self.first] = self.separator.join(map(str, values))
        self.ratings = "\n".join(lines) + "\n"

    def line(self, number: int, text: str) -> None:
        """Put another line before a line of the ratings, counted from 1."""
        lines = str(self.ratings).splitlines()
        lines.insert(number - 1, text)
        self.ratings = "\n".join(lines) + "\n"

    def title(self, title: str) -> None:
        """Replace the title in the second row of the movies."""
        self.movies = str(self.movies).replace("Toy: Story", title)


def separators(separator: str) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files.ratings = "".join(
            separator.join(line.split(files.separator)) + "\n" for line in str(files.ratings).splitlines()
        )

    return change


def value(column: int, found: object) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        values: list[object] = [9, 1, 3, 5]
        values[column] = found
        files.rating(*values)

    return change


def swap(files: Files) -> None:
    files.movies, files.ratings = files.ratings, files.movies


def text(**contents: str | bytes) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        for name, content in contents.items():
            setattr(files, name, content)

    return change


def headless(files: Files) -> None:
    files.ratings = "\n".join(str(files.ratings).splitlines()[files.first :]) + "\n"


def other_header(files: Files) -> None:
    files.ratings = f"user{files.separator}item{files.separator}stars{files.separator}when\n" + str(files.ratings)


def second_header(files: Files) -> None:
    files.line(4, str(files.ratings).splitlines()[0] if files.first else "user::movie::rating::time")


def listed_twice(files: Files) -> None:
    files.movies = str(files.movies).replace("\n7", "\n3")


def not_listed(files: Files) -> None:
    files.movies = "\n".join(str(files.movies).splitlines()[:-1])


def cut(files: Files) -> None:
    files.ratings = str(files.ratings)[:-14]


# Where something is the matter is told by the file and mostly by the line: {f} is the line of the first row.
CASES: dict[str, tuple[Callable[[Files], None], str]] = {
    "commas between columns": (separators(","), "line 1|columns"),
    "tabs between columns": (separators("\t"), "line 1|columns"),
    "semicolons between columns": (separators(";"), "line 1"),
    "bars between columns": (separators("|"), "line 1"),
    "spaces between columns": (separators(" "), "line 1"),
    "a tab in a title": (lambda files: files.title("Toy\tStory"), "line|control character"),
    "a column too few": (lambda files: files.rating(9, 1, 3), "has 3 columns where 4"),
    "a column too many": (lambda files: files.rating(9, 1, 3, 5, 6), "has 5 columns where 4"),
    "a separator at the end": (lambda files: files.rating(9, 1, 3, 5, ""), "has 5 columns where 4"),
    "a separator at the start": (lambda files: files.rating("", 9, 1, 3), "user_id must be a whole number"),
    "a column missing in all lines": (lambda files: [files.rating(9, 1, 3, row=row) for row in range(4)], "3 columns"),
    "a last line cut off": (cut, "line"),
    "a blank line at the top": (lambda files: files.line(1 + files.first, ""), "found ''"),
    "a blank line in the middle": (lambda files: files.line(3, ""), "line 3: user_id must be a whole number"),
    "a blank line at the end": (lambda files: files.line(9, ""), "user_id must be a whole number .* found ''"),
    "a line of spaces": (lambda files: files.line(3, "   "), "line 3: "),
    "a comment": (lambda files: files.line(3, "# more ratings"), "line 3: "),
    "a second header": (second_header, "line 4: user_id must be a whole number"),
    "no header": (headless, "line 1 is .* is expected"),
    "another header": (other_header, "line 1"),
    "an empty file": (text(ratings=""), "is empty"),
    "a header alone": (lambda files: text(ratings=str(files.ratings).split("\n")[0])(files), "has no rows under"),
    "a file of line ends": (text(ratings="\n\r\n\n"), "is empty"),
    "a list of movies that is empty": (text(movies=""), "is empty"),
    "ratings and movies exchanged": (swap, "line 1"),
    "UTF-16": (lambda files: text(ratings=str(files.ratings).encode("utf-16"))(files), "line 1"),
    "random bytes": (text(ratings=bytes(range(1, 256)) * 8), "line 1"),
    "JSON": (text(ratings='[{"userId": 9, "movieId": 3, "rating": 4}]\n'), "line 1"),
    "a line without end": (
        lambda files: files.rating("9" * 100_000, 1, 3, 5),
        "must be a whole number up to 2147483647",
    ),
    "NUL in a number": (value(1, "1\0"), r"movie_id must be a whole number up to 2147483647; found '1\\x00'"),
    "NUL in a title": (lambda files: files.title("Toy\0Story"), "holds a control character"),
    "a command to the terminal in a title": (lambda files: files.title("\x1b[2JToy"), "holds a control character"),
    "a command to the terminal in a number": (value(0, "\x1b[2J9"), r"found '\\x1b\[2J9'"),
    "a user id beyond 32 bits": (
        value(0, 2**31),
        "user_id must be a whole number up to 2147483647; found '2147483648'",
    ),
    "a movie id beyond 64 bits": (value(1, 2**70), "movie_id must be a whole number up to 2147483647"),
    "a negative user id": (value(0, -9), "user_id is -9; ids are 1 to 2147483647"),
    "a user id of 0": (value(0, 0), "user_id is 0; ids are 1 to 2147483647"),
    "a user id with decimals": (value(0, "9.0"), "user_id must be a whole number up to 2147483647; found '9.0'"),
    "a user id in words": (value(0, "nine"), "found 'nine'"),
    "a movie id in full-width digits": (value(1, "１"), "movie_id must be a whole number"),  # noqa: RUF001 - meant
    "no movie id": (value(1, ""), "movie_id must be a whole number up to 2147483647; found ''"),
    "a rating below the scale": (value(2, 0), "rating is 0; ratings are"),
    "a rating above the scale": (value(2, 6), "rating is 6; ratings are"),
    "a rating off the grid": (value(2, 3.7), "rating is 3.7; ratings are"),
    "a negative rating": (value(2, -3), "rating is -3; ratings are"),
    "a rating that is no number": (value(2, "nan"), "rating is nan; ratings are"),
    "an infinite rating": (value(2, "inf"), "rating is inf; ratings are"),
    "a rating with a decimal comma": (value(2, "3,5"), "rating must be a number|columns"),
    "no rating": (value(2, ""), "rating must be a number; found ''"),
    "a negative timestamp": (value(3, -5), "timestamp is -5; timestamps are seconds since 1970, from 0 on"),
    "no timestamp": (value(3, ""), "timestamp must be a whole number up to 9223372036854775807; found ''"),
    "a timestamp in words": (
        value(3, "2001-01-01"),
        "timestamp must be a whole number up to 9223372036854775807; found '2001-01-01'",
    ),
    "a timestamp beyond 64 bits": (value(3, 2**63), "timestamp must be a whole number up to 9223372036854775807"),
    "a movie that is not listed": (not_listed, "movie_id 7 is not in "),
    "a movie listed twice": (listed_twice, "movie_id 3 is listed a second time"),
    "a pair rated twice": (lambda files: files.rating(9, 3, 5, 9, row=2), "user 9 and movie 3 on lines"),
}
# What only some layouts have.
SOME = {
    "no header": ("ml-100k", "ml-latest-small"),
    "a header alone": ("ml-100k", "ml-latest-small"),
    "commas between columns": ("ml-1m", "ml-100k"),
    "tabs between columns": ("ml-1m", "ml-latest-small"),
    "a tab in a title": ("ml-1m", "ml-100k", "ml-latest-small"),
    "a movie id in full-width digits": ("ml-100k", "ml-latest-small"),
}
PARAMETERS = [
    pytest.param(name, *case, id=f"{title}, {name}")
    for title, case in CASES.items()
    for name in SOME.get(title, tuple(RELEASES))
]
EXTRA: dict[str, tuple[str, Callable[[Files], None], str]] = {
    "a column too many and no text": (
        "ml-100k",
        lambda files: text(movies=str(files.movies).encode().replace(b"Toy", b"\x80\t"))(files),
        "line 3: is not UTF-8 text",
    ),
    "a quote that is not closed": ("ml-latest-small", lambda files: files.title('"Toy: Story'), "line"),
    "a title over two lines": ("ml-latest-small", lambda files: files.title('"Toy\nStory"'), "a quote is not closed"),
    "a comma in a title without quotes": ("ml-latest-small", lambda files: files.title("Toy, Story"), "4 columns"),
    "Latin-1 in place of UTF-8, CSV": (
        "ml-latest-small",
        lambda files: text(movies=str(files.movies).encode("latin-1"))(files),
        "line 2: is not UTF-8 text",
    ),
    "Latin-1 in place of UTF-8, tabs": (
        "ml-100k",
        lambda files: text(movies=str(files.movies).encode("latin-1"))(files),
        "line 2: is not UTF-8 text",
    ),
}
PARAMETERS += [pytest.param(*case, id=title) for title, case in EXTRA.items()]


def place(workspace: Path, files: Files) -> None:
    """Put an archive of the files where fetch would."""
    (workspace / extract.ARCHIVE).parent.mkdir(parents=True)
    pack(workspace / extract.ARCHIVE, files.name, files.movies, files.ratings)
    set_params(workspace, data__dataset=files.name)


@pytest.mark.parametrize(("name", "breaks", "words"), PARAMETERS)
def test_refused(workspace: Path, ending: Ending, name: str, breaks: Callable[[Files], None], words: str) -> None:
    files = Files(name)
    breaks(files)
    place(workspace, files)
    message = ending(extract.main)
    assert message.startswith((files.release.ratings, files.release.movies))
    assert re.search(words, message), message
    assert len(message) < 400


def quoted(files: Files) -> None:
    lines = [line.split(",") for line in str(files.ratings).splitlines()]
    files.ratings = "\n".join(
        ",".join(f'"{part}"' for part in line) if line != lines[0] else ",".join(line) for line in lines
    )


HARMLESS: dict[str, Callable[[Files], None]] = {
    "Windows line ends": lambda files: text(
        movies=str(files.movies).replace("\n", "\r\n"), ratings=str(files.ratings).replace("\n", "\r\n")
    )(files),
    "no last line end": lambda files: text(movies=str(files.movies)[:-1], ratings=str(files.ratings)[:-1])(files),
    "a byte order mark": lambda files: text(
        movies=str(files.movies).encode("utf-8-sig"), ratings=str(files.ratings).encode("utf-8-sig")
    )(files),
    "spaces around numbers": lambda files: files.rating(" 9", "1 ", " 3 ", " 978302109"),
    "zeros before numbers": lambda files: files.rating("009", "01", "03", "0978302109"),
    "decimals of whole ratings": lambda files: files.rating(9, 1, "3.00", 978302109),
}


@pytest.mark.parametrize("name", RELEASES)
@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_harmless(workspace: Path, name: str, change: Callable[[Files], None]) -> None:
    check_same(workspace, name, change)


@pytest.mark.parametrize(
    "change", [quoted, lambda files: files.title('"Toy: Story"')], ids=["quoted numbers", "a quoted title"]
)
def test_harmless_in_csv(workspace: Path, change: Callable[[Files], None]) -> None:
    check_same(workspace, "ml-latest-small", change)


def check_same(workspace: Path, name: str, change: Callable[[Files], None]) -> None:
    files = Files(name)
    change(files)
    place(workspace, files)
    ratings, movies = extract.extract(extract.ARCHIVE, files.release)
    assert rows(ratings) == RATING_ROWS
    assert rows(movies) == MOVIE_ROWS


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(CASES) + len(EXTRA) >= 60
    for name in RELEASES:
        assert sum(parameter.values[0] == name for parameter in PARAMETERS) >= 40
        assert encoded(name, MOVIE_TEXT[name])
