"""Put the user's files into one archive, unpacked by nothing, after a check of what they are."""

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from recommender.data.download import ELSEWHERE, receiver
from recommender.data.own.files import sources
from recommender.errors import UserError
from recommender.params import Own
from recommender.storage import atomic, checksum

LIMIT: Final = 2**38  # bytes of a download


def fetch(own: Own, archive: Path) -> None:
    """Fetch the files, unless the archive has those with the right checksums."""
    listed = list(sources(own))
    check_local(own)
    if _checksums(archive) == {name: sha256 for *_, sha256, name in listed}:
        return
    archive.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=archive.parent) as folder,
        atomic(archive) as temporary,
        zipfile.ZipFile(temporary, "w") as packed,
    ):
        for parameter, source, _, sha256, name in listed:
            path = Path(source)
            if not path.is_file():
                path = download(source, Path(folder) / "download", parameter)
                _check(name, source, sha256, checksum(path))
            with path.open("rb") as file, packed.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                shutil.copyfileobj(file, member)


def check_local(own: Own) -> None:
    """Refuse files on this machine that are not what their checksums say; those that are gone are no longer needed."""
    for _, source, _, sha256, name in sources(own):
        if Path(source).is_file():
            _check(name, source, sha256, checksum(Path(source), "a file with ratings"))


def download(source: str, path: Path, parameter: str) -> Path:
    """Fetch a file from an address to a path, whatever it contains; messages name the parameter with the address."""
    try:
        receiver(source, LIMIT)(source, path)
    except UserError as error:  # which is about a release's archive
        text = str(error).replace(ELSEWHERE, f"set {parameter} to another path or URL")
        raise UserError(text.replace("data.archive", parameter)) from None
    return path


def _check(name: str, source: str, expected: str | None, found: str) -> None:
    key = f"data.own.{'sha256' if name.startswith('ratings/') else 'items_sha256'}"
    if expected is None:
        raise UserError(f"{source}: its SHA-256 is {found}; set {key} to it, or run `make own`, which does")
    if found != expected:
        accept = f"`make own` with the same arguments accepts the file as it is now, and so does {key}: {found}"
        raise UserError(f"{source}: has changed: its SHA-256 is {found}, but {key} is {expected}; {accept}")


def _checksums(archive: Path) -> dict[str, str]:
    """Return the checksum of every member of an archive; of none where it cannot be read."""
    try:
        with zipfile.ZipFile(archive) as packed:
            members: dict[str, Any] = {name: packed.open(name) for name in packed.namelist()}  # file objects
            return {name: hashlib.file_digest(file, "sha256").hexdigest() for name, file in members.items()}
    except (OSError, zipfile.BadZipFile):
        return {}
