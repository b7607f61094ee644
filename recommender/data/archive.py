"""Reading two members of a zip archive that may be damaged or malicious."""

import io
import shutil
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Final

from recommender.data.movielens import Release
from recommender.errors import UserError

WRONG_RELEASE: Final = "is the archive the one that data.dataset names?"
FIX: Final = "fix the line or fetch the archive again"
MOST_MEMBERS: Final = 10_000  # in an archive; no release has a tenth of it
MOST_BYTES: Final = 2**22  # read at once: zipfile asks for the whole list of members, whatever length that claims
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile bounds what others unpack to only afterwards
KINDS: Final = {b"\x1f\x8b": "a gzip file", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive", b"<": "a web page"}


class _Archive(io.FileIO):
    """The archive's file; no more than `MOST_BYTES` are read at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MOST_BYTES:
            raise zipfile.BadZipFile("its list of members is far too long")
        return super().read(-1 if size is None else size) or b""


def read_members(path: Path, release: Release) -> tuple[bytes, bytes]:
    """Return the texts of the items and of the ratings, nothing of which is unpacked to disk.

    A separator of more than one letter, which Arrow does not support, is replaced by a tab.
    """
    try:
        with _Archive(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise UserError(f"{path}: has {len(members)} members, more than {MOST_MEMBERS}; {WRONG_RELEASE}")
            items, ratings = (_find(path, members, name, release) for name in (release.items, release.ratings))
            of_ratings, of_items = release.layout.separators
            return _unpack(archive, items, of_items), _unpack(archive, ratings, of_ratings)
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


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, separator: str) -> bytes:
    name = member.filename
    # zipfile stops at the declared size and verifies the checksum. A join of pieces would need twice the memory.
    text = io.BytesIO()
    with archive.open(member) as file:
        shutil.copyfileobj(file, text, MOST_BYTES // 4)
    data = text.getvalue()
    del text
    if not data or data.isspace():
        raise UserError(f"{name}: is empty; {WRONG_RELEASE}")
    if len(separator) == 1:
        return data
    if b"\t" in data:
        line = data.count(b"\n", 0, data.index(b"\t")) + 1
        raise UserError(f"{name}: line {line}: contains a tab; columns are separated by {separator}; {FIX}")
    return data.replace(separator.encode(), b"\t")
