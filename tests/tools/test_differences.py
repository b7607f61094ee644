"""Whatever changes in an output is named: the array, column or key and the cell, or the byte."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recommender.storage import write_arrays, write_csv, write_json, write_table, write_text
from tools.differences import file_difference

FACTORS: dict[str, Any] = {"user_factors": np.full((3, 2), 0.5, np.float32), "global_mean": np.float64(3.5)}
TABLE: dict[str, Any] = {
    "item_id": [1, 2, 3],
    "title": ["Fargo (1996)", "Heat (1995)", "Ran (1985)"],
    "score": [0.5, 0.25, None],
    "items": [[1, 2], [3, 4], [5, 6]],
}
CURVES: dict[str, Any] = {"k": np.array([1, 2]), "map": np.array([0.25, 0.123456])}
METRICS: dict[str, Any] = {"users": 9, "popularity": {"map": 0.25, "bins": [1, 2]}}
PAGE = "<!doctype html>\n<title>MovieLens, 100K</title>\n"


def moved(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array whose second row is another in the last bit."""
    array = array.copy()
    array[1, 0] = np.nextafter(array[1, 0], np.float32(1))
    return array


def write_parquet(path: Path, columns: dict[str, Any]) -> None:
    write_table(path, pa.table(columns))


@pytest.mark.parametrize(
    ("write", "name", "before", "change", "named"),
    [
        (
            write_arrays,
            "a.npz",
            FACTORS,
            {"user_factors": moved(FACTORS["user_factors"])},
            "user_factors[1, 0]: 0.5 and 0.50000006",
        ),
        (
            write_arrays,
            "a.npz",
            {"item_order": np.array([2, 0, 1])},
            {"item_order": np.array([2, 1, 0])},
            "item_order[1]: 0 and 1",
        ),
        (write_arrays, "a.npz", FACTORS, {"global_mean": np.float64(3.25)}, "global_mean: 3.5 and 3.25"),
        (write_arrays, "a.npz", FACTORS, {"global_mean": np.float32(3.5)}, "global_mean: type float64 and float32"),
        (
            write_arrays,
            "a.npz",
            FACTORS,
            {"user_factors": np.full((2, 2), 0.5, np.float32)},
            "user_factors: shape (3, 2) and (2, 2)",
        ),
        (write_arrays, "a.npz", FACTORS, {"item_factors": np.zeros(2)}, "nothing and in its place item_factors"),
        (
            write_arrays,
            "a.npz",
            {"bias": np.array([np.nan, 0.0])},
            {"bias": np.array([np.nan, -0.0])},
            "bias[1]: 0.0 and -0.0",
        ),
        (
            write_parquet,
            "a.parquet",
            TABLE,
            {"title": ["Fargo (1996)", "Heat", "Ran (1985)"]},
            "title[1]: 'Heat (1995)' and 'Heat'",
        ),
        (write_parquet, "a.parquet", TABLE, {"item_id": [2, 1, 3]}, "item_id[0]: 1 and 2"),
        (write_parquet, "a.parquet", TABLE, {"score": [0.5, 0.250001, None]}, "score[1]: 0.25 and 0.250001"),
        (
            write_parquet,
            "a.parquet",
            TABLE,
            {"score": [0.5, np.nextafter(0.25, 1), None]},
            "score[1]: 0.25 and 0.25000000000000006",
        ),
        (write_parquet, "a.parquet", TABLE, {"score": [0.5, None, None]}, "score[1]: 0.25 and nan"),
        (write_parquet, "a.parquet", TABLE, {"items": [[1, 2], [4, 3], [5, 6]]}, "items[1, 0]: 3 and 4"),
        (write_parquet, "a.parquet", TABLE, {"items": [[1, 2], [3, 4], [5]]}, "items: shape (3, 2) and (3,)"),
        (
            write_parquet,
            "a.parquet",
            TABLE,
            {"item_id": pa.array([1, 2, 3], pa.int32())},
            "item_id: type int64 and int32",
        ),
        (write_csv, "a.csv", CURVES, {"map": np.array([0.25, 0.123457])}, "map[1]: '0.123456' and '0.123457'"),
        (write_csv, "a.csv", CURVES, {"k": np.array([2, 1]), "map": np.array([0.123456, 0.25])}, "k[0]: '1' and '2'"),
        (write_csv, "a.csv", CURVES, {"k": np.array([1]), "map": np.array([0.25])}, "k: shape (2,) and (1,)"),
        (
            write_json,
            "a.json",
            METRICS,
            {"popularity": {"map": 0.250001, "bins": [1, 2]}},
            "popularity.map: 0.25 and 0.250001",
        ),
        (write_json, "a.json", METRICS, {"popularity": {"map": 0.25, "bins": [2, 1]}}, "popularity.bins[0]: 1 and 2"),
        (write_json, "a.json", METRICS, {"popularity": {"bins": [1, 2]}}, "popularity.map and in its place users"),
        (write_json, "a.json", METRICS, {"users": 9.0}, "users: 9 and 9.0"),
    ],
)
def test_the_first_cell_that_differs_is_named_with_both_values(
    write: Callable[[Path, dict[str, Any]], None],
    name: str,
    before: dict[str, Any],
    change: dict[str, Any],
    named: str,
    tmp_path: Path,
) -> None:
    paths = [tmp_path / folder / name for folder in ("before", "now")]
    write(paths[0], before)
    write(paths[1], before | change)
    assert file_difference(*paths, paths[0].suffix) == named
    assert file_difference(paths[0], paths[0], paths[0].suffix) is None


ROWS = ["<tr><td>Fargo (1996)</td><td>4.512346</td></tr>\n", "<tr><td>Heat (1995)</td><td>4.25</td></tr>\n"]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (
            [ROWS[0].replace("346", "345"), ROWS[1]],
            "byte 36: b'6</td></tr>\\n<tr><td>' and b'5</td></tr>\\n<tr><td>'",
        ),
        (ROWS[::-1], "byte 8: b'Fargo (1996)</td><td' and b'Heat (1995)</td><td>'"),
        ([ROWS[0].replace("(1996)", ""), ROWS[1]], "byte 14: b'(1996)</td><td>4.512' and b'</td><td>4.512346</t'"),
    ],
    ids=["rounding", "row order", "title"],
)
@pytest.mark.parametrize("suffix", [".html", ".md"])
def test_the_first_byte_of_a_page_that_differs_is_named(
    rows: list[str], named: str, suffix: str, tmp_path: Path
) -> None:
    before, now = tmp_path / f"before{suffix}", tmp_path / f"now{suffix}"
    write_text(before, "".join(ROWS))
    write_text(now, "".join(rows))
    assert file_difference(before, now, suffix) == named


@pytest.mark.parametrize("suffix", [".pb", ".index", ".data-00000-of-00001", ".keras"])
def test_the_first_byte_of_a_saved_model_that_differs_is_named(suffix: str, tmp_path: Path) -> None:
    before, now = tmp_path / f"before{suffix}", tmp_path / f"now{suffix}"
    before.write_bytes(FACTORS["user_factors"].tobytes())
    now.write_bytes(moved(FACTORS["user_factors"]).tobytes())  # a weight, in the last bit: byte 0 of its four
    assert file_difference(before, now, suffix) == (
        "byte 8: b'\\x00\\x00\\x00?\\x00\\x00\\x00?\\x00\\x00\\x00?\\x00\\x00\\x00?' and "
        "b'\\x01\\x00\\x00?\\x00\\x00\\x00?\\x00\\x00\\x00?\\x00\\x00\\x00?'"
    )


@pytest.mark.parametrize("suffix", [".html", ".keras", ".npz", ".parquet", ".csv", ".json"])
def test_elsewhere_and_in_what_is_not_of_its_kind_the_first_byte_is_named(suffix: str, tmp_path: Path) -> None:
    before, now, longer = (tmp_path / f"{name}{suffix}" for name in ("before", "now", "longer"))
    write_text(before, PAGE)
    write_text(now, PAGE.replace("100K", "1M"))
    write_text(longer, f"{PAGE}<p>")
    assert file_difference(before, now, suffix) == "byte 35: b'00K</title>\\n' and b'M</title>\\n'"
    assert file_difference(before, longer, suffix) == f"byte {len(PAGE)}: b'' and b'<p>'"
    assert file_difference(before, before, suffix) is None


def test_a_byte_far_into_a_file_is_found(tmp_path: Path) -> None:
    before, now = tmp_path / "before.zip", tmp_path / "now.zip"
    before.write_bytes(bytes(3_000_000))
    now.write_bytes(bytes(2_500_000) + b"\1" + bytes(499_999))
    difference = file_difference(before, now, ".zip")
    assert difference
    assert difference.startswith("byte 2500000: b'\\x00\\x00")


def test_other_bytes_with_the_same_cells_are_named_by_the_byte(tmp_path: Path) -> None:
    before, now = tmp_path / "before.parquet", tmp_path / "now.parquet"
    write_parquet(before, TABLE)
    pq.write_table(pa.table(TABLE), now, compression="none")
    difference = file_difference(before, now, ".parquet")
    assert difference
    assert difference.startswith("byte ")
