"""Every layout is parsed to exactly its rows, and a bad line is found by its number; more of these in tests/corpora."""

import io
import shutil
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recommender.data import archive, tables
from recommender.data.archive import open_members
from recommender.data.movielens import RELEASES
from recommender.data.synthetic import CATEGORIES, FIRST_SECOND, make_ratings, write_archive
from recommender.errors import UserError
from recommender.paths import ARCHIVE, LISTED_ITEMS
from recommender.paths import RATINGS as RATINGS_PATH
from recommender.storage import ROW_GROUP, write_table
from tests.conftest import ITEMS, RATINGS, USERS, files, set_params, sha256, stage
from tests.samples import ITEM_ROWS, ITEM_TEXT, RATING_ROWS, RATING_TEXT, extracted, pack, rows

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
        extracted(path, name)
    assert not path.with_suffix(".parquet").exists()
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
    ratings, items = extracted(archives[name], name)
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
    ratings, items = extracted(pack(tmp_path / "a.zip", name), name)
    assert rows(ratings) == RATING_ROWS
    assert rows(items) == ITEM_ROWS


def test_csv_quotes_are_removed_and_doubled_ones_halved(tmp_path: Path) -> None:
    text = 'movieId,title,genres\n3,"A ""quoted"", title","X|Y"\n1,B,X\n7,"",""\n'
    items = extracted(pack(tmp_path / "a.zip", "ml-latest-small", text), "ml-latest-small")[1]
    assert rows(items) == [(3, 'A "quoted", title', "X|Y"), (1, "B", "X"), (7, "", "")]


@pytest.mark.parametrize("name", ["ml-100k", "ml-100k-zip", "ml-1m", "ml-10m"])
def test_quotes_are_letters_where_the_layout_has_no_quoting(tmp_path: Path, name: str) -> None:
    text = ITEM_TEXT[name].replace("Toy: Story", '"Toy: Story').replace("unknown", '"u"', 1)
    items = extracted(pack(tmp_path / "a.zip", name, text), name)[1]
    assert items["title"].to_pylist()[1:] == ['"Toy: Story (1995)', '"u"']


@pytest.mark.parametrize("title", ["NA", "null", "NaN", "None", "", "true", "12"])
@every_layout
def test_titles_that_look_like_something_else_are_text(tmp_path: Path, name: str, title: str) -> None:
    text = ITEM_TEXT[name].replace("unknown", title, 1)
    assert extracted(pack(tmp_path / "a.zip", name, text), name)[1]["title"][2].as_py() == title


@pytest.mark.parametrize("count", [1, 100_000])
def test_a_large_file_is_read_whole_and_in_order(tmp_path: Path, count: int) -> None:
    users, items, values = make_ratings(2000, 400, count, seed=1)
    write_archive(tmp_path / "a.zip", "ml-1m", [(users, items, values)], 400)
    ratings, _ = extracted(tmp_path / "a.zip", "ml-1m")
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


# Blocks, row groups and shares of the users

SEARCH = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def whole(text: str, name: str, block: int) -> pa.Table:
    """Parse ratings as Arrow does when it divides them itself."""
    layout = RELEASES[name].layout
    reading = pyarrow.csv.ReadOptions(column_names=RATING_SCHEMA.names, skip_rows=layout.first_line - 1)
    reading.block_size = block
    parsing = pyarrow.csv.ParseOptions(delimiter="\t" if name in ("ml-1m", "ml-10m") else layout.separator)
    converting = pyarrow.csv.ConvertOptions(column_types=RATING_SCHEMA)
    return pyarrow.csv.read_csv(io.BytesIO(text.replace("::", "\t").encode()), reading, parsing, converting)


@SEARCH
@given(
    st.lists(st.sampled_from([":", "::", ":::", "1", "23", "é", "\n", "\r", "\r\n"]), min_size=1, max_size=60),
    st.integers(2, 12),
)
def test_separators_are_replaced_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[str], block: int
) -> None:
    monkeypatch.setattr(archive, "BLOCK", block)
    text = "4" + "".join(pieces)
    pack(tmp_path / "a.zip", "ml-10m", ratings=text)
    with open_members(tmp_path / "a.zip", RELEASES["ml-10m"]) as (_, ratings):
        blocks = list(ratings)
        assert list(ratings) == blocks
    ends = [each.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for each in (text.replace("::", "\t").encode(), *blocks)]
    assert b"".join(ends[1:]) == ends[0]
    longest = max(map(len, text.encode().splitlines()))
    assert all(each.endswith((b"\n", b"\r")) for each in blocks[:-1]) or longest >= block / 2
    assert 0 < min(map(len, blocks)) <= max(map(len, blocks)) <= 2 * block


@SEARCH
@given(st.data())
def test_the_text_is_divided_as_arrow_divides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(("ml-1m", "ml-latest-small", "ml-100k-zip")))
    block = data.draw(st.integers(80, 300))  # at least the header and a row
    monkeypatch.setattr(archive, "BLOCK", block)
    layout, end = RELEASES[name].layout, data.draw(st.sampled_from(("\n", "\r\n")))
    values = data.draw(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**9)), min_size=1, max_size=60))
    lines = [layout.separator.join(map(str, (user, 3, 4, time))) for user, time in values]
    text = end.join([*([",".join(layout.header[0])] if layout.header else []), *lines]) + data.draw(
        st.sampled_from((end, ""))
    )
    pack(tmp_path / "a.zip", name, ratings=text)
    with open_members(tmp_path / "a.zip", RELEASES[name]) as (_, ratings):
        read = list(tables._parse(ratings, layout, tables.RATING_TYPES, 0))
    assert pa.concat_tables(read).equals(whole(text, name, block))
    sizes = [len(chunk) for chunk in whole(text, name, block)["user_id"].chunks]
    assert [len(table) for table in read if len(table)] == [size for size in sizes if size]


@pytest.mark.parametrize("name", ["ml-latest-small", "ml-10m"])
def test_the_file_has_the_bytes_of_the_whole_table(tmp_path: Path, name: str) -> None:
    count, separator = ROW_GROUP + 70_000, RELEASES[name].layout.separator
    random = np.random.default_rng(3)
    columns = (
        np.arange(1, count + 1),
        np.full(count, 3),
        random.integers(1, 6, count),
        random.integers(0, 10**9, count),
    )
    made = pa.table(dict(zip(RATING_SCHEMA.names, columns, strict=True)))
    written = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter=separator[0], quoting_style="none")
    pyarrow.csv.write_csv(made, written, options)
    header = ",".join(RELEASES[name].layout.header[0]) + "\n" if RELEASES[name].layout.header else ""
    text = header + written.getvalue().decode().replace(":", "::")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as stored:
        stored.writestr(RELEASES[name].items, ITEM_TEXT[name])
        stored.writestr(RELEASES[name].ratings, text)
    extracted(tmp_path / "a.zip", name)
    write_table(tmp_path / "whole.parquet", whole(text, name, 2**20))
    assert sha256(tmp_path / "a.parquet") == sha256(tmp_path / "whole.parquet")
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(group).num_rows for group in range(2)] == [ROW_GROUP, 70_000]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 20])
def test_row_groups_are_full_but_for_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(archive, "BLOCK", 64)
    monkeypatch.setattr(tables, "ROW_GROUP", 8)
    lines = [f"{i + 1}::3::4::{i}" for i in range(count)]
    ratings, _ = extracted(pack(tmp_path / "a.zip", "ml-1m", ratings="\n".join(lines)), "ml-1m")
    assert ratings["user_id"].to_pylist() == list(range(1, count + 1))
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sizes == [8] * (count // 8) + [count % 8] * (count % 8 > 0)


def test_the_memory_does_not_grow_with_the_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BLOCK", 2**16)
    monkeypatch.setattr(tables, "ROW_GROUP", 2**13)
    monkeypatch.setattr(tables, "MOST_PAIRS", 2**13)
    peaks = []
    for count in (20_000, 400_000):
        lines = "\n".join(f"{user}::{item}::4::978300760" for user in range(1, count // 2 + 1) for item in (1, 3))
        pack(tmp_path / "a.zip", "ml-1m", ratings=lines)
        default, own = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(own)
        tracemalloc.start()
        try:
            tables.extract(tmp_path / "a.zip", RELEASES["ml-1m"], tmp_path / "a.parquet")
            peaks.append((own.max_memory(), tracemalloc.get_traced_memory()[1]))
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(default)
    assert peaks[1][0] < 4 * peaks[0][0]
    assert peaks[1][1] < 4 * peaks[0][1] + 400_000 * 8  # an array for all pairs, of which one share is filled


@SEARCH
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from((1, 3, 7))), min_size=1, max_size=60),
    st.integers(1, 12),
    st.integers(1, 9),
)
def test_repeated_pairs_are_the_same_in_any_number_of_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: list[tuple[int, int]], most: int, group: int
) -> None:
    monkeypatch.setattr(tables, "MOST_PAIRS", most)
    monkeypatch.setattr(tables, "ROW_GROUP", group)
    text = "\n".join(f"{user}::{item}::4::5" for user, item in pairs)
    counts = Counter(pairs)
    shown = [
        f"user {pair[0]} and item {pair[1]} on lines "
        + ", ".join([str(line) for line, other in enumerate(pairs, 1) if other == pair][:5])
        for pair in sorted(pair for pair, count in counts.items() if count > 1)[:3]
    ]
    if not shown:
        assert len(extracted(pack(tmp_path / "a.zip", "ml-1m", ratings=text), "ml-1m")[0]) == len(pairs)
        return
    (tmp_path / "bad.parquet").unlink(missing_ok=True)
    assert refusal(tmp_path, "ml-1m", ratings=text) == (
        f"ml-1m/ratings.dat: {len(pairs) - len(counts)} ratings repeat a user and item rated before: "
        f"{'; '.join(shown)}; keep one rating of each pair"
    )


def test_bad_lines_are_counted_in_all_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BLOCK", 64)
    monkeypatch.setattr(tables, "ROW_GROUP", 7)
    lines = [f"{i + 1}::{2 if i == 4 else 3}::{9 if i % 11 == 10 else 4}::{-i if i == 2 else i}" for i in range(100)]
    message = f"ml-1m/ratings.dat: line 11: rating is 9; ratings are 1 to 5 in steps of 1 (and 8 more lines); {FIX}"
    assert refusal(tmp_path, "ml-1m", ratings="\n".join(lines)) == message
    right = "\n".join(lines).replace("::9::", "::4::")
    assert "line 3: timestamp is -2; " in refusal(tmp_path, "ml-1m", ratings=right)


@pytest.mark.parametrize("block", [64, 150, 2**20])
def test_the_same_line_is_named_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(archive, "BLOCK", block)
    lines = [f"{i + 1}::3::4::5" for i in range(40)]
    lines[9], lines[20] = "x::3::4::5", "y::3::4::5"
    assert f"line 10: user_id must be a whole number up to {2**31 - 1}; found 'x'" in refusal(
        tmp_path, "ml-1m", ratings="\n".join(lines)
    )
    lines[30] = "31::3::4"
    assert "line 31: has 3 columns" in refusal(tmp_path, "ml-1m", ratings="\n".join(lines))
    lines[35] += "\t"
    assert "line 36: contains a tab" in refusal(tmp_path, "ml-1m", ratings="\n".join(lines))
    lines[35] = "é"
    assert "line 36: is not UTF-8" in refusal(tmp_path, "ml-10m", ratings="\n".join(lines).encode("latin-1"))


@pytest.mark.parametrize("line", [2, 20_000, 40_000, 60_000])
def test_an_open_quote_drops_no_ratings_of_a_large_file(tmp_path: Path, line: int) -> None:
    # Arrow, where it divides the text itself, leaves out what is left of the block.
    lines = ["userId,movieId,rating,timestamp", *(f"{i + 1},3,4.0,900000000" for i in range(60_000))]
    lines[line - 1] = f'"{lines[line - 1]}'
    text = "\n".join(lines)
    assert len(text) > 2**20
    message = refusal(tmp_path, "ml-latest-small", ratings=text)
    assert message.startswith(f"ml-latest-small/ratings.csv: line {line}: has 1 columns where 4 ")


def test_damage_is_reported_before_what_else_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BLOCK", 64)
    path = tmp_path / "a.zip"
    lines = [f"{i + 1}::3::4::5" for i in range(400)]
    lines[3] = "x::\t"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("ml-1m/movies.dat", "x::a::b\n")
        made.writestr("ml-1m/ratings.dat", "\n".join(lines))
    with pytest.raises(UserError, match=r"ratings\.dat: line 4: contains a tab"):
        extracted(path, "ml-1m")
    path.write_bytes(path.read_bytes().replace(b"\n399::", b"\n398::"))
    with pytest.raises(UserError, match=r"a\.zip: cannot be read as a zip archive \(Bad CRC-32"):
        extracted(path, "ml-1m")


# The stage


@every_layout
def test_the_stage_writes_the_two_tables_and_nothing_else(project: Path, archives: dict[str, Path], name: str) -> None:
    (project / ARCHIVE).parent.mkdir(parents=True)
    shutil.copy(archives[name], project / ARCHIVE)
    set_params(project, data__dataset=name)
    before = files(project)
    result = stage(project, "extract")
    assert (result.returncode, result.stderr) == (0, "")
    for path, table in zip((RATINGS_PATH, LISTED_ITEMS), extracted(archives[name], name), strict=True):
        assert pq.read_table(project / path).equals(table)
    assert files(project) == before | {str(path): sha256(project / path) for path in (RATINGS_PATH, LISTED_ITEMS)}
