"""Every layout is parsed to exactly its rows, and a bad line is found by its number; more of these in tests/corpora."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recommender.data.movielens import RELEASES
from recommender.data.synthetic import CATEGORIES, FIRST_SECOND, make_ratings, write_archive
from recommender.data.tables import extract
from recommender.errors import UserError
from recommender.paths import ARCHIVE, LISTED_ITEMS
from recommender.paths import RATINGS as RATINGS_PATH
from tests.conftest import ITEMS, RATINGS, USERS, files, set_params, sha256, stage
from tests.samples import ITEM_ROWS, ITEM_TEXT, RATING_ROWS, RATING_TEXT, pack, rows

RATING_SCHEMA = pa.schema(
    [("user_id", pa.int32()), ("item_id", pa.int32()), ("rating", pa.float32()), ("timestamp", pa.int64())]
)
ITEM_SCHEMA = pa.schema([("item_id", pa.int32()), ("title", pa.string()), ("categories", pa.string())])
FIX = "fix the line or fetch the archive again"
every_layout = pytest.mark.parametrize("name", ITEM_TEXT)


def refusal(folder: Path, name: str, items: str | bytes | None = None, ratings: str | bytes | None = None) -> str:
    """Extract what must be refused; return the message."""
    path = pack(folder / "bad.zip", name, items, ratings)
    with pytest.raises(UserError) as raised:
        extract(path, RELEASES[name])
    return str(raised.value)


def refused_line(folder: Path, name: str, row: int, *values: object) -> str:
    """Replace a row of the ratings by wrong values; return the message after the file and line, without the advice."""
    lines = RATING_TEXT[name].splitlines()
    lines[row + RELEASES[name].layout.first_line - 1] = RELEASES[name].layout.separator.join(map(str, values))
    message = refusal(folder, name, ratings="\n".join(lines) + "\n")
    start, end = f"{RELEASES[name].ratings}: line {row + RELEASES[name].layout.first_line}: ", f"; {FIX}"
    assert message.startswith(start)
    assert message.endswith(end)
    return message.removeprefix(start).removesuffix(end)


# What is read


def test_every_layout_of_a_release_has_a_sample() -> None:
    assert {RELEASES[name].layout for name in RATING_TEXT} == {release.layout for release in RELEASES.values()}


@pytest.mark.parametrize("name", RELEASES)
def test_the_generated_rows_are_read_in_order_with_their_types(archives: dict[str, Path], name: str) -> None:
    ratings, items = extract(archives[name], RELEASES[name])
    users, ids, values = make_ratings(USERS, ITEMS, RATINGS, scale=RELEASES[name].scale)
    assert ratings.schema.equals(RATING_SCHEMA)
    np.testing.assert_array_equal(ratings["user_id"], users)
    np.testing.assert_array_equal(ratings["item_id"], ids)
    np.testing.assert_array_equal(ratings["rating"], values)
    np.testing.assert_array_equal(ratings["timestamp"], FIRST_SECOND + np.arange(RATINGS))
    assert items.schema.equals(ITEM_SCHEMA)
    assert rows(items) == [
        (
            i,
            f"{'Amélie' if i % 10 == 0 else 'Letter, The' if i % 10 == 5 else 'Movie'} {i} ({1950 + i % 50})",
            "|".join(sorted({CATEGORIES[i % 6], CATEGORIES[i // 6 % 6]})),
        )
        for i in range(1, ITEMS + 6)
    ]
    assert ratings.column("rating").null_count == items.column("title").null_count == 0


@every_layout
def test_every_layout_gives_the_same_tables(tmp_path: Path, name: str) -> None:
    ratings, items = extract(pack(tmp_path / "a.zip", name), RELEASES[name])
    assert rows(ratings) == RATING_ROWS
    assert rows(items) == ITEM_ROWS


def test_csv_quotes_are_removed_and_doubled_ones_halved(tmp_path: Path) -> None:
    text = 'movieId,title,genres\n3,"A ""quoted"", title","X|Y"\n1,B,X\n7,"",""\n'
    items = extract(pack(tmp_path / "a.zip", "ml-latest-small", text), RELEASES["ml-latest-small"])[1]
    assert rows(items) == [(3, 'A "quoted", title', "X|Y"), (1, "B", "X"), (7, "", "")]


@pytest.mark.parametrize("name", ["ml-100k", "ml-100k-zip", "ml-1m", "ml-10m"])
def test_quotes_are_letters_where_the_layout_has_no_quoting(tmp_path: Path, name: str) -> None:
    text = ITEM_TEXT[name].replace("Toy: Story", '"Toy: Story').replace("unknown", '"u"', 1)
    items = extract(pack(tmp_path / "a.zip", name, text), RELEASES[name])[1]
    assert items["title"].to_pylist()[1:] == ['"Toy: Story (1995)', '"u"']


@pytest.mark.parametrize("title", ["NA", "null", "NaN", "None", "", "true", "12"])
@every_layout
def test_titles_that_look_like_something_else_are_text(tmp_path: Path, name: str, title: str) -> None:
    text = ITEM_TEXT[name].replace("unknown", title, 1)
    assert extract(pack(tmp_path / "a.zip", name, text), RELEASES[name])[1]["title"][2].as_py() == title


@pytest.mark.parametrize("count", [1, 100_000])
def test_a_large_file_is_read_whole_and_in_order(tmp_path: Path, count: int) -> None:
    users, items, values = make_ratings(2000, 400, count, seed=1)
    write_archive(tmp_path / "a.zip", "ml-1m", (users, items, values), 400)
    ratings, _ = extract(tmp_path / "a.zip", RELEASES["ml-1m"])
    for name, column in (("user_id", users), ("item_id", items), ("rating", values)):
        np.testing.assert_array_equal(ratings[name], column)


# What is refused


@pytest.mark.parametrize("row", range(4))
@every_layout
def test_a_value_that_is_not_a_number_is_shown_with_its_line(tmp_path: Path, name: str, row: int) -> None:
    columns = {"user_id": 2**31, "item_id": 2**31, "rating": None, "timestamp": 2**63}
    for position, (column, limit) in enumerate(columns.items()):
        wrong = ("abc", "", "nan", "inf", "1.5", "1e3", "1;1", "9" * 30, limit) if limit else ("abc", "", "4;0", "1:2")
        for value in wrong:
            values: list[object] = [9, 1, 3, 5]
            values[position] = value
            kind = f"a whole number up to {limit - 1}" if limit else "a number"
            assert refused_line(tmp_path, name, row, *values) == f"{column} must be {kind}; found '{value}'"


@pytest.mark.parametrize(
    ("name", "wrong", "scale"),
    [
        ("ml-1m", "0 6 3.5 -1 nan inf -inf 1e39", "1 to 5 in steps of 1"),
        ("ml-100k", "0.5 5.000001", "1 to 5 in steps of 1"),
        ("ml-latest-small", "0 0.25 3.75 5.5 nan", "0.5 to 5 in steps of 0.5"),
        ("ml-10m", "0 0.25 3.75 5.5 nan", "0.5 to 5 in steps of 0.5"),
    ],
)
def test_a_rating_off_the_scale_is_shown_with_its_line(tmp_path: Path, name: str, wrong: str, scale: str) -> None:
    for value in wrong.split():
        shown = {"1e39": "inf", "5.000001": "5"}.get(value, value)
        assert refused_line(tmp_path, name, 1, 9, 1, value, 5) == f"rating is {shown}; ratings are {scale}"


@every_layout
def test_an_id_out_of_range_or_not_listed_is_shown_with_its_line(tmp_path: Path, name: str) -> None:
    for value in (0, -1, -(2**31)):
        assert refused_line(tmp_path, name, 3, value, 1, 3, 5) == f"user_id is {value}; ids are 1 to 2147483647"
    for value in (4, -3, 2**31 - 1):
        assert refused_line(tmp_path, name, 2, 9, value, 3, 5) == f"item_id {value} is not in {RELEASES[name].items}"


def test_the_first_of_many_bad_lines_is_shown_with_their_number(tmp_path: Path) -> None:
    text = RATING_TEXT["ml-1m"].replace("::3::9783", "::9::9783").replace("::5::9783", "::0::9783")
    assert refusal(tmp_path, "ml-1m", ratings=text) == (
        f"ml-1m/ratings.dat: line 2: rating is 9; ratings are 1 to 5 in steps of 1 (and 1 more lines); {FIX}"
    )


@every_layout
def test_repeated_pairs_are_counted_and_shown_with_their_lines(tmp_path: Path, name: str) -> None:
    text, lines = RATING_TEXT[name], RATING_TEXT[name].splitlines()
    first = RELEASES[name].layout.first_line
    again = [lines[first - 1 + row].replace("978", "999") for row in (1, 0, 1)]
    assert refusal(tmp_path, name, ratings=text + "\n".join(again)) == (
        f"{RELEASES[name].ratings}: 3 ratings repeat a user and item rated before: "
        f"user 9 and item 1 on lines {first + 1}, {first + 4}, {first + 6}; "
        f"user 9 and item 3 on lines {first}, {first + 5}; keep one rating of each pair"
    )


def test_only_three_of_many_repeated_pairs_are_shown(tmp_path: Path) -> None:
    message = refusal(tmp_path, "ml-1m", ratings=RATING_TEXT["ml-1m"] * 9)
    assert message.startswith("ml-1m/ratings.dat: 32 ratings repeat a user and item rated before: ")
    assert message.count(" on lines ") == 3
    assert "user 2 and item 3 on lines 3, 7, 11, 15, 19;" in message


@pytest.mark.parametrize("value", ["x" * 10_000, "9" * 10_000])
def test_a_long_value_is_shortened_in_the_message(tmp_path: Path, value: str) -> None:
    assert len(refusal(tmp_path, "ml-1m", ratings=f"1::3::4::{value}\n")) < 250
    assert len(refusal(tmp_path, "ml-1m", ratings=f"1::3::4::5::{value}\n")) < 300


@pytest.mark.parametrize("bad", ["abc", "7::8::9", "-1"])
def test_a_bad_line_deep_in_a_large_file_is_found(tmp_path: Path, bad: str) -> None:
    count, line = 200_000, 187_654
    lines = [f"{i + 1}::3::{i % 5 + 1}::{978300760 + i}" for i in range(count)]
    lines[line - 1] = f"{bad}::3::4::5"
    text = "\n".join(lines)
    assert len(text) > 4 * 2**20  # pyarrow parses blocks of 1 MB
    assert refusal(tmp_path, "ml-1m", ratings=text).startswith(f"ml-1m/ratings.dat: line {line}: ")


def test_a_repeated_pair_in_a_large_file_is_found(tmp_path: Path) -> None:
    lines = [f"{i + 1}::3::4::5" for i in range(100_000)]
    lines[98_765] = lines[12]
    message = refusal(tmp_path, "ml-1m", ratings="\n".join(lines))
    assert "1 ratings repeat a user and item rated before: user 13 and item 3 on lines 13, 98766;" in message


# The stage


@every_layout
def test_the_stage_writes_the_two_tables_and_nothing_else(project: Path, archives: dict[str, Path], name: str) -> None:
    (project / ARCHIVE).parent.mkdir(parents=True)
    shutil.copy(archives[name], project / ARCHIVE)
    set_params(project, data__dataset=name)
    before = files(project)
    result = stage(project, "extract")
    assert (result.returncode, result.stderr) == (0, "")
    for path, table in zip((RATINGS_PATH, LISTED_ITEMS), extract(archives[name], RELEASES[name]), strict=True):
        assert pq.read_table(project / path).equals(table)
    assert files(project) == before | {str(path): sha256(project / path) for path in (RATINGS_PATH, LISTED_ITEMS)}
