"""Reading two members of a zip archive that may be damaged or malicious."""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from recommender.data.movielens import Release
from recommender.errors import UserError

WRONG_RELEASE: Final = "is the archive the one that data.dataset names?"
FIX: Final = "fix the line or fetch the archive again"
MOST_MEMBERS: Final = 10_000  # in an archive; no release has a tenth of it
MOST_BYTES: Final = 2**22  # read at once: zipfile asks for the whole list of members, whatever length that claims
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile bounds what others unpack to only afterwards
BLOCK: Final = 2**20  # bytes of text at once, as Arrow reads it
KINDS: Final = {b"\x1f\x8b": "a gzip file", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive", b"<": "a web page"}


class _Archive(io.FileIO):
    """The archive's file; no more than `MOST_BYTES` are read at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MOST_BYTES:
            raise zipfile.BadZipFile("its list of members is far too long")
        return super().read(-1 if size is None else size) or b""


@dataclass(frozen=True)
class Text:
    """The text of a member, which every iteration reads from its start, in blocks of whole lines.

    Blocks end where Arrow would divide the text; one that is not the last has no line end only if a line is longer. A
    separator of more than one letter, which Arrow does not support, is replaced by a tab.
    """

    path: Path
    archive: zipfile.ZipFile
    member: zipfile.ZipInfo
    separator: str

    @property
    def name(self) -> str:
        """The member's name."""
        return self.member.filename

    def __iter__(self) -> Iterator[bytes]:
        """Yield the blocks, at least one. Damage is found at the end, where zipfile verifies size and checksum."""
        text, line, last = b"", b"", b""
        with _reading(self.path), self.archive.open(self.member) as file:
            for more in self._pieces(file):
                text += more
                while len(text) > BLOCK:
                    piece, text = text[:BLOCK], text[BLOCK:]
                    last, piece = piece[-1:], piece.removeprefix(b"\n") if last == b"\r" else piece
                    end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1 or len(piece)
                    yield line + piece[:end]
                    line = piece[end:]
            if line := line + (text.removeprefix(b"\n") if last == b"\r" else text):
                yield line

    def _pieces(self, file: IO[bytes]) -> Iterator[bytes]:
        """Yield the text with one-letter separators, or refuse it after a look for damage, which would explain it."""
        separator, half, lines, blank = self.separator.encode(), b"", 1, True
        problem = ""
        while piece := file.read(BLOCK):
            blank = blank and piece.isspace()
            if len(separator) > 1:
                if b"\t" in piece and not problem:
                    line = lines + piece.count(b"\n", 0, piece.index(b"\t"))
                    problem = f"line {line}: contains a tab; columns are separated by {self.separator}; {FIX}"
                lines += piece.count(b"\n")
                # After a replacement from left to right, no more than one letter can belong to the next separator.
                piece = (half + piece).replace(separator, b"\t")
                half = separator[:1] if piece.endswith(separator[:1]) else b""
                piece = piece.removesuffix(half)
            if not problem:
                yield piece
        if blank or problem:
            raise UserError(f"{self.name}: {f'is empty; {WRONG_RELEASE}' if blank else problem}")
        yield half


@contextmanager
def open_members(path: Path, release: Release) -> Iterator[tuple[Text, Text]]:
    """Yield the texts of the items and of the ratings, nothing of which is unpacked to disk or held in memory.

    After a `UserError` in the block, damage of the archive is looked for, and reported in its place.
    """
    with ExitStack() as stack:
        with _reading(path):
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(_Archive(path))))
            listed = archive.infolist()
            if len(listed) > MOST_MEMBERS:
                raise UserError(f"{path}: has {len(listed)} members, more than {MOST_MEMBERS}; {WRONG_RELEASE}")
            members = [_find(path, listed, name, release) for name in (release.items, release.ratings)]
        of_ratings, of_items = release.layout.separators
        items, ratings = (Text(path, archive, *own) for own in zip(members, (of_items, of_ratings), strict=True))
        try:
            yield items, ratings
        except UserError:
            for text in (items, ratings):
                for _ in text:
                    pass
            raise


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what zipfile raises for a missing or damaged archive into a `UserError`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro` to fetch it") from None
    # RuntimeError: an unknown kind of zip file; ValueError: names that are not text, negative positions.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        kind, strerror = _kind(path), error.strerror if isinstance(error, OSError) else None
        reason = f"it looks like {kind}" if kind else strerror or error
        raise UserError(
            f"{path}: cannot be read as a zip archive ({reason}); delete it and run `dvc repro` to fetch it again, or "
            "set data.archive to another archive"
        ) from None


def _kind(path: Path) -> str | None:
    """Return what a file is instead of a zip archive, where its first bytes show it."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        first = file.read(64).lstrip()
    return next((kind for start, kind in KINDS.items() if first.startswith(start)), None)


def _find(path: Path, members: list[zipfile.ZipInfo], name: str, release: Release) -> zipfile.ZipInfo:
    """Find a member by its name; whatever else the archive contains is never unpacked."""
    found = [member for member in members if member.filename == name]
    if not found:
        wanted = name.split("/")[-1]
        near = [member.filename for member in members if member.filename.lower().split("/")[-1] == wanted]
        hint = f" but {near[0]:.80}: pack it under the first of these names" if near else ""
        raise UserError(f"{path}: has no member {name}{hint}; {WRONG_RELEASE}")
    if len(found) > 1:
        raise UserError(f"{path}: contains {name} {len(found)} times; pack it once, or fetch the archive again")
    check_member(path, found[0])
    if found[0].file_size > release.limit:
        raise UserError(
            f"{path}: {name} unpacks to {found[0].file_size} bytes, and at most {release.limit} are allowed; "
            f"{WRONG_RELEASE}"
        )
    return found[0]


def check_member(path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member that is no plain file packed as usual."""
    name = member.filename
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{path}: {name} is a link, not a file; pack the file that it points to")
    if member.flag_bits & 1:
        raise UserError(f"{path}: {name} is encrypted; pack it without a password")
    if member.compress_type not in METHODS:
        raise UserError(f"{path}: {name} is compressed by an unusual method; use deflate, zip's default")
