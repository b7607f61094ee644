"""Parse the archive's ratings and movies into two checked tables."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from stages.lib.errors import UserError, run
from stages.lib.params import load_params
from stages.lib.releases import RATING_COLUMNS, RELEASES, Layout, Release
from stages.lib.storage import write_table

ARCHIVE = Path("data/raw/archive.zip")
RATINGS = Path("data/interim/ratings.parquet")
MOVIES = Path("data/interim/movies.parquet")
RATING_TYPES: Final = dict(zip(RATING_COLUMNS, (pa.int32(), pa.int32(), pa.float32(), pa.int64()), strict=True))
WRONG_RELEASE = "is the archive the one that data.dataset names?"


def main() -> None:
    """Parse the fetched archive as the release that ``params.yaml`` names is laid out."""
    release = RELEASES[load_params().data.dataset]
    ratings, movies = extract(ARCHIVE, release)
    write_table(RATINGS, ratings)
    write_table(MOVIES, movies)


def extract(path: Path, release: Release) -> tuple[pa.Table, pa.Table]:
    """Parse and check the ratings and movies in an archive; nothing is unpacked to disk.

    Args:
        path: a zip archive.
        release: the names, layout and rating scale of its members.

    Returns:
        ``ratings``: user_id, movie_id (int32), rating (float32), timestamp (int64), in the file's order;
        ``movies``: movie_id (int32), title, genres (strings; genres joined by ``|``), in the file's order.

    Raises:
        UserError: a member is missing or empty, or one of its lines is not as the release defines it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            movies = _parse_movies(_member(archive, release.movies, release.layout), release)
            ratings = _parse_ratings(_member(archive, release.ratings, release.layout), release)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro` to fetch it") from None
    # RuntimeError: a member is encrypted, or packed in a way that zipfile does not know.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read as a zip archive ({error}); delete it and run `dvc repro`") from None
    _check_ratings(ratings, movies, release)
    return ratings, movies


def _member(archive: zipfile.ZipFile, name: str, layout: Layout) -> bytes:
    """Give the text of a member, a tab in place of a separator that is longer than Arrow takes."""
    try:
        data = archive.read(name)
    except KeyError:
        raise UserError(f"{archive.filename}: has no member {name}; {WRONG_RELEASE}") from None
    if not data or data.isspace():
        raise UserError(f"{name}: is empty; {WRONG_RELEASE}")
    return data if len(layout.separator) == 1 else data.replace(layout.separator.encode(), b"\t")


def _parse_ratings(data: bytes, release: Release) -> pa.Table:
    return _parse(data, release.ratings, release.layout, RATING_TYPES, 0)


def _parse_movies(data: bytes, release: Release) -> pa.Table:
    layout = release.layout
    types = {name: pa.int32() if name == "movie_id" else pa.string() for name in layout.columns}
    movies = _parse(data, release.movies, layout, types, 1)
    ids = movies["movie_id"].to_numpy()
    _refuse(ids < 1, ids, release.movies, layout, "movie_id is {}; ids are 1 to 2147483647")
    order = np.argsort(ids, kind="stable")
    repeated = np.zeros(len(ids), dtype=bool)
    repeated[order[1:]] = np.diff(ids[order]) == 0
    _refuse(repeated, ids, release.movies, layout, "movie_id {} is listed a second time")
    title, genres = movies["title"], movies["genres"]
    for column in (title, genres):
        broken = pc.match_substring(column, "\n").to_numpy()
        _refuse(broken, ids, release.movies, layout, "movie_id {} runs over the end of the line: a quote is not closed")
    if "year" in layout.columns:
        year = movies["year"]
        with_year = pc.binary_join_element_wise(title, " (", year, ")", "")
        title = pc.if_else(pc.equal(year, ""), title, with_year)
    genres = pc.replace_substring(genres, layout.genre_separator, "|")
    return pa.table({"movie_id": movies["movie_id"], "title": title, "genres": genres})


def _parse(data: bytes, name: str, layout: Layout, types: dict[str, pa.DataType], which: int) -> pa.Table:
    """Parse one member with the given column types, or name the first line that cannot be parsed."""
    separator = layout.separator if len(layout.separator) == 1 else "\t"
    if layout.header:
        first = data.split(b"\n", 1)[0].decode(layout.encoding, "replace").removeprefix("\ufeff").rstrip("\r")
        expected = separator.join(layout.header[which])
        if first != expected:
            raise UserError(f"{name}: line 1 is {first!r:.80}; {expected!r} is expected; {WRONG_RELEASE}")
        if b"\n" not in data.strip():
            raise UserError(f"{name}: has no rows under its header; {WRONG_RELEASE}")
    invalid: list[pyarrow.csv.InvalidRow] = []

    def keep(row: pyarrow.csv.InvalidRow) -> str:
        invalid.append(row)
        return "error"

    def read(*, use_threads: bool) -> pa.Table:
        return pyarrow.csv.read_csv(
            io.BytesIO(data),
            read_options=pyarrow.csv.ReadOptions(
                column_names=list(types),
                skip_rows=int(bool(layout.header)),
                encoding=layout.encoding,
                use_threads=use_threads,
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if layout.quoted else False,
                ignore_empty_lines=False,
                invalid_row_handler=None if use_threads else keep,
            ),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        )

    try:
        return read(use_threads=True)
    except pa.ArrowInvalid:
        pass
    # Only the slower, single-threaded parser knows the line at fault.
    try:
        return read(use_threads=False)
    except pa.ArrowInvalid as error:
        if invalid:
            row = invalid[0]
            raise UserError(
                f"{name}: line {row.number}: has {row.actual_columns} columns where {row.expected_columns} "
                f"({', '.join(types)}) are expected: {row.text!r:.80}; mend the line or fetch the archive again"
            ) from None
        raise UserError(f"{name}: {_plain(str(error), types)}; mend the line or fetch the archive again") from None


def _plain(message: str, types: dict[str, pa.DataType]) -> str:
    """Say pyarrow's conversion error in the words of the file: line, column, value."""
    line = message.split("Row #")[1].split(":")[0] if "Row #" in message else "?"
    names = list(types)
    column = names[int(message.split("CSV column #")[1].split(":")[0])] if "CSV column #" in message else "a value"
    if "invalid UTF8" in message:
        return f"line {line}: {column} is not UTF-8 text"
    found = message.split("invalid value ", 1)[-1]
    return f"line {line}: {column} must be a number that fits {types.get(column)}; found {found:.80}"


def _check_ratings(ratings: pa.Table, movies: pa.Table, release: Release) -> None:
    """Refuse ids, ratings and pairs that the release cannot hold."""
    name, layout = release.ratings, release.layout
    low, high, step = release.scale
    values = ratings["rating"].to_numpy()
    with np.errstate(invalid="ignore"):
        right = (values >= low) & (values <= high) & (np.mod(values, step) == 0)
    _refuse(~right, values, name, layout, f"rating is {{}}; ratings are {low:g} to {high:g} in steps of {step:g}")
    users, ids = ratings["user_id"].to_numpy(), ratings["movie_id"].to_numpy()
    _refuse(users < 1, users, name, layout, "user_id is {}; ids are 1 to 2147483647")
    unknown = ~np.isin(ids, movies["movie_id"].to_numpy())
    _refuse(unknown, ids, name, layout, f"movie_id {{}} is not in {release.movies}")
    pairs = users.astype(np.int64) << 32 | ids
    ordered = np.sort(pairs)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        first = np.unique(repeated)[:3]
        shown = []
        for pair in first:
            lines = np.flatnonzero(pairs == pair) + _first_line(layout)
            shown.append(f"user {pair >> 32} and movie {pair & 0xFFFFFFFF} on lines {', '.join(map(str, lines[:5]))}")
        raise UserError(
            f"{name}: {len(repeated)} ratings repeat a user and movie rated before: {'; '.join(shown)}; "
            "keep one rating of each pair"
        )


def _first_line(layout: Layout) -> int:
    return 2 if layout.header else 1


def _refuse(wrong: NDArray[np.bool_], values: NDArray[np.generic], name: str, layout: Layout, problem: str) -> None:
    """Raise for the first row where `wrong` holds."""
    if wrong.any():
        row = int(np.argmax(wrong))
        more = f" (and {np.count_nonzero(wrong) - 1} more lines)" if np.count_nonzero(wrong) > 1 else ""
        found = problem.format(f"{values[row]:g}" if values.dtype.kind == "f" else values[row])
        raise UserError(
            f"{name}: line {row + _first_line(layout)}: {found}{more}; mend the line or fetch the archive again"
        )


if __name__ == "__main__":
    run(main)
