"""Own files written in every format, and a slow reader of text that shares nothing with the pipeline's."""

import bz2
import csv
import datetime
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recommender.data.own.files import File
from recommender.data.own.items import read_items
from recommender.data.own.ratings import read_ratings
from recommender.params import Columns, Own

NOTHING: dict[str, Any] = dict.fromkeys(Own.model_fields)
Row = tuple[Any, ...]  # user, item, rating, timestamp


def own(columns: Mapping[str, object] | None = None, **given: object) -> Own:
    """Return the parameters with these values; everything else is to be found."""
    every = dict.fromkeys(Columns.model_fields) | dict(columns or {})
    return Own.model_validate(NOTHING | {"ratings": "ratings.csv", "duplicates": "error", "columns": every} | given)


def fetched(path: Path, member: str = "ratings") -> File:
    """Put one file into an archive, as fetch does, and return it there."""
    archive = path.with_name(f"{path.name}.archive")
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(path, f"{member}/{path.name}")
    return File(archive, f"{member}/{path.name}", None)


def read(path: Path, **given: Any) -> list[Row]:  # noqa: ANN401 - of own
    """Return the rows of a file of ratings."""
    settings = own(**given)
    table = read_ratings(fetched(path), settings)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def read_listed(path: Path, rated: Sequence[object], **given: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - of own
    """Return the rows of a file of items."""
    settings = own(**given)
    listed: list[dict[str, Any]] = read_items(fetched(path, "items"), settings, pa.chunked_array([rated])).to_pylist()
    return listed


def text(rows: Sequence[Row], names: Sequence[str], separator: str, quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    """Lay out rows as text; `names` may be empty."""
    file = io.StringIO()
    single = separator if len(separator) == 1 else "\x1f"
    writer = csv.writer(file, delimiter=single, lineterminator="\n", quoting=quoting)
    writer.writerows([tuple(names), *rows] if names else rows)
    return file.getvalue().replace(single, separator).encode()


def parquet(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    """Lay out rows as Parquet, in several row groups."""
    file = io.BytesIO()
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), file, row_group_size=3)
    return file.getvalue()


def json_lines(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    """Lay out rows as JSON lines."""
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()


def zipped(data: bytes) -> bytes:
    """Pack a file into a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/ratings.csv", data)
    return file.getvalue()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
    ".zip": zipped,
}


def slow_read(data: bytes, separator: str, *, header: bool) -> list[Row]:
    """Read ratings in the order user, item, rating, timestamp with nothing but the standard library."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig")), delimiter=separator))[header:]
    rows = [row for row in rows if row]
    whole = [
        all(str(int(value)) == value and -(2**63) <= int(value) < 2**63 for value in column)
        if _all_digits(column)
        else False
        for column in list(zip(*rows, strict=True))[:2]
    ]
    found = []
    for row in rows:
        ids = [int(value) if number else value for value, number in zip(row, whole, strict=False)]
        rating = float(row[2]) if len(row) > 2 else 1.0
        found.append((*ids, rating, _seconds(row[3]) if len(row) > 3 else None))
    return found


def _all_digits(column: Sequence[str]) -> bool:
    return all(value.removeprefix("-").isascii() and value.removeprefix("-").isdecimal() for value in column)


def _seconds(value: str) -> int:
    try:
        number = float(value)
    except ValueError:
        when = datetime.datetime.fromisoformat(value)
        return int((when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp())
    return int(number // 1000) if number >= 1e11 else int(number)
