"""Fetch the archive of ratings and keep it only if its checksum is right."""

import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pooch
import requests

from stages.lib.errors import UserError, run
from stages.lib.params import load_params
from stages.lib.releases import RELEASES

ARCHIVE = Path("data/raw/archive.zip")
RETRIES = 3
TIMEOUT = 30  # seconds without an answer or a byte
ELSEWHERE = "name a copy of the archive as data.archive (a path or an address), or choose another data.dataset"


def main() -> None:
    """Fetch the archive that ``params.yaml`` names, unless it is here already."""
    data = load_params().data
    release = RELEASES[data.dataset]
    fetch(data.archive or release.source, data.sha256 or release.sha256, ARCHIVE)


def fetch(source: str, sha256: str, path: Path) -> None:
    """Fetch an archive; a file already at `path` with the right checksum is kept as it is.

    Args:
        source: a path, a ``file://``, ``http://`` or ``https://`` address, or ``pip:NAME==VERSION``.
        sha256: the checksum that the archive must have, in hexadecimal digits.
        path: where to put it; the file gets this name only once its checksum is verified.

    Raises:
        UserError: the source cannot be reached or read, or its bytes have another checksum.
    """
    try:
        scheme = urllib.parse.urlsplit(source).scheme
    except ValueError as error:
        raise UserError(f"data.archive: {source}: is not an address: {error}; {ELSEWHERE}") from None
    download = {"http": _download_http, "https": _download_http, "pip": _download_wheel}.get(scheme, _copy_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A run that was killed while downloading leaves its temporary file behind.
        for leftover in path.parent.glob("tmp" + 8 * "[a-z0-9_]"):
            leftover.unlink()
        pooch.create(
            path=path.parent,
            base_url="",
            registry={path.name: f"sha256:{sha256}"},
            urls={path.name: source},
            retry_if_failed=RETRIES if download is _download_http else 0,
        ).fetch(path.name, downloader=download)
    except requests.RequestException as error:
        raise UserError(
            f"{source}: cannot be fetched after {RETRIES + 1} attempts: {_reason(error)}; {ELSEWHERE}"
        ) from None
    except ValueError as error:  # pooch's, "... expected sha256:... but got ..."
        found = str(error).split("but got ")[-1].split(".")[0]
        raise UserError(
            f"{source}: the archive's SHA-256 is {found}, and {sha256} is expected: it is damaged or another edition; "
            "set data.sha256 if you trust it, or " + ELSEWHERE
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror or error}; make room or give access, then retry"
        ) from None


def _download_http(url: str, output: str | Path, pooch_: Any) -> None:  # noqa: ANN401 - pooch passes itself
    """Download over HTTP with a progress bar; an answer that no retry would change ends the stage at once."""
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    try:
        downloader(url, output, pooch_)
    except requests.exceptions.SSLError as error:
        raise UserError(f"{url}: the server's certificate is not valid: {_reason(error)}; {ELSEWHERE}") from None
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code
        if 400 <= status < 500 and status not in (408, 429):
            raise UserError(f"{url}: the server answers {status} {error.response.reason}; {ELSEWHERE}") from None
        raise
    except (ValueError, requests.exceptions.TooManyRedirects) as error:  # ValueError: not an address
        raise UserError(f"{url}: cannot be fetched: {_reason(error)}; {ELSEWHERE}") from None


def _download_wheel(source: str, output: str | Path, _pooch: Any) -> None:  # noqa: ANN401 - pooch passes itself
    """Fetch a wheel by name with pip, which knows the user's index, proxy and certificates."""
    requirement = source.removeprefix("pip:")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            said = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")] or ["no wheel came"]
            # pip ends on "no matching distribution" even where it could not reach the index.
            broken = re.search("connection broken by '(.*)'", result.stderr)
            reason = f"{said[-1]} ({broken[1]})" if broken else said[-1]
            raise UserError(f"{requirement}: pip cannot fetch it from the package index: {reason}; {ELSEWHERE}")
        shutil.copyfile(wheels[0], output)


def _copy_file(source: str, output: str | Path, _pooch: Any) -> None:  # noqa: ANN401 - pooch passes itself
    """Copy a local archive."""
    parts = urllib.parse.urlsplit(source)
    if parts.scheme not in ("", "file"):
        raise UserError(
            f"data.archive: {source}: {parts.scheme}:// is not known; give a path, file://, http:// or https://"
        )
    path = Path(urllib.request.url2pathname(parts.path) if parts.scheme == "file" else source)
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()} (an absolute path works from anywhere)"
        found = "is a folder, not a file" if path.is_dir() else "no such file"
        raise UserError(f"data.archive: {source}: {found}{where}; {ELSEWHERE}")
    try:
        shutil.copyfile(path, output)
    except PermissionError:
        raise UserError(f"data.archive: {source}: may not be read; give read access, or {ELSEWHERE}") from None


def _reason(error: BaseException) -> str:
    """Give the innermost cause of a network error, which is what the user can act upon."""
    seen = {id(error)}
    while True:
        inner = error.__cause__ or error.__context__
        inner = inner or next((entry for entry in error.args if isinstance(entry, BaseException)), None)
        inner = inner or getattr(error, "reason", None)
        if not isinstance(inner, BaseException) or id(inner) in seen:
            return str(error) or type(error).__name__
        seen.add(id(inner))
        error = inner


if __name__ == "__main__":
    run(main)
