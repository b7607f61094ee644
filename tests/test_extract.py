"""Every layout is parsed to the very rows it holds; a line that a release cannot hold is told with its number."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MOVIES, RATINGS, USERS, files, refused, set_params, sha256, stage

from benchmarks.synthetic import FIRST_SECOND, GENRES, make_ratings, write_archive
from stages.extract import MOVIES as MOVIES_PATH
from stages.extract import RATINGS as RATINGS_PATH
from stages.extract import extract
from stages.lib.errors import UserError
from stages.lib.releases import RELEASES

RATING_SCHEMA = pa.schema(
    [("user_id", pa.int32()), ("movie_id", pa.int32()), ("rating", pa.float32()), ("timestamp", pa.int64())]
)
MOVIE_SCHEMA = pa.schema([("movie_id", pa.int32()), ("title", pa.string()), ("genres", pa.string())])
WHOLE = "a whole number up to 2147483647"
CURE = "mend the line or fetch the archive again"
WRONG_RELEASE = "is the archive the one that data.dataset names?"

# The same four ratings of three movies in each layout.
MOVIE_TEXT = {
    "ml-100k": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "3\tAmélie, the\t2001\tComedy Romance\n1\tToy: Story\t1995\tAnimation\n7\tunknown\t\tunknown\n"
    ),
    "ml-latest-small": (
        "movieId,title,genres\n"
        '3,"Amélie, the (2001)",Comedy|Romance\n1,Toy: Story (1995),Animation\n7,unknown,unknown\n'
    ),
    "ml-1m": "3::Amélie, the (2001)::Comedy|Romance\n1::Toy: Story (1995)::Animation\n7::unknown::unknown\n",
}
RATING_ROWS = [(9, 3, 4.0, 978300760), (9, 1, 3.0, 978302109), (2, 3, 5.0, 978301968), (2147483647, 7, 1.0, 0)]
RATING_TEXT = {
    "ml-100k": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
    "ml-latest-small": "userId,movieId,rating,timestamp\n",
    "ml-1m": "",
}
RATING_TEXT = {
    name: header
    + "".join(
        RELEASES[name].layout.separator.join(map(str, (u, m, int(r) if name != "ml-latest-small" else r, t))) + "\n"
        for u, m, r, t in RATING_ROWS
    )
    for name, header in RATING_TEXT.items()
}
MOVIE_ROWS = [
    (3, "Amélie, the (2001)", "Comedy|Romance"),
    (1, "Toy: Story (1995)", "Animation"),
    (7, "unknown", "unknown"),
]


def encoded(name: str, text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode(RELEASES[name].layout.encoding)


def pack(path: Path, name: str, movies: str | bytes | None = None, ratings: str | bytes | None = None) -> Path:
    """Write an archive of the two texts, or of the ones above."""
    release = RELEASES[name]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(release.movies, encoded(name, MOVIE_TEXT[name] if movies is None else movies))
        archive.writestr(release.ratings, encoded(name, RATING_TEXT[name] if ratings is None else ratings))
    return path


def refusal(folder: Path, name: str, movies: str | bytes | None = None, ratings: str | bytes | None = None) -> str:
    """Extract what must be refused and give the message."""
    path = pack(folder / "bad.zip", name, movies, ratings)
    with pytest.raises(UserError) as raised:
        extract(path, RELEASES[name])
    return str(raised.value)


def rows(table: pa.Table) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def first_line(name: str) -> int:
    return 2 if RELEASES[name].layout.header else 1


def with_line(name: str, text: str, row: int, line: str) -> str:
    """Replace a row (from 0, the header not counted) of a text by a line, its columns parted by spaces."""
    lines = text.splitlines()
    lines[row + first_line(name) - 1] = line.replace(" ", RELEASES[name].layout.separator)
    return "\n".join(lines) + "\n"


every_release = pytest.mark.parametrize("name", RELEASES)


# What is read


@every_release
def test_the_generated_rows_are_read_in_order_with_their_types(archives: dict[str, Path], name: str) -> None:
    ratings, movies = extract(archives[name], RELEASES[name])
    users, ids, values = make_ratings(USERS, MOVIES, RATINGS, scale=RELEASES[name].scale)
    assert ratings.schema.equals(RATING_SCHEMA)
    np.testing.assert_array_equal(ratings["user_id"], users)
    np.testing.assert_array_equal(ratings["movie_id"], ids)
    np.testing.assert_array_equal(ratings["rating"], values)
    np.testing.assert_array_equal(ratings["timestamp"], FIRST_SECOND + np.arange(RATINGS))
    assert movies.schema.equals(MOVIE_SCHEMA)
    assert rows(movies) == [
        (
            i,
            f"{'Amélie' if i % 10 == 0 else 'Letter, The' if i % 10 == 5 else 'Movie'} {i} ({1950 + i % 50})",
            "|".join(sorted({GENRES[i % 6], GENRES[i // 6 % 6]})),
        )
        for i in range(1, MOVIES + 6)
    ]
    assert ratings.column("rating").null_count == movies.column("title").null_count == 0


@every_release
def test_every_layout_gives_the_same_tables(tmp_path: Path, name: str) -> None:
    ratings, movies = extract(pack(tmp_path / "a.zip", name), RELEASES[name])
    assert rows(ratings) == RATING_ROWS
    assert rows(movies) == MOVIE_ROWS


@pytest.mark.parametrize("form", ["crlf", "no final newline", "crlf, no final newline", "bom"])
@every_release
def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path, name: str, form: str) -> None:
    texts = [encoded(name, text[name]) for text in (MOVIE_TEXT, RATING_TEXT)]
    if "crlf" in form:
        texts = [text.replace(b"\n", b"\r\n") for text in texts]
    if "no final newline" in form:
        texts = [text.rstrip(b"\r\n") for text in texts]
    if form == "bom":
        texts = [text[name].encode("utf-8-sig") for text in (MOVIE_TEXT, RATING_TEXT)]  # the mark says that it is UTF-8
    ratings, movies = extract(pack(tmp_path / "a.zip", name, *texts), RELEASES[name])
    assert rows(ratings) == RATING_ROWS
    assert rows(movies) == MOVIE_ROWS


def test_latin_1_is_not_read_as_utf_8(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "ml-1m")
    with zipfile.ZipFile(path) as archive:
        assert b"Am\xe9lie" in archive.read("ml-1m/movies.dat")
    assert extract(path, RELEASES["ml-1m"])[1]["title"][0].as_py() == "Amélie, the (2001)"


def test_csv_quotes_are_taken_off_and_doubled_ones_halved(tmp_path: Path) -> None:
    text = 'movieId,title,genres\n3,"A ""quoted"", title","X|Y"\n1,B,X\n7,"",""\n'
    movies = extract(pack(tmp_path / "a.zip", "ml-latest-small", text), RELEASES["ml-latest-small"])[1]
    assert rows(movies) == [(3, 'A "quoted", title', "X|Y"), (1, "B", "X"), (7, "", "")]


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m"])
def test_quotes_are_letters_where_the_layout_has_no_quoting(tmp_path: Path, name: str) -> None:
    text = MOVIE_TEXT[name].replace("Toy: Story", '"Toy: Story').replace("unknown", '"u"', 1)
    movies = extract(pack(tmp_path / "a.zip", name, text), RELEASES[name])[1]
    assert movies["title"].to_pylist()[1:] == ['"Toy: Story (1995)', '"u"']


@pytest.mark.parametrize("title", ["NA", "null", "NaN", "None", "", "true", "12"])
@every_release
def test_titles_that_look_like_something_else_are_text(tmp_path: Path, name: str, title: str) -> None:
    text = MOVIE_TEXT[name].replace("unknown", title, 1)
    assert extract(pack(tmp_path / "a.zip", name, text), RELEASES[name])[1]["title"][2].as_py() == title


def test_half_stars_are_read_where_the_scale_has_them(tmp_path: Path) -> None:
    text = RATING_TEXT["ml-latest-small"].replace("4.0", "0.5").replace("3.0", "3.5")
    ratings = extract(pack(tmp_path / "a.zip", "ml-latest-small", ratings=text), RELEASES["ml-latest-small"])[0]
    assert ratings["rating"].to_pylist() == [0.5, 3.5, 5.0, 1.0]


# What is refused: values


NOT_INTEGERS = ["abc", "", "nan", "inf", "1.5", "1e3", "1;1", "9" * 30]


@pytest.mark.parametrize(
    ("column", "value"),
    [(column, value) for column in ("user_id", "movie_id", "timestamp") for value in NOT_INTEGERS]
    + [("rating", value) for value in ("abc", "", "4,0", "four", "1:2")]
    + [("user_id", "2147483648"), ("movie_id", "2147483648"), ("timestamp", str(2**63))],
)
@pytest.mark.parametrize("name", ["ml-100k", "ml-1m"])
def test_a_value_that_is_no_number_is_told_with_its_line(tmp_path: Path, name: str, column: str, value: str) -> None:
    values = {"user_id": "9", "movie_id": "1", "rating": "3", "timestamp": "5"} | {column: value}
    line = " ".join(values.values())
    message = refusal(tmp_path, name, ratings=with_line(name, RATING_TEXT[name], 2, line))
    kind = {"rating": "a number", "timestamp": "a whole number up to 9223372036854775807"}.get(column, WHOLE)
    assert message == (
        f"{RELEASES[name].ratings}: line {2 + first_line(name)}: {column} must be {kind}; found '{value}'; {CURE}"
    )


@every_release
def test_a_movie_id_that_is_no_number_is_told_with_its_line(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, name, MOVIE_TEXT[name].replace("\n7", "\nx"))
    assert message == (
        f"{RELEASES[name].movies}: line {2 + first_line(name)}: movie_id must be {WHOLE}; found 'x'; {CURE}"
    )


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("ml-1m", "0", "0"),
        ("ml-1m", "6", "6"),
        ("ml-1m", "3.5", "3.5"),
        ("ml-1m", "-1", "-1"),
        ("ml-1m", "nan", "nan"),
        ("ml-1m", "inf", "inf"),
        ("ml-1m", "-inf", "-inf"),
        ("ml-1m", "1e39", "inf"),
        ("ml-100k", "0.5", "0.5"),
        ("ml-100k", "5.000001", "5"),
        ("ml-latest-small", "0", "0"),
        ("ml-latest-small", "0.25", "0.25"),
        ("ml-latest-small", "3.75", "3.75"),
        ("ml-latest-small", "5.5", "5.5"),
        ("ml-latest-small", "nan", "nan"),
    ],
)
def test_a_rating_off_the_scale_is_told_with_its_line(tmp_path: Path, name: str, value: str, shown: str) -> None:
    message = refusal(tmp_path, name, ratings=with_line(name, RATING_TEXT[name], 1, f"9 1 {value} 5"))
    scale = "0.5 to 5 in steps of 0.5" if name == "ml-latest-small" else "1 to 5 in steps of 1"
    assert message == (
        f"{RELEASES[name].ratings}: line {1 + first_line(name)}: rating is {shown}; ratings are {scale}; {CURE}"
    )


def test_the_first_of_many_bad_lines_is_told_with_their_number(tmp_path: Path) -> None:
    text = RATING_TEXT["ml-1m"].replace("::3::9783", "::9::9783").replace("::5::9783", "::0::9783")
    assert refusal(tmp_path, "ml-1m", ratings=text) == (
        f"ml-1m/ratings.dat: line 2: rating is 9; ratings are 1 to 5 in steps of 1 (and 1 more lines); {CURE}"
    )


@pytest.mark.parametrize("value", ["0", "-1", "-2147483648"])
@every_release
def test_a_user_id_below_one_is_told_with_its_line(tmp_path: Path, name: str, value: str) -> None:
    message = refusal(tmp_path, name, ratings=with_line(name, RATING_TEXT[name], 3, f"{value} 1 3 5"))
    assert message == (
        f"{RELEASES[name].ratings}: line {3 + first_line(name)}: user_id is {value}; ids are 1 to 2147483647; {CURE}"
    )


@pytest.mark.parametrize("value", ["0", "-3"])
@every_release
def test_a_movie_id_below_one_is_told_with_its_line(tmp_path: Path, name: str, value: str) -> None:
    message = refusal(tmp_path, name, MOVIE_TEXT[name].replace("\n1", f"\n{value}"))
    assert message == (
        f"{RELEASES[name].movies}: line {1 + first_line(name)}: movie_id is {value}; ids are 1 to 2147483647; {CURE}"
    )


@pytest.mark.parametrize("value", ["4", "-3", "2147483647"])
@every_release
def test_a_rating_of_an_unlisted_movie_is_told_with_its_line(tmp_path: Path, name: str, value: str) -> None:
    message = refusal(tmp_path, name, ratings=with_line(name, RATING_TEXT[name], 2, f"9 {value} 3 5"))
    assert message == (
        f"{RELEASES[name].ratings}: line {2 + first_line(name)}: movie_id {value} is not in {RELEASES[name].movies}; "
        f"{CURE}"
    )


@every_release
def test_a_movie_listed_twice_is_told_with_its_second_line(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, name, MOVIE_TEXT[name].replace("\n7", "\n3"))
    assert message == (
        f"{RELEASES[name].movies}: line {2 + first_line(name)}: movie_id 3 is listed a second time; {CURE}"
    )


@every_release
def test_repeated_pairs_are_counted_and_shown_with_their_lines(tmp_path: Path, name: str) -> None:
    text, lines = RATING_TEXT[name], RATING_TEXT[name].splitlines()
    again = [lines[first_line(name) - 1 + row].replace("978", "999") for row in (1, 0, 1)]
    first = first_line(name)
    assert refusal(tmp_path, name, ratings=text + "\n".join(again)) == (
        f"{RELEASES[name].ratings}: 3 ratings repeat a user and movie rated before: "
        f"user 9 and movie 1 on lines {first + 1}, {first + 4}, {first + 6}; "
        f"user 9 and movie 3 on lines {first}, {first + 5}; keep one rating of each pair"
    )


def test_only_three_of_many_repeated_pairs_are_shown(tmp_path: Path) -> None:
    message = refusal(tmp_path, "ml-1m", ratings=RATING_TEXT["ml-1m"] * 9)
    assert message.startswith("ml-1m/ratings.dat: 32 ratings repeat a user and movie rated before: ")
    assert message.count(" on lines ") == 3
    assert "user 2 and movie 3 on lines 3, 7, 11, 15, 19;" in message


@pytest.mark.parametrize("value", ["x" * 10_000, "9" * 10_000])
def test_a_long_value_is_shortened_in_the_message(tmp_path: Path, value: str) -> None:
    assert len(refusal(tmp_path, "ml-1m", ratings=f"1::3::4::{value}\n")) < 250
    assert len(refusal(tmp_path, "ml-1m", ratings=f"1::3::4::5::{value}\n")) < 300


@pytest.mark.parametrize("name", ["ml-100k", "ml-latest-small"])
def test_text_that_is_not_utf_8_is_told_with_its_line(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, name, MOVIE_TEXT[name].encode("latin-1"))
    assert message == f"{RELEASES[name].movies}: line 2: is not UTF-8 text; {CURE}"


# What is refused: lines


@pytest.mark.parametrize(("line", "columns"), [("9 1 3", 3), ("9 1 3 5 6", 5), ("9", 1), ("9 1 3 5 ", 5)])
@every_release
def test_a_wrong_number_of_columns_is_told_with_its_line(tmp_path: Path, name: str, line: str, columns: int) -> None:
    message = refusal(tmp_path, name, ratings=with_line(name, RATING_TEXT[name], 1, line))
    assert message.startswith(
        f"{RELEASES[name].ratings}: line {1 + first_line(name)}: has {columns} columns where 4 "
        f"(user_id, movie_id, rating, timestamp) are expected, parted by {RELEASES[name].layout.separator!r}: '9"
    )
    assert message.endswith(CURE)


@every_release
def test_a_wrong_number_of_movie_columns_is_told_with_its_line(tmp_path: Path, name: str) -> None:
    separator, layout = RELEASES[name].layout.separator, RELEASES[name].layout
    message = refusal(tmp_path, name, MOVIE_TEXT[name].replace("Toy: Story", f"Toy{separator}Story"))
    assert message.startswith(
        f"{RELEASES[name].movies}: line {1 + first_line(name)}: has {len(layout.columns) + 1} columns where "
        f"{len(layout.columns)} ({', '.join(layout.columns)}) are expected, parted by {separator!r}: "
    )


@pytest.mark.parametrize("row", [0, 1, 4])
@pytest.mark.parametrize("member", ["movies", "ratings"])
@every_release
def test_a_blank_line_is_told_with_its_number(tmp_path: Path, name: str, member: str, row: int) -> None:
    lines = {"movies": MOVIE_TEXT, "ratings": RATING_TEXT}[member][name].splitlines()
    at = min(row + first_line(name) - 1, len(lines))
    lines.insert(at, "")
    message = refusal(tmp_path, name, **{member: "\n".join(lines) + "\n"})
    column = "movie_id" if member == "movies" else "user_id"
    path = getattr(RELEASES[name], member)
    assert message == f"{path}: line {at + 1}: {column} must be {WHOLE}; found ''; {CURE}"


@pytest.mark.parametrize("bad", ["abc", "7::8::9", "-1"])
def test_a_bad_line_deep_in_a_large_file_is_told_with_its_number(tmp_path: Path, bad: str) -> None:
    count, line = 200_000, 187_654
    text = "".join(f"{i + 1}::3::{i % 5 + 1}::{978300760 + i}\n" for i in range(count)).encode()
    assert len(text) > 4 * 2**20  # pyarrow parses blocks of 1 MB
    lines = text.splitlines()
    lines[line - 1] = f"{bad}::3::4::5".encode()
    message = refusal(tmp_path, "ml-1m", ratings=b"\n".join(lines))
    assert message.startswith(f"ml-1m/ratings.dat: line {line}: ")


def test_a_repeated_pair_in_a_large_file_is_told_with_its_lines(tmp_path: Path) -> None:
    lines = [f"{i + 1}::3::4::5" for i in range(100_000)]
    lines[98_765] = lines[12]
    message = refusal(tmp_path, "ml-1m", ratings="\n".join(lines))
    assert "1 ratings repeat" in message
    assert "user 13 and movie 3 on lines 13, 98766;" in message


@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_large_file_is_read_whole_and_in_order(tmp_path: Path, rows: int) -> None:
    users, movies, values = make_ratings(2000, 400, rows, seed=1)
    write_archive(tmp_path / "a.zip", "ml-1m", users, movies, values, 400)
    ratings, _ = extract(tmp_path / "a.zip", RELEASES["ml-1m"])
    for name, column in (("user_id", users), ("movie_id", movies), ("rating", values)):
        np.testing.assert_array_equal(ratings[name], column)


@pytest.mark.parametrize("text", ['1,"A,X\n3,B,X\n', '1,"A,X\n3,"B,X\n7,C,X\n', '1,"A\n",X\n3,B,X\n7,C,X\n'])
def test_a_title_that_runs_over_the_line_is_told_with_its_number(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, "ml-latest-small", "movieId,title,genres\n" + text)
    assert message.startswith("ml-latest-small/movies.csv: line 2: ")
    assert message.endswith(CURE)


# What is refused: headers, members, archives


@pytest.mark.parametrize("member", ["movies", "ratings"])
@pytest.mark.parametrize("name", ["ml-100k", "ml-latest-small"])
def test_a_missing_or_other_header_is_told_with_the_expected_one(tmp_path: Path, name: str, member: str) -> None:
    path = getattr(RELEASES[name], member)
    header, rest = {"movies": MOVIE_TEXT, "ratings": RATING_TEXT}[member][name].split("\n", 1)
    for text in (rest, header.upper() + "\n" + rest, " " + header + "\n" + rest, header[:-1] + "\n" + rest):
        found = text.split("\n", 1)[0]
        assert refusal(tmp_path, name, **{member: text}) == (
            f"{path}: line 1 is {found!r:.80}; {header!r} is expected; {WRONG_RELEASE}"
        )


def test_a_header_where_the_layout_has_none_is_told(tmp_path: Path) -> None:
    message = refusal(tmp_path, "ml-1m", ratings="userId::movieId::rating::timestamp\n" + RATING_TEXT["ml-1m"])
    assert message.startswith(
        "ml-1m/ratings.dat: line 1: user_id must be a whole number up to 2147483647; found 'userId'"
    )


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("member", ["movies", "ratings"])
@pytest.mark.parametrize("name", ["ml-100k", "ml-latest-small"])
def test_a_header_alone_is_told(tmp_path: Path, name: str, member: str, end: str) -> None:
    header = {"movies": MOVIE_TEXT, "ratings": RATING_TEXT}[member][name].split("\n", 1)[0]
    message = refusal(tmp_path, name, **{member: header + end})
    assert message == f"{getattr(RELEASES[name], member)}: has no rows under its header; {WRONG_RELEASE}"


@pytest.mark.parametrize("text", ["", "\n", " \r\n\n"])
@pytest.mark.parametrize("member", ["movies", "ratings"])
@every_release
def test_an_empty_member_is_told(tmp_path: Path, name: str, member: str, text: str) -> None:
    message = refusal(tmp_path, name, **{member: text})
    assert message == f"{getattr(RELEASES[name], member)}: is empty; {WRONG_RELEASE}"


@pytest.mark.parametrize("member", ["movies", "ratings"])
@every_release
def test_a_missing_member_is_named(tmp_path: Path, name: str, member: str) -> None:
    path, missing = tmp_path / "a.zip", getattr(RELEASES[name], member)
    with zipfile.ZipFile(pack(tmp_path / "whole.zip", name)) as whole, zipfile.ZipFile(path, "w") as archive:
        for entry in whole.namelist():
            if entry != missing:
                archive.writestr(entry, whole.read(entry))
    with pytest.raises(UserError) as raised:
        extract(path, RELEASES[name])
    assert str(raised.value) == f"{path}: has no member {missing}; {WRONG_RELEASE}"


def test_the_archive_of_another_release_is_told(archives: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"has no member ml-1m/movies\.dat; is the archive the one that data.dataset"):
        extract(archives["ml-100k"], RELEASES["ml-1m"])


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + b"\0" * 100])
def test_what_is_no_zip_archive_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        extract(path, RELEASES["ml-1m"])
    assert str(raised.value) == (
        f"{path}: cannot be read as a zip archive (File is not a zip file); delete it and run `dvc repro` to fetch it "
        "again, or name another archive as data.archive"
    )


def test_an_archive_cut_anywhere_is_told(tmp_path: Path) -> None:
    whole, path = pack(tmp_path / "whole.zip", "ml-1m").read_bytes(), tmp_path / "a.zip"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cannot be read as a zip archive .*; delete it and run `dvc repro`"):
            extract(path, RELEASES["ml-1m"])


@pytest.mark.parametrize("mask", [0x01, 0x41, 0xFF])
def test_an_archive_with_a_wrong_byte_anywhere_is_read_right_or_refused(tmp_path: Path, mask: int) -> None:
    whole, path = pack(tmp_path / "whole.zip", "ml-1m").read_bytes(), tmp_path / "a.zip"
    refusals = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
        try:
            ratings, movies = extract(path, RELEASES["ml-1m"])
        except UserError:  # any other exception fails the test
            refusals += 1
        else:
            assert rows(ratings) == RATING_ROWS
            assert rows(movies) == MOVIE_ROWS
    assert refusals > len(whole) // 2


def test_a_missing_archive_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.zip: not found; run `dvc repro` to fetch it"):
        extract(tmp_path / "a.zip", RELEASES["ml-1m"])


def test_a_folder_in_place_of_the_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read as a zip archive \(.*Is a directory.*\); delete it and run"):
        extract(tmp_path, RELEASES["ml-1m"])


# The stage


def put_archive(project: Path, archive: Path) -> None:
    (project / "data" / "raw").mkdir(parents=True)
    shutil.copy(archive, project / "data" / "raw" / "archive.zip")


@every_release
def test_the_stage_writes_the_two_tables_and_nothing_else(project: Path, archives: dict[str, Path], name: str) -> None:
    put_archive(project, archives[name])
    set_params(project, data__dataset=name)
    before = files(project)
    result = stage(project, "extract")
    assert (result.returncode, result.stderr) == (0, "")
    ratings, movies = extract(archives[name], RELEASES[name])
    for path, table in ((RATINGS_PATH, ratings), (MOVIES_PATH, movies)):
        assert pq.read_table(project / path).equals(table)
    assert files(project) == before | {str(path): sha256(project / path) for path in (RATINGS_PATH, MOVIES_PATH)}


@pytest.mark.parametrize(
    ("movies", "ratings", "words"),
    [
        (None, "9::3::4::5\n9::1::x::5\n", ["ml-1m/ratings.dat: line 2: rating must be a number", "found 'x'", CURE]),
        (None, "9::3::4::5\n9::1::7::5\n", ["ml-1m/ratings.dat: line 2: rating is 7; ratings are 1 to 5", CURE]),
        (None, "9::3::4::5\n9::3::4::5\n", ["1 ratings repeat", "user 9 and movie 3 on lines 1, 2", "keep one rating"]),
        (None, "9::3\n", ["ml-1m/ratings.dat: line 1: has 2 columns where 4", CURE]),
        ("3::A\n", None, ["ml-1m/movies.dat: line 1: has 2 columns where 3 (movie_id, title, genres)", CURE]),
        ("", None, ["ml-1m/movies.dat: is empty", WRONG_RELEASE]),
    ],
)
def test_the_stage_tells_a_bad_line_and_keeps_the_old_tables(
    project: Path, tmp_path: Path, movies: str | None, ratings: str | None, words: list[str]
) -> None:
    put_archive(project, pack(tmp_path / "a.zip", "ml-1m", movies, ratings))
    for path in (RATINGS_PATH, MOVIES_PATH):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_bytes(b"of an earlier run")
    before = files(project)
    refused(stage(project, "extract"), *words)
    assert files(project) == before


@pytest.mark.parametrize("content", [None, b"not a zip"])
def test_the_stage_tells_a_missing_or_broken_archive_and_writes_nothing(project: Path, content: bytes | None) -> None:
    if content is not None:
        (project / "data" / "raw").mkdir(parents=True)
        (project / "data" / "raw" / "archive.zip").write_bytes(content)
    before = files(project)
    refused(stage(project, "extract"), "data/raw/archive.zip: ", "run `dvc repro`")
    assert files(project) == before
