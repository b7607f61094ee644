"""Atomic, byte-stable writers and checked readers for everything that passes between stages.

Readers raise `UserError` for files that are missing or damaged, writers where the disk or a number does not allow it.
"""

import csv
import errno
import hashlib
import json
import math
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recommender.errors import RERUN, UserError, cannot_write

DESCRIPTORS: Final = Path("/proc/self/fd")  # has a link for each open file, unnamed ones too
ROW_GROUP: Final = 2**20  # rows in each row group but the last of `write_table`, which is pyarrow's default
LARGEST_GROUP: Final = 2**26  # rows that pyarrow writes in one group, whatever it is asked for
PARQUET: Final[dict[str, Any]] = {"compression": "zstd", "write_page_checksum": True}
DECIMALS: Final = 6  # in JSON and CSV files, which keeps noise in the last bits out of Git
ZIP_HEADER: Final = 30  # bytes of a member's own header before its name, whose length is at its end
# What the readers below raise for damaged files; MemoryError where a damaged header announces a huge size.
DAMAGE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, pa.ArrowException)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path to write to that replaces `path`, complete and synced to disk, when the block succeeds.

    That is an unnamed file in the same folder, which disappears when the process is killed, or a named temporary file
    where the system (macOS) or the file system has none. Missing folders are created.
    """
    named = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unnamed = _open_unnamed(path.parent)
        temporary = named if unnamed is None else DESCRIPTORS / str(unnamed)
        try:
            yield temporary
            sync(temporary)
            if unnamed is not None:
                named.unlink(missing_ok=True)
                try:
                    os.link(temporary, named, src_dir_fd=unnamed)  # only with src_dir_fd does it follow /proc's link
                except OSError:  # a file system without links, or a sandbox that forbids this one
                    shutil.copyfile(temporary, named)
                    sync(named)
            named.replace(path)
        finally:
            named.unlink(missing_ok=True)
            if unnamed is not None:
                os.close(unnamed)
    except OSError as error:
        raise cannot_write(path, error) from error


def sync(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _open_unnamed(folder: Path) -> int | None:
    """Open a new unnamed file; return None where the system, the file system or /proc cannot."""
    if not hasattr(os, "O_TMPFILE") or not DESCRIPTORS.is_dir():
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def checksum(path: Path, kind: str = "a file", algorithm: str = "sha256") -> str:
    """Return the SHA-256 of a file; `kind` is what the message asks for where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the path of {kind}") from None


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with Unix line ends."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write finite metrics as JSON with sorted keys, numbers rounded to 6 decimals and a final newline."""
    write_text(path, json.dumps(_rounded(values, path.name), indent=2, sort_keys=True, allow_nan=False) + "\n")


def _rounded(value: Any, name: str) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return {key: _rounded(entry, f"{name}: {key}") for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(entry, name) for entry in value]
    if isinstance(value, (float, np.floating)):
        _check_finite(value, name)
        return round(float(value), DECIMALS) + 0.0  # never -0.0
    return int(value) if isinstance(value, np.integer) else value


def _check_finite(value: float | np.floating, name: str) -> None:
    if not math.isfinite(value):
        problem = "training diverged or the data is degenerate"
        raise UserError(f"{name} is {value}: {problem}; lower the learning rate or check the ratings")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    with _reading(path):
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        return values


def write_csv(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays of one length as the columns of a CSV file: finite floats with 6 decimals, and Unix line ends."""
    cells = []
    for name, column in columns.items():
        is_float = column.dtype.kind == "f"
        for number, value in enumerate(column if is_float else [], start=1):
            _check_finite(float(value), f"{path.name}: {name} of row {number}")
        cells.append([f"{value:.{DECIMALS}f}" for value in column] if is_float else column)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *zip(*cells, strict=True)])


def read_csv(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read a CSV file of numbers: one float64 array a column, NaN where a cell is empty."""
    with _reading(path):
        table = pyarrow.csv.read_csv(path)
        if not len(table):
            raise ValueError("no rows")
        return {name: table[name].cast(pa.float64()).to_numpy() for name in table.column_names}


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet with page checksums."""
    with atomic(path) as temporary:
        pq.write_table(table, temporary, **PARQUET)


@contextmanager
def row_groups(path: Path, schema: pa.Schema, **options: bool) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that writes a table, empty or not, as the next row group of a new Parquet file.

    `options` are those of `pyarrow.parquet.ParquetWriter`. The file is complete when the block ends; a path of `atomic`
    makes it visible only when that has succeeded, too.
    """
    with pq.ParquetWriter(path, schema, **PARQUET | options) as writer:

        def write(table: pa.Table) -> None:
            if len(table) > LARGEST_GROUP:
                found = f"a block has {len(table)} ratings, more than the {LARGEST_GROUP} of a row group"
                raise UserError(f"engine.parts: {found}; raise it")
            writer.write_table(table, max(len(table), 1))

        yield write


def read_table(path: Path, columns: list[str] | None = None, *, others: bool = False) -> pa.Table:
    """Read a Parquet file, or some of its columns, or all where it has these and `others`."""
    # Not pq.read_table, which also reads a folder of files and whose error for a missing column is a page long.
    with _parquet(path) as file:
        _check_columns(file, columns or ())
        table = file.read(None if others else columns)
        return table.select(columns) if columns and not others else table


@contextmanager
def writing_row_groups(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Do what `row_groups` does in a file that replaces `path` when the block succeeds."""
    with atomic(path) as temporary, row_groups(temporary, schema) as add:
        yield add


def read_schema(path: Path) -> pa.Schema:
    """Return the columns of a Parquet file, with what its metadata say."""
    with _parquet(path) as file:
        return file.schema_arrow


def row_group_sizes(path: Path) -> list[int]:
    """Return the number of rows of each row group of a Parquet file."""
    with _parquet(path) as file:
        return [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]


def row_count(path: Path) -> int:
    """Return the number of rows of a Parquet file."""
    return sum(row_group_sizes(path))


def read_row_groups(path: Path, groups: Sequence[int], columns: list[str]) -> pa.Table:
    """Read some columns of some row groups of a Parquet file."""
    with _parquet(path) as file:
        _check_columns(file, columns)
        return file.read_row_groups(groups, columns)


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what its end says of all row groups is read once and kept until the file changes."""
    with _reading(path):
        found = path.stat()
        metadata = _read_metadata(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        with pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True) as file:
            yield file


@lru_cache(maxsize=16)
def _read_metadata(path: Path, *_stamp: int) -> pq.FileMetaData:
    """Read the end of a file: of a thousand row groups in twenty times the time that one of them takes."""
    return pq.read_metadata(path)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays, none of dtype object, as an uncompressed npz file."""
    # Not np.savez, whose headers for large members are other bytes before Python 3.11.4.
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            large = array.nbytes >= 2**30
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=large) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_arrays(path: Path, mapped: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file. Pickled objects, which could run code, are refused.

    Those named `mapped`, of a file of `write_arrays`, are not read but mapped into memory.
    """
    with _reading(path), path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy's own message suggests to unpickle it
            raise ValueError("not an npz file")
        file.seek(0)  # which that check has moved, in a file without arrays past its end
        with np.load(file, allow_pickle=False) as loaded:
            return {name: _map(path, name) if name in mapped else loaded[name] for name in loaded.files}


def _map(path: Path, name: str) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo(f"{name}.npy")
        file.seek(member.header_offset + ZIP_HEADER - 4)
        start = member.header_offset + ZIP_HEADER + sum(struct.unpack("<HH", file.read(4)))  # name and extra field
        file.seek(start)
        np.lib.format.read_magic(file)
        shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
        return np.memmap(path, kind, "r", file.tell(), shape, "F" if fortran else "C")


def _check_columns(file: pq.ParquetFile, columns: Sequence[str]) -> None:
    missing = set(columns) - set(file.schema_arrow.names)
    if missing:
        raise ValueError(f"no column {', '.join(sorted(missing))}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a reader raises for a missing or damaged file into a `UserError`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {RERUN}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({error}); {RERUN}") from error
