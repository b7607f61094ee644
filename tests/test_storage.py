"""Files are replaced whole or not at all, the same content gives the same bytes, and damage is told in one line."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import files, refused, sha256, stage

from stages.lib.errors import UserError
from stages.lib.storage import (
    atomic,
    read_arrays,
    read_json,
    read_table,
    write_arrays,
    write_csv,
    write_json,
    write_table,
)

TABLE = pa.table({"n": pa.array([1, 2, 3], pa.int32()), "x": [0.5, None, 1.5], "s": ["a", "é", ""]})
ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, -1], dtype=np.int64)}
COLUMNS = {"epoch": np.array([1, 2]), "loss": np.array([0.1234567, 2.0], np.float32), "name": np.array(["a,b", "é"])}
Write = Callable[[Path], None]
WRITERS: dict[str, Write] = {
    "json": lambda path: write_json(path, {"a": 1.5}),
    "csv": lambda path: write_csv(path, COLUMNS),
    "parquet": lambda path: write_table(path, TABLE),
    "npz": lambda path: write_arrays(path, ARRAYS),
}
READERS: dict[str, Callable[[Path], Any]] = {"json": read_json, "parquet": read_table, "npz": read_arrays}
CURE = "run `dvc repro` to make it again, or `dvc checkout` to restore it"


def plain(values: Any) -> Any:  # noqa: ANN401 - what any reader gives
    """Read values in a form that can be compared."""
    return {name: array.tolist() for name, array in values.items()} if isinstance(values, dict) else values.to_pylist()


def numbers(values: Any) -> list[Any]:  # noqa: ANN401 - what any reader gives
    """Give the numbers in order; a damaged name may stand over them, which whoever asks for the right one notices."""
    columns = list(values.values()) if isinstance(values, dict) else values.columns
    return [column.tolist() if isinstance(values, dict) else column.to_pylist() for column in columns][:2]


@pytest.fixture(autouse=True, params=["unnamed", "named"])
def temporary_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the system has files without a name, and where it has none."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("the system has no files without a name")
    return str(request.param)


def test_atomic_makes_the_folder_and_puts_the_whole_file_in_place(tmp_path: Path, temporary_files: str) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert temporary.stat().st_dev == path.parent.stat().st_dev  # a rename is atomic within one file system only
        assert len(list(path.parent.iterdir())) == (temporary_files == "named")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_replaces_a_longer_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("long " * 1000)
    with atomic(path) as temporary:
        temporary.write_text("short")
    assert files(tmp_path) == {"file.txt": sha256(path)}
    assert path.read_text() == "short"


def test_atomic_replaces_what_a_killed_run_left(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    (tmp_path / ".file.tmp.txt").write_text("leftover of a killed run")
    WRITERS["json"](path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]
    assert json.loads(path.read_text()) == {"a": 1.5}


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, MemoryError, UserError])
def test_atomic_leaves_the_old_file_and_nothing_else_when_the_block_fails(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    before = files(tmp_path)
    with pytest.raises(kind, match="by the test"), atomic(path) as temporary:
        temporary.write_text("half")
        raise kind("by the test")
    assert files(tmp_path) == before


def test_a_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    WRITERS["json"](tmp_path / "file.json")
    assert (tmp_path / "file.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_system_without_unnamed_files_gets_named_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_open = os.open

    def unsupported(path: Path, flags: int, *arguments: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return plain_open(path, flags, *arguments)

    if hasattr(os, "O_TMPFILE"):
        monkeypatch.setattr(os, "open", unsupported)
    WRITERS["json"](tmp_path / "file.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_atomic_leaves_nothing_when_the_block_fails_on_a_new_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="by the test"), atomic(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise ValueError("by the test")
    assert files(tmp_path) == {}


def test_atomic_tells_a_full_disk_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    before = files(tmp_path)
    with pytest.raises(UserError) as raised, atomic(path) as temporary:
        temporary.write_text("half")
        Path("/dev/full").write_text("more")  # what any full disk answers
    assert str(raised.value) == (
        f"{path}: cannot be written: No space left on device; make room on that disk, then retry"
    )
    assert files(tmp_path) == before


def test_atomic_has_the_bytes_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(path) as temporary:
        temporary.write_text("whole")
    assert synced == [(5, False)]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_in_place_of_the_file_is_told_and_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(UserError) as raised:
        WRITERS[kind](path)
    assert (
        str(raised.value)
        == f"{path}: cannot be written: Is a directory; a folder has its name: move it away, then retry"
    )
    assert list(tmp_path.rglob("*")) == [path, path / "inside"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_in_place_of_the_folder_is_told_and_kept(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder").write_text("a file")
    before = files(tmp_path)
    path = tmp_path / "folder" / f"file.{kind}"
    with pytest.raises(
        UserError,
        match=r"cannot be written: (File exists|Not a directory); a file is in place of its folder: move it away",
    ) as raised:
        WRITERS[kind](path)
    assert str(raised.value).startswith(f"{path}: ")
    assert files(tmp_path) == before


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_content_gives_the_same_bytes(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / f"first.{kind}", tmp_path / "elsewhere" / f"second.{kind}"
    WRITERS[kind](first)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)  # npz is a zip, whose entries could have a date
    WRITERS[kind](second)
    assert first.read_bytes() == second.read_bytes()


def test_json_has_sorted_keys_rounded_numbers_and_a_final_newline(tmp_path: Path) -> None:
    values = {
        "z": 1,
        "a": {"float32": np.float32(0.1), "int": np.int64(2**53 + 1), "none": None},
        "float": 1 / 3,
        "large": 123456789.123456789,
        "small": 4.9e-7,
        "yes": True,
    }
    path = tmp_path / "metrics.json"
    write_json(path, values)
    assert path.read_bytes() == (
        b'{\n  "a": {\n    "float32": 0.1,\n    "int": 9007199254740993,\n    "none": null\n  },\n'
        b'  "float": 0.333333,\n  "large": 123456789.123457,\n  "small": 0.0,\n  "yes": true,\n  "z": 1\n}\n'
    )
    assert read_json(path)["a"] == {"float32": 0.1, "int": 2**53 + 1, "none": None}


@pytest.mark.parametrize("noise", [1e-9, -1e-9, -0.0, np.float32(-1e-9)])
def test_noise_around_zero_is_zero_without_a_sign(tmp_path: Path, noise: float) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"bias": noise})
    assert path.read_text() == '{\n  "bias": 0.0\n}\n'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -np.inf, np.float32("nan"), np.float64("inf")])
def test_json_refuses_what_is_not_finite_and_keeps_the_old_file(tmp_path: Path, number: float) -> None:
    path = tmp_path / "train.json"
    write_json(path, {"loss": 1.0})
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"^train\.json: test: loss is -?(nan|inf): .* lower train\.learning_rate or "):
        write_json(path, {"test": {"loss": number}})
    assert files(tmp_path) == before


def test_csv_has_six_decimals_and_unix_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    write_csv(path, COLUMNS)
    assert path.read_bytes() == 'epoch,loss,name\n1,0.123457,"a,b"\n2,2.000000,é\n'.encode()


def test_csv_columns_of_different_lengths_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    with pytest.raises(ValueError, match="shorter"):
        write_csv(path, {"epoch": np.array([1, 2]), "loss": np.array([0.5])})
    assert files(tmp_path) == {}


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_table(path, TABLE)
    assert read_table(path).equals(TABLE)
    assert read_table(path, ["s", "n"]).equals(TABLE.select(["s", "n"]))


def test_a_table_in_a_folder_named_like_a_partition_gains_no_column(tmp_path: Path) -> None:
    path = tmp_path / "year=2000" / "table.parquet"
    write_table(path, TABLE)
    assert read_table(path).equals(TABLE)


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_arrays(path, ARRAYS)
    arrays = read_arrays(path)
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_table(path, TABLE)
    with pytest.raises(UserError) as raised:
        read_table(path, ["n", "zz", "y"])
    assert str(raised.value) == f"{path}: cannot be read (no column y, zz); {CURE}"


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_says_how_to_make_it(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError) as raised:
        READERS[kind](tmp_path / f"file.{kind}")
    assert str(raised.value) == f"{tmp_path / f'file.{kind}'}: not found; {CURE}"


@pytest.mark.parametrize("kind", READERS)
def test_a_folder_in_place_of_a_file_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    path.mkdir()
    with pytest.raises(UserError) as raised:
        READERS[kind](path)
    assert str(raised.value).startswith(f"{path}: cannot be read (")
    assert str(raised.value).endswith(CURE)


@pytest.mark.parametrize("content", [b"", b"\n", b"words", b"\x00" * 64, b"\xff\xfe", b"PK\x03\x04", b"PAR1PAR1"])
@pytest.mark.parametrize("kind", READERS)
def test_a_file_of_another_kind_cannot_be_read(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / f"file.{kind}"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        READERS[kind](path)
    assert str(raised.value).startswith(f"{path}: cannot be read (")
    assert str(raised.value).endswith(CURE)


@pytest.mark.parametrize("kind", READERS)
def test_a_file_cut_anywhere_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    WRITERS[kind](path)
    whole = path.read_bytes().rstrip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot be read"):
            READERS[kind](path)


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_file_with_a_wrong_byte_anywhere_is_refused_or_has_the_right_numbers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    WRITERS[kind](path)
    whole, expected = path.read_bytes(), numbers(READERS[kind](path))
    refusals = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            read = READERS[kind](path)
        except UserError as error:
            assert "cannot be read" in str(error)
            refusals += 1
        else:
            assert all(column in expected for column in numbers(read)), position
    assert refusals > len(whole) // 10


def test_a_page_with_a_wrong_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_table(path, pa.table({"n": np.random.default_rng(7).integers(0, 2**62, 1000)}))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="could not verify page integrity, CRC checksum verification failed"):
        read_table(path)


def test_an_array_with_a_wrong_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"a": np.full(1000, 0x5A, dtype=np.uint8)})
    data = bytearray(path.read_bytes())
    data[data.index(b"Z" * 1000) + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be read \(Bad CRC-32"):
        read_arrays(path)


@pytest.mark.parametrize("text", ["[1]", "3", '"a"', "null", '{"a": }', '{"a": 1} x', "[" * 100_000])
def test_what_is_not_a_json_object_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot be read") as raised:
        read_json(path)
    assert str(raised.value).endswith(CURE)


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        """Name the file that shows that the code ran."""
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Write that file."""
        return Path.write_text, (self.path, "ran")


@pytest.mark.parametrize("wrapped", [True, False])
def test_pickled_objects_are_refused_and_do_not_run(tmp_path: Path, wrapped: bool) -> None:
    path, proof = tmp_path / "arrays.npz", tmp_path / "proof"
    if wrapped:
        np.savez(path, a=np.array([Bomb(proof)], dtype=object))
    else:
        path.write_bytes(pickle.dumps(Bomb(proof)))
    with pytest.raises(UserError, match="cannot be read"):
        read_arrays(path)
    assert not proof.exists()


def test_an_array_of_objects_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_arrays(path, ARRAYS)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(path, {"a": np.array([{}], dtype=object)})
    assert files(tmp_path) == before


def test_a_single_array_is_not_an_npz_file(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(UserError, match=r"cannot be read \(not an npz file\)"):
        read_arrays(path)


def test_a_stage_tells_damaged_and_missing_tables_in_one_line(project: Path) -> None:
    ratings = project / "data" / "interim" / "ratings.parquet"
    refused(stage(project, "split"), "data/interim/ratings.parquet: not found; ", CURE)
    write_table(ratings, pa.table({"user_id": [1]}))
    ratings.write_bytes(ratings.read_bytes()[:-20])
    before = files(project)
    refused(stage(project, "split"), "data/interim/ratings.parquet: cannot be read (", CURE)
    assert files(project) == before


def test_a_stage_tells_an_unwritable_target_in_one_line(project: Path) -> None:
    for name, table in (
        ("ratings", pa.table({"user_id": [1, 2], "movie_id": [1, 1], "rating": pa.array([3, 4], pa.float32())})),
        ("movies", pa.table({"movie_id": [1], "title": ["a"], "genres": ["b"]})),
    ):
        write_table(project / "data" / "interim" / f"{name}.parquet", table)
    (project / "data" / "processed" / "train.parquet").mkdir(parents=True)
    before = files(project)
    refused(
        stage(project, "split"),
        "data/processed/train.parquet: cannot be written: Is a directory; a folder has its name",
    )
    assert files(project) == before
    assert pq.read_table(project / "data" / "interim" / "movies.parquet").num_rows == 1
