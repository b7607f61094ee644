"""Items: titles, categories and whatever else a list has; items that it lacks are called by their ids."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recommender.data.own.items import read_items
from recommender.errors import UserError
from tests.data.own.helpers import own, read_listed


def listed(folder: Path, data: str, rated: list[object]) -> list[dict[str, object]]:
    path = folder / "items.csv"
    path.write_text(data, encoding="utf-8")
    return read_listed(path, rated)


def item(item_id: object, title: str, categories: str = "", **others: str) -> dict[str, object]:
    return {"item_id": item_id, "title": title, "categories": categories, **others}


def test_without_a_list_an_id_is_its_title() -> None:
    table = read_items(None, own(), pa.chunked_array([["b", "a", "b"]]))
    assert table.to_pylist() == [item("b", "b"), item("a", "a")]
    assert read_items(None, own(), pa.chunked_array([[7]])).to_pylist() == [item(7, "7")]


def test_other_columns_are_kept_and_what_is_missing_is_empty(tmp_path: Path) -> None:
    data = "isbn,book-title,author,year\n007,Bond,Fleming,1953\n8,,Verne,\n"
    assert listed(tmp_path, data, ["8", "9x", "007"]) == [
        item("007", "Bond", author="Fleming", year="1953"),
        item("8", "8", author="Verne", year=""),
        item("9x", "9x", author="", year=""),
    ]


@pytest.mark.parametrize("separator", ["|", " | ", ";", ", "])
def test_categories_have_any_separator(tmp_path: Path, separator: str) -> None:
    data = f"id\ttitle\tgenres\n1\tA\tCrime{separator}Science fiction\n2\tB\tPoetry\n"
    assert [row["categories"] for row in listed(tmp_path, data, [1, 2])] == ["Crime|Science fiction", "Poetry"]


def test_categories_of_atomic_files_are_separated_by_spaces(tmp_path: Path) -> None:
    data = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tToy Story\t1995\tA B\n"
    assert listed(tmp_path, data, [1]) == [item(1, "Toy Story", "A|B", release_year="1995")]


def test_lists_of_parquet_are_joined(tmp_path: Path) -> None:
    columns = {
        "asin": ["x", "y"],
        "title": ["X", None],
        "category": [["a", "b"], []],
        "price": [1.5, None],
        "z": [{"q": 1}] * 2,
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    assert read_listed(tmp_path / "items.parquet", ["x"]) == [
        item("x", "X", "a|b", price="1.5", z=""),
        item("y", "y", "", price="", z=""),
    ]


@pytest.mark.parametrize(
    ("ids", "rated", "expected"),
    [
        (["1", "2"], ["1", "x"], ["1", "2", "x"]),
        (["1", "02", "x"], [2, 1], [1, 2]),
        (["1", "99999999999999999999"], [1], [1]),
    ],
)
def test_ids_have_the_type_of_the_ratings(
    tmp_path: Path, ids: list[str], rated: list[object], expected: list[object]
) -> None:
    data = "item,title\n" + "".join(f"{each},T{each}\n" for each in ids)
    assert [row["item_id"] for row in listed(tmp_path, data, rated)] == expected


@pytest.mark.parametrize("bad", ["\x1b", "\x00", "\u202e", "\x07\x08", "\x85", "\u2028"])
def test_texts_cannot_command_a_terminal(tmp_path: Path, bad: str) -> None:
    rows = listed(tmp_path, f"item,title,author\n1,A{bad}B,C{bad}D\n", ["1", f"x{bad}"])
    assert [(row["title"], row["author"]) for row in rows] == [("A B", "C D"), ("x ", "")]
    assert rows[1]["item_id"] == f"x{bad}"


def test_an_item_listed_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^items.csv: line 4: item 1 is listed a second time;"):
        listed(tmp_path, "item,title\n1,A\n2,B\n1,C\n", [1])
