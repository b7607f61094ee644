"""The first difference between two versions of a file: an array, a column or a key and its cell, or a byte."""

import csv
import json
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recommender.errors import UserError, one_line
from recommender.storage import DAMAGE, read_arrays, read_table

Columns = dict[str, NDArray[Any]]
BLOCK: Final = 2**20  # bytes read at a time
SHOWN: Final = 20  # bytes of each file, from the first that differs


def file_difference(before: Path, now: Path, suffix: str) -> str | None:
    """Return in words what differs first between two files of the kind of a suffix like ``.npz``; None if nothing does.

    Rows and bytes are counted from 0. Values are compared to the last bit, so that 0.0 and -0.0 differ.
    """
    read = READERS.get(suffix)
    try:
        named = first_cell(read(before), read(now)) if read else None
    except (UserError, csv.Error, *DAMAGE):  # it is not of that kind, but it has bytes
        named = None
    return named or _first_byte(before, now)


def first_cell(before: Columns, now: Columns) -> str | None:
    """Return which column and cell differ first, with both values."""
    for name, other in zip_longest(before, now, fillvalue="nothing"):
        if name != other:
            return f"{name} and in its place {other}"
        old, new = before[name], now[name]
        if old.dtype != new.dtype:
            return f"{name}: type {old.dtype} and {new.dtype}"
        if old.shape != new.shape:
            return f"{name}: shape {old.shape} and {new.shape}"
        if np.any(differs := _differ(old, new)):
            cell = tuple(int(index) for index in np.unravel_index(np.argmax(differs), old.shape))
            place = f"[{', '.join(map(str, cell))}]" if cell else ""
            return f"{name}{place}: {_shown(old[cell])} and {_shown(new[cell])}"
    return None


def flat(value: Any, name: str = "") -> Iterator[tuple[str, NDArray[Any]]]:  # noqa: ANN401 - any JSON value
    """Yield the dotted name and the value of everything in a JSON object; a list is an array."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from flat(entry, f"{name}.{key}" if name else key)
    else:
        yield name, np.array(value, object)


def _differ(before: NDArray[Any], now: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which cells differ, in the order of C."""
    if before.dtype.hasobject:
        return np.array([repr(old) != repr(new) for old, new in zip(before.flat, now.flat, strict=True)], bool)
    bits = [np.frombuffer(array.tobytes(), f"V{array.itemsize}") for array in (before, now)]
    return np.asarray(bits[0] != bits[1])


def _shown(value: Any) -> str:  # noqa: ANN401 - any cell
    return one_line(str(value) if isinstance(value, np.generic) else repr(value))


def _first_byte(before: Path, now: Path) -> str | None:
    place = 0
    with before.open("rb") as old, now.open("rb") as new:
        while (a := old.read(BLOCK)) == (b := new.read(BLOCK)):
            if not a:
                return None
            place += len(a)
        within = next(number for number, (one, other) in enumerate(zip_longest(a, b)) if one != other)
        old.seek(place + within)
        new.seek(place + within)
        return f"byte {place + within}: {old.read(SHOWN)!r} and {new.read(SHOWN)!r}"


def _columns(path: Path) -> Columns:
    table = read_table(path)
    return {
        name: column.to_numpy() if pa.types.is_primitive(column.type) else np.array(column.to_pylist(), object)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _cells(path: Path) -> Columns:
    with path.open(encoding="utf-8", newline="") as file:
        return {name: np.array(cells, object) for name, *cells in zip(*csv.reader(file), strict=True)}


def _entries(path: Path) -> Columns:
    return dict(flat(json.loads(path.read_text(encoding="utf-8"))))


READERS: Final[dict[str, Callable[[Path], Columns]]] = {
    ".npz": read_arrays,
    ".parquet": _columns,
    ".csv": _cells,
    ".json": _entries,
}
