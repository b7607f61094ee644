"""Files are replaced whole or not at all, equal content gives equal bytes, and damage is reported in one line."""

import errno
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recommender.errors import RERUN, UserError
from recommender.storage import (
    atomic,
    read_arrays,
    read_csv,
    read_json,
    read_row_groups,
    read_table,
    row_group_sizes,
    row_groups,
    write_arrays,
    write_csv,
    write_json,
    write_table,
    writing_row_groups,
)
from tests.conftest import files, refused, stage

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
READERS: dict[str, Callable[[Path], Any]] = {
    "json": read_json,
    "csv": read_csv,
    "parquet": read_table,
    "npz": read_arrays,
}
each_writer = pytest.mark.parametrize("kind", WRITERS)
each_reader = pytest.mark.parametrize("kind", READERS)


def unreadable(kind: str, path: Path) -> str:
    """Read what must be refused; return the reason."""
    with pytest.raises(UserError) as raised:
        READERS[kind](path)
    start, end = f"{path}: ", f"; {RERUN}"
    message = str(raised.value)
    assert message.startswith(start)
    assert message.endswith(end)
    return message.removeprefix(start).removesuffix(end)


# Writing


UNNAMED = getattr(os, "O_TMPFILE", 0)
# What a system or a file system may lack, and whether files without a name are used there all the same.
LACKING = {
    "nothing": bool(UNNAMED),
    "unnamed files": False,  # macOS
    "unnamed files on this disk": False,  # NFS and others
    "/proc": False,
    "links": bool(UNNAMED),
}


def lack(what: str, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Simulate a system that lacks something; return a list of the paths that it will have refused."""
    refused: list[Path] = []
    plain_open = os.open

    def refuse_flag(path: Path, flags: int, *arguments: int) -> int:
        if UNNAMED and flags & UNNAMED == UNNAMED:
            refused.append(path)
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return plain_open(path, flags, *arguments)

    def refuse_link(_from: Path, path: Path, **_options: object) -> None:
        refused.append(path)
        raise OSError(errno.EPERM, "Operation not permitted")

    if what == "unnamed files":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif what == "unnamed files on this disk":
        monkeypatch.setattr(os, "open", refuse_flag)
    elif what == "/proc":
        monkeypatch.setattr("recommender.storage.DESCRIPTORS", Path("/nowhere/self/fd"))
    elif what == "links":
        monkeypatch.setattr(os, "link", refuse_link)
    return refused


@pytest.fixture(params=LACKING)
def temporary_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a test on systems that lack something; return whether files without a name are used there."""
    lack(request.param, monkeypatch)
    return LACKING[request.param]


def test_atomic_creates_the_folder_and_puts_the_whole_file_in_place(tmp_path: Path, temporary_files: bool) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert temporary.stat().st_dev == path.parent.stat().st_dev  # a rename is atomic only within a file system
        assert len(list(path.parent.iterdir())) == (not temporary_files)
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("temporary_files")
def test_atomic_replaces_a_longer_file_and_what_a_killed_run_left(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("long " * 1000)
    (tmp_path / ".file.tmp.txt").write_text("left by a killed run")
    with atomic(path) as temporary:
        temporary.write_text("short")
    assert path.read_text() == "short"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, MemoryError, UserError])
@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.usefixtures("temporary_files")
def test_atomic_leaves_everything_as_it_was_when_the_block_fails(
    tmp_path: Path, kind: type[BaseException], old: str | None
) -> None:
    path = tmp_path / "file.txt"
    if old:
        path.write_text(old)
    before = files(tmp_path)
    with pytest.raises(kind, match="by the test"), atomic(path) as temporary:
        temporary.write_text("half")
        raise kind("by the test")
    assert files(tmp_path) == before


@pytest.mark.usefixtures("temporary_files")
def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UserError) as raised, atomic(path) as temporary:
        temporary.write_text("half")
        Path("/dev/full").write_text("more")  # answers as any full disk does
    assert str(raised.value) == (
        f"{path}: cannot be written: No space left on device; free space on that disk, then retry"
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("temporary_files")
def test_atomic_syncs_the_bytes_before_the_file_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, plain = tmp_path / "file.txt", [], Path.replace

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor))

    def replace(temporary: Path, target: Path) -> Path:
        # Whatever gets the name has been synced, whole, as the same inode.
        assert (synced[-1].st_ino, synced[-1].st_size) == (temporary.stat().st_ino, 5)
        assert not target.exists()
        return plain(temporary, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


@pytest.mark.usefixtures("temporary_files")
def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    WRITERS["json"](tmp_path / "file.json")
    assert (tmp_path / "file.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@each_writer
@pytest.mark.parametrize("what", LACKING)
def test_a_system_that_lacks_something_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, kind: str
) -> None:
    WRITERS[kind](tmp_path / "before")
    refused = lack(what, monkeypatch)
    (tmp_path / "folder").mkdir()
    WRITERS[kind](tmp_path / "folder" / "file")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]
    assert (tmp_path / "folder" / "file").read_bytes() == (tmp_path / "before").read_bytes()
    assert bool(refused) == (bool(UNNAMED) and what in ("unnamed files on this disk", "links"))  # it was asked for


@pytest.mark.skipif(not UNNAMED, reason="only files without a name are linked or copied")
def test_a_copy_in_place_of_a_link_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    lack("links", monkeypatch)

    def half(_source: Path, target: Path) -> None:
        target.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", half)
    with pytest.raises(UserError, match="No space left on device; free space"), atomic(path) as temporary:
        temporary.write_text("half")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@each_writer
@pytest.mark.usefixtures("temporary_files")
def test_a_folder_in_place_of_the_file_is_reported_and_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(UserError) as raised:
        WRITERS[kind](path)
    reason = "Is a directory; a folder has its name: move it away, then retry"
    assert str(raised.value) == f"{path}: cannot be written: {reason}"
    assert list(tmp_path.rglob("*")) == [path, path / "inside"]


@each_writer
def test_a_file_in_place_of_the_folder_is_reported_and_kept(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder").write_text("a file")
    reason = "(File exists|Not a directory); a file is in place of its folder: move it away, then retry"
    with pytest.raises(UserError, match=rf"file\.{kind}: cannot be written: {reason}"):
        WRITERS[kind](tmp_path / "folder" / f"file.{kind}")
    assert (tmp_path / "folder").read_text() == "a file"


@each_writer
def test_equal_content_gives_equal_bytes(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / f"first.{kind}", tmp_path / "elsewhere" / f"second.{kind}"
    WRITERS[kind](first)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)  # npz is a zip, whose entries could have a date
    WRITERS[kind](second)
    assert first.read_bytes() == second.read_bytes()


# Each kind of file


def test_json_has_sorted_keys_rounded_numbers_and_a_final_newline(tmp_path: Path) -> None:
    values = {
        "z": 1,
        "a": {"float32": np.float32(0.1), "int": np.int64(2**53 + 1), "none": None},
        "float": 1 / 3,
        "large": 123456789.123456789,
        "noise": [1e-9, -1e-9, -0.0, np.float32(-1e-9)],
        "yes": True,
    }
    path = tmp_path / "metrics.json"
    write_json(path, values)
    assert path.read_bytes() == (
        b'{\n  "a": {\n    "float32": 0.1,\n    "int": 9007199254740993,\n    "none": null\n  },\n'
        b'  "float": 0.333333,\n  "large": 123456789.123457,\n'
        b'  "noise": [\n    0.0,\n    0.0,\n    0.0,\n    0.0\n  ],\n  "yes": true,\n  "z": 1\n}\n'
    )
    assert read_json(path)["a"] == {"float32": 0.1, "int": 2**53 + 1, "none": None}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -np.inf, np.float32("nan"), np.float64("inf")])
def test_a_number_that_is_not_finite_is_refused_and_the_old_file_kept(tmp_path: Path, number: float) -> None:
    paths = tmp_path / "train.json", tmp_path / "history.csv"
    for path in paths:
        path.write_text("old")
    advice = "training diverged or the data is degenerate; lower the learning rate or check the ratings"
    with pytest.raises(UserError, match=rf"^train\.json: test: loss is -?(nan|inf): {advice}$"):
        write_json(paths[0], {"test": {"loss": number}})
    with pytest.raises(UserError, match=rf"^history\.csv: loss of row 2 is -?(nan|inf): {advice}$"):
        write_csv(paths[1], {"epoch": np.array([1, 2]), "loss": np.array([0.5, number])})
    assert [path.read_text() for path in paths] == ["old", "old"]


@pytest.mark.parametrize("text", ["[1]", "3", '"a"', "null", '{"a": }', '{"a": 1} x', "[" * 100_000])
def test_what_is_not_a_json_object_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    assert unreadable("json", path).startswith("cannot be read (")


def test_csv_has_six_decimals_and_unix_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    write_csv(path, COLUMNS)
    assert path.read_bytes() == 'epoch,loss,name\n1,0.123457,"a,b"\n2,2.000000,é\n'.encode()
    assert unreadable("csv", path).startswith("cannot be read (Failed to parse string: ")


def test_csv_is_read_as_numbers_and_nan_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss\n1,0.1\n2,\n")
    columns = read_csv(path)
    assert list(columns) == ["epoch", "loss"]
    np.testing.assert_array_equal(columns["epoch"], np.array([1.0, 2.0]), strict=True)
    np.testing.assert_array_equal(columns["loss"], np.array([0.1, np.nan]), strict=True)


@pytest.mark.parametrize("folder", ["plain", "year=2000"])  # as a partition, which would add a column
def test_a_table_is_read_as_it_was_written(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "table.parquet"
    write_table(path, TABLE)
    assert read_table(path).equals(TABLE)
    assert read_table(path, ["s", "n"]).equals(TABLE.select(["s", "n"]))
    with pytest.raises(UserError) as raised:
        read_table(path, ["n", "zz", "y"])
    assert str(raised.value) == f"{path}: cannot be read (no column y, zz); {RERUN}"


def test_more_ratings_than_pyarrow_writes_in_a_row_group_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recommender.storage.LARGEST_GROUP", len(TABLE))
    with row_groups(tmp_path / "fits", TABLE.schema) as write:
        write(TABLE)
    monkeypatch.setattr("recommender.storage.LARGEST_GROUP", len(TABLE) - 1)
    expected = (
        f"^engine.parts: a block has {len(TABLE)} ratings, more than the {len(TABLE) - 1} of a row group; raise it$"
    )
    with pytest.raises(UserError, match=expected), row_groups(tmp_path / "large", TABLE.schema) as write:
        write(TABLE)


def test_every_table_is_a_row_group_and_the_file_is_that_of_pyarrow(tmp_path: Path) -> None:
    many = pa.table({"n": np.arange(2**20 + 5)})
    for name, tables in {
        "several": [TABLE, TABLE[:0], TABLE[1:]],
        "none": [],
        "empty": [TABLE[:0]],
        "many": [many],
    }.items():
        path = tmp_path / name
        with atomic(path) as temporary, row_groups(temporary, (tables or [TABLE])[0].schema) as write:
            for table in tables:
                write(table)
            assert not path.exists()
        metadata = pq.read_metadata(path)
        assert [metadata.row_group(group).num_rows for group in range(len(tables))] == [len(table) for table in tables]
        assert metadata.num_row_groups == len(tables)
        assert read_table(path).equals(pa.concat_tables([*tables, (tables or [TABLE])[0][:0]]))
    for table in (TABLE, TABLE[:0]):
        write_table(tmp_path / "whole", table)
        with row_groups(tmp_path / "streamed", table.schema) as write:
            write(table)
        assert (tmp_path / "streamed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_arrays(path, ARRAYS)
    arrays = read_arrays(path)
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_what_a_kind_of_file_cannot_contain_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_csv(tmp_path / "history.csv", {"epoch": np.array([1, 2]), "loss": np.array([0.5])})
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "arrays.npz", {"a": np.array([{}], dtype=object)})
    assert files(tmp_path) == {}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:  # noqa: D105
        return Path.write_text, (self.path, "ran")


def test_pickled_objects_and_single_arrays_are_refused_and_do_not_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "arrays.npz", tmp_path / "proof"
    np.savez(path, a=np.array([Bomb(proof)], dtype=object))
    assert unreadable("npz", path) == "cannot be read (Object arrays cannot be loaded when allow_pickle=False)"
    path.write_bytes(pickle.dumps(Bomb(proof)))
    assert unreadable("npz", path) == "cannot be read (not an npz file)"
    assert not proof.exists()
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    assert unreadable("npz", path) == "cannot be read (not an npz file)"


# Damage


@each_reader
def test_a_missing_file_or_a_folder_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    assert unreadable(kind, path) == "not found"
    path.mkdir()
    assert unreadable(kind, path).startswith("cannot be read (")


@pytest.mark.parametrize("content", [b"", b"\n", b"words", b"\x00" * 64, b"\xff\xfe", b"PK\x03\x04", b"PAR1PAR1"])
@each_reader
def test_a_file_of_another_kind_cannot_be_read(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / f"file.{kind}"
    path.write_bytes(content)
    assert unreadable(kind, path).startswith("cannot be read (")


@pytest.mark.parametrize("kind", ["json", "parquet", "npz"])  # CSV has nothing to notice it by
def test_a_file_cut_anywhere_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    WRITERS[kind](path)
    whole = path.read_bytes().rstrip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert unreadable(kind, path).startswith("cannot be read (")


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_file_with_a_wrong_byte_anywhere_is_refused_or_has_the_right_numbers(tmp_path: Path, kind: str) -> None:
    def numbers(values: Any) -> list[Any]:  # noqa: ANN401 - a table or arrays
        """Return the first two columns; a wrong byte may be in a name, which a reader of that name notices."""
        columns = [array.tolist() for array in values.values()] if kind == "npz" else values.to_pydict().values()
        return list(columns)[:2]

    path = tmp_path / f"file.{kind}"
    WRITERS[kind](path)
    whole, expected, refusals = path.read_bytes(), numbers(READERS[kind](path)), 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            read = numbers(READERS[kind](path))
        except UserError as error:
            assert "cannot be read" in str(error)
            refusals += 1
        else:
            assert all(column in expected for column in read), position
    assert refusals > len(whole) // 10


def test_a_wrong_byte_in_the_data_fails_the_checksum(tmp_path: Path) -> None:
    numbers = np.random.default_rng(7).integers(0, 2**62, 1000)
    write_table(tmp_path / "table.parquet", pa.table({"n": numbers}))
    write_arrays(tmp_path / "arrays.npz", {"n": numbers})
    for name, checksum in (("table.parquet", "CRC checksum verification failed"), ("arrays.npz", "Bad CRC-32")):
        path = tmp_path / name
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
        assert checksum in unreadable(path.suffix[1:], path)


def test_a_stage_reports_missing_and_damaged_tables_in_one_line(project: Path) -> None:
    path = project / "data" / "interim" / "ratings.parquet"
    refused(stage(project, "split"), f"data/interim/ratings.parquet: not found; {RERUN}")
    write_table(path, pa.table({"user_id": [1]}))
    path.write_bytes(path.read_bytes()[:-20])
    before = files(project)
    refused(stage(project, "split"), "data/interim/ratings.parquet: cannot be read (", RERUN)
    assert files(project) == before


def test_npz_files_are_the_same_with_every_python(tmp_path: Path) -> None:
    # Before Python 3.11.4, zipfile wrote other bytes for members that were announced as large, as np.savez does.
    path = tmp_path / "a.npz"
    write_arrays(path, {"a": np.arange(3), "b": np.array("text")})
    with zipfile.ZipFile(path) as archive:
        assert [member.extract_version for member in archive.infolist()] == [20, 20]
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(path) as loaded:
        assert loaded["a"].tolist() == [0, 1, 2]
        assert str(loaded["b"]) == "text"


def test_npz_files_may_have_no_arrays_and_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_arrays(path, {})
    assert read_arrays(path) == {}
    table, columns = np.arange(12, dtype=np.float32).reshape(4, 3), np.asfortranarray(np.arange(6).reshape(2, 3))
    write_arrays(path, {"table": table, "number": np.array(3.5), "columns": columns})
    found = read_arrays(path, ("table", "columns"))
    assert isinstance(found["table"], np.memmap)
    assert not isinstance(found["number"], np.memmap)
    assert found["table"].tolist() == table.tolist()
    assert found["columns"].tolist() == columns.tolist()
    assert found["number"] == 3.5


def test_what_a_file_says_of_its_row_groups_is_read_again_once_it_is_another(tmp_path: Path) -> None:
    path = tmp_path / "numbers.parquet"
    for count in (3, 2):
        with writing_row_groups(path, pa.schema({"a": pa.int64()})) as add:
            for number in range(count):
                add(pa.table({"a": [number] * count}))
        assert row_group_sizes(path) == [count] * count
        assert read_row_groups(path, [count - 1], ["a"]).to_pydict() == {"a": [count - 1] * count}
