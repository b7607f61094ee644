"""Ratings come out of every format as they went in: ids as written, ratings, times, in the file's order."""

import csv
import datetime
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.data.own import rows as rows_module
from recommender.data.own.ratings import read_ratings
from recommender.errors import UserError
from tests.data.own.helpers import COMPRESSIONS, fetched, json_lines, own, parquet, read, slow_read, text

NAMES = ("user_id", "item_id", "rating", "timestamp")
ROWS = [("u 1", "007", 4.5, 978300760), ("u 2", " a", 1.0, 978302109), ("É", "007", 10.0, 0), ("u 1", "b,c", 3.0, 5)]
NUMBERS = [(9, 3, 4.0, 978300760), (-9, 1, 3.0, 978302109), (2, 3, 5.0, 0), (2**62, 7, 1.0, 5)]
WRITERS = {
    ",": lambda rows: text(rows, NAMES, ","),
    "\t": lambda rows: text(rows, NAMES, "\t"),
    ";": lambda rows: text(rows, NAMES, ";"),
    "|": lambda rows: text(rows, NAMES, "|"),
    "every value quoted": lambda rows: text(rows, NAMES, ",", csv.QUOTE_ALL),
    "JSON lines": lambda rows: json_lines(rows, NAMES),
    "Parquet": lambda rows: parquet(rows, NAMES),
}


def write(folder: Path, data: bytes | str, name: str = "ratings.csv") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("rows", [ROWS, NUMBERS], ids=["text", "numbers"])
@pytest.mark.parametrize("format_", WRITERS)
def test_every_format_and_compression_gives_the_same_rows(
    tmp_path: Path, format_: str, rows: list[Any], compression: str
) -> None:
    data = COMPRESSIONS[compression](WRITERS[format_](rows))
    assert read(write(tmp_path, data)) == rows


IDS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 20).map(lambda number: f"{number:03d}"),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12),
)
VALUES = st.floats(-1e6, 1e6, width=32).map(lambda value: value + 0.0)


@given(
    st.lists(
        st.tuples(IDS, IDS, VALUES, st.integers(0, 10**10)), min_size=2, max_size=30, unique_by=lambda r: (r[0], r[1])
    ),
    st.sampled_from([",", "\t", ";", "|", "JSON lines", "Parquet"]),
    st.sampled_from(list(COMPRESSIONS)),
)
@settings(max_examples=150, deadline=None)
def test_any_table_survives_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], format_: str, compression: str
) -> None:
    as_text = [(str(user), str(item), *rest) for user, item, *rest in rows]
    if len({row[:2] for row in as_text}) < len(rows):
        return  # a number and the same as text are one id
    separator = format_ if len(format_) == 1 else ","
    expected = slow_read(text(as_text, NAMES, separator), separator, header=True)
    path = write(tmp_path_factory.mktemp("trip"), COMPRESSIONS[compression](WRITERS[format_](as_text)))
    found = read(path, separator=separator if len(format_) == 1 else None, header=None)
    assert [row[:2] + row[3:] for row in found] == [row[:2] + row[3:] for row in expected]
    np.testing.assert_array_equal([row[2] for row in found], np.float32([row[2] for row in expected]))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "2", "10"], [1, 2, 10]),
        (["-5", "0", "9223372036854775807"], [-5, 0, 2**63 - 1]),
        (["007", "7", "8"], ["007", "7", "8"]),
        (["1", "+2", "3"], ["1", "+2", "3"]),
        (["1", "2.0", "3"], ["1", "2.0", "3"]),
        (["1", " 2", "3"], ["1", " 2", "3"]),
        (["-0", "1", "2"], ["-0", "1", "2"]),
        (["1", "9223372036854775808", "3"], ["1", "9223372036854775808", "3"]),
        (["É", "e\u0301", "E"], ["É", "e\u0301", "E"]),
        (["NA", "null", "nan"], ["NA", "null", "nan"]),
        (["x" * 1000, "y", "=1+1"], ["x" * 1000, "y", "=1+1"]),
    ],
)
def test_whole_numbers_are_numbers_and_all_else_is_text(tmp_path: Path, ids: list[str], expected: list[object]) -> None:
    data = text([(each, 1, 3) for each in ids], ("user_id", "item_id", "rating"), ",")
    table = read_ratings(fetched(write(tmp_path, data)), own())
    assert table["user_id"].to_pylist() == expected
    kind = table["user_id"].type
    assert kind == (pa.int64() if isinstance(expected[0], int) else pa.dictionary(pa.int32(), pa.string()))


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["978300760", "978300760.9"], [978300760, 978300760]),
        (["978300760000", "978300760999"], [978300760, 978300760]),
        (["2004-05-06", "1970-01-01"], [1083801600, 0]),
        (["2004-05-06T10:11:12", "2004-05-06 10:11:12Z"], [1083838272, 1083838272]),
        (["2004-05-06T10:11:12+02:00", "2004-05-06T10:11:12.999999-0130"], [1083831072, 1083843672]),
        (["9.7830076E8", "0"], [978300760, 0]),
    ],
)
def test_times_are_seconds_milliseconds_or_iso_dates(tmp_path: Path, values: list[str], seconds: list[int]) -> None:
    data = text([(user, 1, 3, value) for user, value in enumerate(values)], NAMES, ",")
    assert [row[3] for row in read(write(tmp_path, data))] == seconds


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ms"), pa.timestamp("ns", "Europe/Zurich"), pa.date32(), pa.timestamp("s")]
)
def test_times_of_parquet_have_types_of_their_own(tmp_path: Path, kind: pa.DataType) -> None:
    days = [datetime.datetime(2004, 5, 6, tzinfo=datetime.UTC), datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)]
    column = pa.array(days, pa.timestamp("ns", "UTC")).cast(pa.timestamp("ns")).cast(kind)
    pq.write_table(pa.table({"user": [1, 2], "item": [1, 2], "date": column}), tmp_path / "ratings.parquet")
    assert [row[2:] for row in read(tmp_path / "ratings.parquet")] == [(1.0, 1083801600), (1.0, 0)]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint64(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_ids_of_parquet_may_have_any_type_of_numbers_or_text(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["3", "1", "3"]).cast(kind) if "int" not in str(kind)[:4] else pa.array([3, 1, 3], kind)
    pq.write_table(pa.table({"user": [1, 2, 3], "item": column, "score": [1, 2, 3]}), tmp_path / "ratings.parquet")
    assert read(tmp_path / "ratings.parquet") == [(1, 3, 1.0, None), (2, 1, 2.0, None), (3, 3, 3.0, None)]


@pytest.mark.parametrize("separator", ["::", ",", "\t", ";", "|", " ", "^"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_without_a_header_the_order_is_user_item_rating_timestamp(tmp_path: Path, separator: str, count: int) -> None:
    data = text([row[:count] for row in NUMBERS], (), separator)
    found = read(write(tmp_path, data), separator="^" if separator == "^" else None)
    assert found == [(*row[:2], row[2] if count > 2 else 1.0, row[3] if count > 3 else None) for row in NUMBERS]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
def test_line_ends_blank_lines_and_byte_order_marks_change_nothing(
    tmp_path: Path, start: str, end: str, last: str
) -> None:
    lines = ["user_id,isbn,stars", "u,007,3", "", "v,8,4.5"]
    data = start + end.join(lines) + last.replace("\n", end)
    assert read(write(tmp_path, data), columns={"rating": "stars"}) == [("u", "007", 3.0, None), ("v", "8", 4.5, None)]


@pytest.mark.parametrize("separator", ["::", ","])
@pytest.mark.parametrize("block", [64, 100, 1000])
def test_blocks_of_any_size_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str, block: int
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK", block)
    draw = random.Random(7)  # noqa: S311 - no secret
    rows = [(f"u{user}", item, draw.randrange(1, 6), draw.randrange(10**9)) for user in range(20) for item in range(15)]
    assert read(write(tmp_path, text(rows, (), separator))) == [(*row[:2], float(row[2]), row[3]) for row in rows]


def test_columns_are_taken_by_name_or_number_and_others_may_contain_anything(tmp_path: Path) -> None:
    data = 'x,review,reader,book no,points,when\n1,"two\nlines, and ""quotes""",r1,b1,7,5\n2,,r2,b2,8,6\n'
    columns = {"user": "reader", "item": 4, "rating": "points", "timestamp": "none"}
    assert read(write(tmp_path, data), columns=columns) == [("r1", "b1", 7.0, None), ("r2", "b2", 8.0, None)]


def test_quotes_are_letters_in_atomic_files_and_between_two_colons(tmp_path: Path) -> None:
    atomic = 'user_id:token\titem_id:token\trating:float\n"a\tb\t3\nc\t"d"\t4\n'
    assert read(write(tmp_path, atomic)) == [('"a', "b", 3.0, None), ("c", '"d"', 4.0, None)]
    assert read(write(tmp_path, '"a::b::3\nc::"d"::4\n')) == [('"a', "b", 3.0, None), ("c", '"d"', 4.0, None)]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_no_byte(tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK", 2000)
    path = write(tmp_path, text([(f"u{n % 97}", n, n % 5, n) for n in range(5000)], NAMES, ","))
    before = pa.cpu_count()
    try:
        pa.set_cpu_count(threads)
        table = read_ratings(fetched(path), own())
    finally:
        pa.set_cpu_count(before)
    assert table["user_id"].combine_chunks().indices.to_pylist() == [n % 97 for n in range(5000)]
    assert table["item_id"].to_pylist() == list(range(5000))


REPEATED = [(1, 7, 4.0, 50), (1, 8, 5.0, 10), (1, 7, 2.0, 90), (2, 7, 1.0, 1), (1, 7, 5.0, 60), (1, 8, 5.0, 9)]


def expected(policy: str, *, timed: bool) -> list[Any]:
    """Choose of each pair by hand."""
    kept = []
    for pair in dict.fromkeys(row[:2] for row in REPEATED):
        rows = [
            (row[2] if policy == "max" else 0, row[3] if timed else 0, at)
            for at, row in enumerate(REPEATED)
            if row[:2] == pair
        ]
        kept.append(max(rows)[2])
    mean = {
        pair: float(np.mean([row[2] for row in REPEATED if row[:2] == pair])) for pair in {row[:2] for row in REPEATED}
    }
    return [
        (
            *REPEATED[at][:2],
            np.float32(mean[REPEATED[at][:2]]) if policy == "mean" else REPEATED[at][2],
            REPEATED[at][3] if timed else None,
        )
        for at in sorted(kept)
    ]


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("policy", ["last", "max", "mean"])
def test_of_repeated_ratings_one_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, timed: bool
) -> None:
    data = text([row[: 4 if timed else 3] for row in REPEATED], NAMES[: 4 if timed else 3], ",")
    assert read(write(tmp_path, data), duplicates=policy) == expected(policy, timed=timed)
    assert capsys.readouterr().err == "ratings.csv: 3 repeated ratings are left out\n"


def test_repeated_ratings_are_refused_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read(write(tmp_path, text(REPEATED, NAMES, ",")))
    assert str(raised.value) == (
        "ratings.csv: 3 ratings repeat a user and item rated before: user 1 and item 7 on line 2, line 4, line 6; "
        "user 1 and item 8 on line 3, line 7; keep one of each, or set data.own.duplicates to last, max or mean"
    )


@pytest.mark.parametrize("bad", [3, 4000, 9999])
def test_a_wrong_value_deep_in_a_file_of_many_blocks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK", 5000)
    rows = [('"two\nlines"', n, n + 1, "x" if n == bad else 3) for n in range(10_000)]
    lines = ["note,user,item,rating", *(",".join(map(str, row)) for row in rows)]
    with pytest.raises(UserError, match=rf"^ratings.csv: line {2 + 2 * bad}: rating must be a number; found 'x';"):
        read(write(tmp_path, "\n".join(lines) + "\n"))
