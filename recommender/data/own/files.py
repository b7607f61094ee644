"""The user's files inside the fetched archive: unpacked as a stream, whatever compression they have."""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NoReturn

import pyarrow as pa

from recommender.data.archive import MOST_MEMBERS, check_member
from recommender.errors import UserError
from recommender.params import Own

START: Final = 2**17  # bytes that a file is recognized by
CODECS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
ZIPS: Final = (b"PK\x03\x04", b"PK\x05\x06")  # the second is empty
FIX: Final = "correct the file, then run `make own` again"


@dataclass(frozen=True)
class File:
    """One of the files; `member` is its name in the archive, `name` what messages call it."""

    archive: Path
    member: str
    inner: str | None  # of a zip file, the member to read

    @property
    def name(self) -> str:
        """The name that the user knows it by."""
        return self.member.partition("/")[2] + (f"#{self.inner}" if self.inner else "")

    def refuse(self, problem: str, fix: str = FIX) -> NoReturn:
        """Raise a `UserError` about the file, with what to do."""
        raise UserError(f"{self.name}: {problem}; {fix}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what a damaged file raises into a `UserError`."""
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, pa.ArrowInvalid) as error:
            self.refuse(f"cannot be read: {error}")

    def open(self) -> pa.NativeFile:
        """Open the file at its start, without its compression."""
        try:
            with zipfile.ZipFile(self.archive) as archive:
                stream: IO[bytes] = archive.open(self.member)
        except (FileNotFoundError, KeyError, zipfile.BadZipFile):
            raise UserError(f"{self.archive}: does not contain {self.member}; run `dvc repro` to fetch it") from None
        first = stream.read(4)
        if first in ZIPS:
            stream = self._member(stream)
            first = stream.read(4)
        stream.seek(0)
        codec = next((name for magic, name in CODECS.items() if first.startswith(magic)), None)
        plain = pa.PythonFile(stream, mode="r")
        return pa.CompressedInputStream(plain, codec) if codec else plain

    def start(self) -> bytes:
        """Return the first bytes."""
        with self.reading(), self.open() as stream:
            return bytes(stream.read(START))

    def _member(self, stream: IO[bytes]) -> IO[bytes]:
        with zipfile.ZipFile(stream) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > MOST_MEMBERS:
                self.refuse(f"has {len(members)} members, more than {MOST_MEMBERS}")
            found = [member for member in members if self.inner in (None, member.filename)]
            if any(member.filename == "xl/workbook.xml" for member in members):
                self.refuse("is an Excel workbook", "save it as CSV")
            if not members:
                self.refuse("is an empty zip file")
            if len(found) != 1:
                names = ", ".join(f"{member.filename:.80}" for member in members[:5])
                problem = f"has {len(found)} members of that name" if self.inner else f"has {len(members)} members"
                self.refuse(f"{problem}: {names}", f"name one of them, as in {self.member.partition('/')[2]}#MEMBER")
            check_member(Path(self.name), found[0])
            return archive.open(found[0])


def sources(own: Own) -> Iterator[tuple[str, str, str | None, str | None, str]]:
    """Yield the parameter, path or address, member of a zip file, checksum and name in the archive of each file."""
    for key, sha256 in (("ratings", own.sha256), ("items", own.items_sha256)):
        given: str | None = getattr(own, key)
        if given is not None:
            source, inner = re.fullmatch(r"(?is)(.*?)(?:(?<=\.zip)#(.+))?", given).groups()  # type: ignore[union-attr]
            name = Path(source.split("?")[0] if "://" in source else source).name
            yield f"data.own.{key}", source, inner, sha256, f"{key}/{name}"


def files(own: Own, archive: Path) -> list[File]:
    """Return the ratings and, where there are, the items in the fetched archive."""
    return [File(archive, name, inner) for _, _, inner, _, name in sources(own)]


def whole(stream: pa.NativeFile) -> pa.NativeFile:
    """Return a stream that can be read in any order: itself, or its content where it is compressed."""
    return stream if stream.seekable() else pa.BufferReader(stream.read())


def text_of(stream: pa.NativeFile) -> io.TextIOWrapper:
    """Return the lines of a stream; bytes that are not UTF-8 become lone surrogates."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
