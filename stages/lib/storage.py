"""Atomic, byte-stable writers and checked readers for everything that passes between stages."""

import csv
import errno
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.lib.errors import UserError, cannot_write

DECIMALS = 6  # of the numbers in JSON and CSV files, so that noise in the last bits stays out of Git
# What the readers of JSON, Parquet and npz raise over damage; MemoryError over a size that is made up.
DAMAGE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, pa.ArrowException)
CURE = "run `dvc repro` to make it again, or `dvc checkout` to restore it"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a path to write to that becomes `path`, whole and on disk, when the block succeeds.

    Where the system can, on Linux, that is a file in the same folder without a name, of which nothing is left when
    the process is killed; elsewhere one with a name of its own.

    Args:
        path: the file to write; its folder is made when missing.

    Yields:
        The path to write to. What was written there is gone when the block fails.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    named = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unnamed = _open_unnamed(path.parent)
        temporary = named if unnamed is None else Path(f"/proc/self/fd/{unnamed}")
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if unnamed is not None:
                named.unlink(missing_ok=True)
                os.link(temporary, named, src_dir_fd=unnamed)  # with src_dir_fd alone it follows /proc's link
            named.replace(path)
        finally:
            named.unlink(missing_ok=True)
            if unnamed is not None:
                os.close(unnamed)
    except OSError as error:
        raise cannot_write(path, error) from error


def _open_unnamed(folder: Path) -> int | None:
    """Open a new file without a name; None where the system or the file system has no such thing."""
    if not hasattr(os, "O_TMPFILE"):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write metrics as JSON: keys sorted, numbers rounded to 6 decimals, a final newline.

    Args:
        path: the file to write.
        values: numbers, None, or mappings of them.

    Raises:
        UserError: a number is infinite or not a number.
    """
    write_text(path, json.dumps(_rounded(values, path.name), indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with Unix line ends.

    Args:
        path: the file to write.
        text: its content.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _rounded(value: Any, name: str) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return {key: _rounded(entry, f"{name}: {key}") for key, entry in value.items()}
    if isinstance(value, (float, np.floating)):
        _check_finite(value, name)
        return round(float(value), DECIMALS) + 0.0  # never -0.0
    return int(value) if isinstance(value, np.integer) else value


def _check_finite(value: float | np.floating, name: str) -> None:
    if not math.isfinite(value):
        raise UserError(
            f"{name} is {value}: training diverged or the data is degenerate; lower train.learning_rate or check the "
            "ratings"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing or is not a JSON object.
    """
    with _reading(path):
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is not JSON")


def write_csv(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns as CSV, floats with 6 decimals, with Unix line ends.

    Args:
        path: the file to write.
        columns: arrays of the same length, by the name in the first line.

    Raises:
        UserError: a number is infinite or not a number.
    """
    for name, column in columns.items():
        for number, value in enumerate(column if column.dtype.kind == "f" else [], start=1):
            _check_finite(float(value), f"{path.name}: {name} of row {number}")
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow(
                [f"{value:.{DECIMALS}f}" if isinstance(value, (float, np.floating)) else value for value in row]
            )


def read_csv(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read columns of numbers.

    Args:
        path: a file that `write_csv` wrote.

    Returns:
        One (rows,) float64 array a column, by the name in the first line; NaN where a cell is empty.

    Raises:
        UserError: the file is missing, or a cell is not a number.
    """
    with _reading(path), path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        names = next(reader, [])
        rows = [[float(cell) if cell else math.nan for cell in row] for row in reader]
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
        return dict(zip(names, table.T, strict=True))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet with checksums, with the same bytes for the same table.

    Args:
        path: the file to write.
        table: the table.
    """
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns.

    Raises:
        UserError: the file is missing, damaged, or lacks a column.
    """
    with _reading(path):
        # Not pq.read_table, which also reads a folder of files and whose error over a missing column is a page long.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise ValueError(f"no column {', '.join(sorted(missing))}")
            table = file.read(columns)
        return table.select(columns) if columns else table


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as an uncompressed npz file, with the same bytes for the same arrays in the same order.

    Args:
        path: the file to write.
        arrays: the arrays, none of dtype object.
    """
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file. Pickled objects, which could run code, are refused.

    Raises:
        UserError: the file is missing, damaged or holds pickled objects.
    """
    with _reading(path), path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy would advise to unpickle it
            raise ValueError("not an npz file")
        with np.load(file, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a reader raises over a missing or damaged file into a `UserError`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {CURE}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({error}); {CURE}") from error
