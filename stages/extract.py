"""Parse the archive's ratings and movies into two checked tables."""

import codecs
import io
import shutil
import stat
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
from stages.lib.releases import LARGER, RATING_COLUMNS, RELEASES, Layout, Release
from stages.lib.storage import write_table

ARCHIVE = Path("data/raw/archive.zip")
RATINGS = Path("data/interim/ratings.parquet")
MOVIES = Path("data/interim/movies.parquet")
RATING_TYPES: Final = dict(zip(RATING_COLUMNS, (pa.int32(), pa.int32(), pa.float32(), pa.int64()), strict=True))
NUMBERS: Final = {pa.int32(): f"a whole number up to {2**31 - 1}", pa.int64(): f"a whole number up to {2**63 - 1}"}
WRONG_RELEASE = "is the archive the one that data.dataset names?"
MEND = "mend the line or fetch the archive again"
MOST_MEMBERS = 10_000  # in an archive; no release has a tenth of it
MOST_BYTES = 2**22  # read at once: zipfile asks for the whole list of members, whatever length that claims
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile bounds what the others unpack to only afterwards
KINDS = {b"\x1f\x8b": "a gzip file", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive", b"<": "a web page"}


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
        UserError: the archive cannot be read or is far too large, a member is missing or empty, or one of its lines
            is not as the release defines it.
    """
    movie_text, rating_text = _read(path, release)
    movies = _parse_movies(movie_text, release)
    ratings = _parse_ratings(rating_text, release)
    del movie_text, rating_text  # longer than the tables, and checking needs room too
    _check_ratings(ratings, movies, release)
    return ratings, movies


class _Archive(io.FileIO):
    """The archive's file, which gives no more than `MOST_BYTES` at once."""

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes.

        Raises:
            BadZipFile: more are asked for than any member or list of members needs.
        """
        if size is not None and size > MOST_BYTES:
            raise zipfile.BadZipFile("its list of members is far too long")
        return super().read(-1 if size is None else size) or b""


def _read(path: Path, release: Release) -> tuple[bytes, bytes]:
    """Give the texts of the movies and of the ratings."""
    try:
        with _Archive(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise UserError(f"{path}: holds {len(members)} members, more than {MOST_MEMBERS}; {WRONG_RELEASE}")
            movies, ratings = (_find(path, members, name, release) for name in (release.movies, release.ratings))
            return _unpack(archive, movies, release.layout), _unpack(archive, ratings, release.layout)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro` to fetch it") from None
    # RuntimeError: packed in a way that zipfile does not know; ValueError: names that are no text, negative positions.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else error
        reason = f"it looks like {_kind(path)}" if _kind(path) else told
        raise UserError(
            f"{path}: cannot be read as a zip archive ({reason}); delete it and run `dvc repro` to fetch it again, or "
            "name another archive as data.archive"
        ) from None


def _kind(path: Path) -> str | None:
    """Say what a file is that is not a zip archive, where its first bytes tell."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        first = file.read(64).lstrip()
    return next((kind for start, kind in KINDS.items() if first.startswith(start)), None)


def _find(path: Path, members: list[zipfile.ZipInfo], name: str, release: Release) -> zipfile.ZipInfo:
    """Find a member by its name; whatever else the archive holds is never unpacked."""
    found = [member for member in members if member.filename == name]
    if not found:
        wanted = name.split("/")[-1]
        near = [member.filename for member in members if member.filename.lower().split("/")[-1] == wanted]
        hint = f" but {near[0]:.80}: pack it under the first of these names" if near else ""
        raise UserError(f"{path}: has no member {name}{hint}; {WRONG_RELEASE}")
    if len(found) > 1:
        raise UserError(f"{path}: holds {name} {len(found)} times; pack it once, or fetch the archive again")
    member = found[0]
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{path}: {name} is a link, not a file; pack the file that it points to")
    if member.flag_bits & 1:
        raise UserError(f"{path}: {name} is encrypted; pack it without a password")
    if member.compress_type not in METHODS:
        raise UserError(f"{path}: {name} is not packed by the usual method; pack it with deflate, zip's default")
    if member.file_size > release.limit:
        raise UserError(
            f"{path}: {name} unpacks to {member.file_size} bytes, and at most {release.limit} are allowed, {LARGER} "
            f"times the size of the release; {WRONG_RELEASE}"
        )
    return member


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, layout: Layout) -> bytes:
    """Give the text of a member, a tab in place of a separator that is longer than Arrow takes."""
    name, separator = member.filename, layout.separator
    # Piece by piece, no more than the size that the member declares, and against its checksum.
    # A join of all the pieces would hold everything twice.
    text = io.BytesIO()
    with archive.open(member) as file:
        shutil.copyfileobj(file, text, MOST_BYTES // 4)
    data = text.getvalue()
    del text
    if not data or data.isspace():
        raise UserError(f"{name}: is empty; {WRONG_RELEASE}")
    if len(separator) == 1:
        return data
    if b"\t" in data:
        line = data.count(b"\n", 0, data.index(b"\t")) + 1
        raise UserError(f"{name}: line {line}: holds a tab; columns are separated by {separator}; {MEND}")
    return data.replace(separator.encode(), b"\t")


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
        control = pc.match_substring_regex(column, r"[\x00-\x1f\x7f]").to_numpy()
        _refuse(control, ids, release.movies, layout, "the text of movie_id {} holds a control character")
    if "year" in layout.columns:
        year = movies["year"]
        with_year = pc.binary_join_element_wise(title, " (", year, ")", "")
        title = pc.if_else(pc.equal(year, ""), title, with_year)
    genres = pc.replace_substring(genres, layout.genre_separator, "|")
    return pa.table({"movie_id": movies["movie_id"], "title": title, "genres": genres})


def _parse(data: bytes, name: str, layout: Layout, types: dict[str, pa.DataType], which: int) -> pa.Table:
    """Parse one member with the given column types, or name the first line that cannot be parsed."""
    separator = layout.separator if len(layout.separator) == 1 else "\t"
    encoding = "utf-8" if data.startswith(codecs.BOM_UTF8) else layout.encoding
    if layout.header:
        first = data.split(b"\n", 1)[0].decode(encoding, "replace").removeprefix("\ufeff").rstrip("\r")
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
                encoding=encoding,
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
    # Only the slower, single-threaded parser knows the line at fault, and it cannot show one that is no text.
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}: line {line}: is not UTF-8 text; {MEND}") from None
    try:
        return read(use_threads=False)
    except pa.ArrowInvalid as error:
        if invalid:
            row = invalid[0]
            raise UserError(
                f"{name}: line {row.number}: has {row.actual_columns} columns where {row.expected_columns} "
                f"({', '.join(types)}) are expected, parted by {layout.separator!r}: "
                f"{row.text.replace(separator, layout.separator)!r:.80}; {MEND}"
            ) from None
        raise UserError(f"{name}: {_plain(str(error), types)}; {MEND}") from None


def _plain(message: str, types: dict[str, pa.DataType]) -> str:
    """Say pyarrow's conversion error in the words of the file: line, column, value."""
    line = message.split("Row #")[1].split(":")[0] if "Row #" in message else "?"
    names = list(types)
    column = names[int(message.split("CSV column #")[1].split(":")[0])] if "CSV column #" in message else "a value"
    found = message.split("invalid value ", 1)[-1]
    return f"line {line}: {column} must be {NUMBERS.get(types.get(column), 'a number')}; found {found:.80}"


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
    seconds = ratings["timestamp"].to_numpy()
    _refuse(seconds < 0, seconds, name, layout, "timestamp is {}; timestamps are seconds since 1970, from 0 on")
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
        raise UserError(f"{name}: line {row + _first_line(layout)}: {found}{more}; {MEND}")


if __name__ == "__main__":
    run(main)
