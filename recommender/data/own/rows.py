"""Reading the rows of a file in batches, and naming the line or row that something is wrong with."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from recommender.data.own.files import File, text_of, whole
from recommender.data.own.layout import LETTER, Layout, fields

BLOCK: Final = 2**24  # bytes of text parsed at once
END: Final = "\x1e"  # in every column of a last row of our own: where it is missing, a quote is open
TO_UTF8: Final = "convert the file, as with `iconv -f latin1 -t utf-8`"
TYPED_BY: Final = 1000  # lines of JSON that show the type of a column


@dataclass(frozen=True)
class Rows:
    """The rows of a file in a layout."""

    file: File
    layout: Layout

    def batches(self, columns: Mapping[str, int]) -> Iterator[tuple[int, dict[str, pa.Array]]]:
        """Yield the number of each batch's first row and its columns, of these roles and positions.

        Text has columns of strings, other files their own types. A file without rows is refused.
        """
        first = 0
        read = {"text": self._text, "json": self._json, "parquet": self._parquet}[self.layout.kind]
        with self.file.reading():
            try:
                for batch in filter(len, read(columns)):
                    yield first, dict(zip(columns, batch.columns, strict=True))
                    first += len(batch)
            except pa.ArrowInvalid as error:
                self._explain(str(error), columns)
        if not first:
            self.file.refuse("has no rows")

    def refuse(self, row: int, problem: str) -> NoReturn:
        """Raise a `UserError` about a row, which counts from 0."""
        self.file.refuse(f"{self.places([row])[0]}: {problem}")

    def places(self, rows: Sequence[int]) -> list[str]:
        """Return the line, or in Parquet the row, of some rows."""
        if self.layout.kind == "parquet":
            return [f"row {row + 1}" for row in rows]
        wanted = dict.fromkeys(rows, "line ?")
        for row, (line, _) in enumerate(self._scan()):
            if row in wanted:
                wanted[row] = f"line {line}"
            if row >= max(rows):
                break
        return list(wanted.values())

    def _text(self, columns: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        layout, names = self.layout, [str(position) for position in range(len(self.layout.names))]
        keys = [names[position] for position in columns.values()]
        separator = layout.separator if len(layout.separator) == 1 else LETTER
        last = separator.join([END] * len(names)).encode()
        held, ended = b"", False

        def prepare(data: bytes | memoryview) -> bytes:
            nonlocal held, ended
            text = (held + bytes(data)).replace(layout.separator.encode(), separator.encode())
            held = b""
            if len(data) and separator == LETTER and text.endswith(layout.separator[:1].encode()):
                text, held = text[:-1], text[-1:]  # the other half may follow
            if not len(data) and not ended and layout.quoted:
                text, ended = text + b"\n" + last, True
            return text

        quote, types = '"' if layout.quoted else False, dict.fromkeys(keys, pa.string())
        reading = pyarrow.csv.ReadOptions(column_names=names, skip_rows=layout.skip, block_size=BLOCK)
        parsing = pyarrow.csv.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=layout.quoted)
        converting = pyarrow.csv.ConvertOptions(
            include_columns=keys, column_types=types, null_values=[], strings_can_be_null=False
        )
        previous: pa.RecordBatch | None = None
        with self.file.open() as plain, pa.TransformInputStream(plain, prepare) as stream:
            for batch in filter(len, pyarrow.csv.open_csv(stream, reading, parsing, converting)):
                if previous is not None:
                    yield previous
                previous = batch
        if layout.quoted and previous is not None:
            if any(value.as_py() != END for (value,) in (column[-1:] for column in previous.columns)):
                raise pa.ArrowInvalid("a quote is not closed")
            previous = previous[:-1]
        if previous is not None:
            yield previous

    def _json(self, columns: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        names = {role: self.layout.names[position] for role, position in columns.items()}
        found: dict[str, set[type]] = {role: set() for role in columns}
        for line, record in self._records():
            for role, name in names.items():
                found[role].add(type(record.get(name)))
            if line > TYPED_BY:
                break
        schema = pa.schema([(name, _json_type(role, found[role])) for role, name in names.items()])
        parsing = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        with self.file.open() as stream:
            for batch in pyarrow.json.open_json(stream, pyarrow.json.ReadOptions(block_size=BLOCK), parsing):
                yield batch.select(list(names.values()))

    def _parquet(self, columns: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
        names = [self.layout.names[position] for position in columns.values()]
        with self.file.open() as stream, pq.ParquetFile(whole(stream)) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=names, use_threads=False)
                yield from table.select(names).to_batches()

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self.file.open() as stream:
            for line, text in enumerate(text_of(stream), start=1):
                try:
                    record = json.loads(text) if text.strip() else None
                except ValueError as error:
                    self.file.refuse(f"line {line}: is not JSON: {error}")
                if not isinstance(record, dict | None):
                    self.file.refuse(f"line {line}: is not a JSON object: {text!r:.80}")
                if record is not None:
                    yield line, record

    def _scan(self) -> Iterator[tuple[int, list[Any]]]:
        """Yield the number of the first line and the fields of every row, slowly."""
        if self.layout.kind == "json":
            for line, record in self._records():
                yield line, [record.get(name) for name in self.layout.names]
            return
        csv.field_size_limit(2**31 - 1)
        with self.file.open() as stream:
            parser = fields(text_of(stream), self.layout.separator, quoted=self.layout.quoted)
            start = 1
            for row in parser:
                if row and start > self.layout.skip:
                    yield start, row
                start = parser.line_num + 1

    def _explain(self, message: str, columns: Mapping[str, int]) -> NoReturn:
        """Raise a `UserError` for what a parser refuses, with the line that the parser does not name."""
        layout, kinds, line = self.layout, dict[str, type](), 0
        for line, row in self._scan() if layout.kind != "parquet" else ():
            if len(row) != len(layout.names):
                shown = layout.separator.join(row)
                expected = f"{len(layout.names)} are expected, separated by {layout.separator!r}"
                hint = "; is a quote not closed?" if "\n" in shown else ""
                self.file.refuse(f"line {line}: has {len(row)} columns where {expected}: {shown!r:.80}{hint}")
            for role, value in ((role, row[position]) for role, position in columns.items()):
                if isinstance(value, str) and any("\udc80" <= letter <= "\udcff" for letter in value):
                    readable = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                    self.file.refuse(f"line {line}: is not UTF-8 text: {readable!r:.80}", TO_UTF8)
                kind = float if isinstance(value, int) and not isinstance(value, bool) else type(value)
                if value is not None and kinds.setdefault(role, kind) != kind:
                    self.file.refuse(f"line {line}: {role} is {value!r:.80}, of another type than in the lines before")
        if "quote" in message or "straddling" in message:
            self.file.refuse(f"line {line}: a quote is opened and not closed")
        self.file.refuse(f"cannot be read: {message}")


def _json_type(role: str, found: set[type]) -> pa.DataType:
    """Return the type of a column in which JSON has these types; of numbers, only ids must be exact."""
    if found & {int, float}:
        return pa.int64() if float not in found and role not in ("rating", "timestamp") else pa.float64()
    return pa.list_(pa.string()) if list in found else pa.bool_() if bool in found else pa.string()
