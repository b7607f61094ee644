"""Fetch the archive of ratings and keep it only if its checksum is right."""

import functools
import http.client
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pooch
import requests
import urllib3
from tqdm import tqdm

from stages.lib.errors import UserError, cannot_write, one_line, run
from stages.lib.params import load_params
from stages.lib.releases import RELEASES

ARCHIVE = Path("data/raw/archive.zip")
ATTEMPTS = 4  # at most, with 1, 2 and 4 seconds between them
TIMEOUT = 30  # seconds without an answer or a byte
WINDOW = 60  # seconds, in each of which a download has to bring
SLOWEST = 1000  # bytes a second on average
LONGEST = 3600  # seconds for all of it
LONGEST_WAIT = 60  # seconds that a server may ask to be left alone
CHUNK = 2**14  # bytes
AGAIN = (408, 429, 500, 502, 503, 504)  # answers of a server that may do better a little later
ELSEWHERE = "name a copy of the archive as data.archive (a path or an address), or choose another data.dataset"


def main() -> None:
    """Fetch the archive that ``params.yaml`` names, unless it is here already."""
    data = load_params().data
    release = RELEASES[data.dataset]
    before = ARCHIVE.stat().st_mtime_ns if ARCHIVE.exists() else None
    fetch(data.archive or release.source, data.sha256 or release.sha256, ARCHIVE, release.limit)
    if data.archive is not None and ARCHIVE.stat().st_mtime_ns == before:
        print(f"{ARCHIVE}: is here with the right checksum; data.archive is not read", file=sys.stderr)


def fetch(source: str, sha256: str, path: Path, limit: int) -> None:
    """Fetch an archive; a file already at `path` with the right checksum is kept as it is.

    Args:
        source: a path, a ``file://``, ``http://`` or ``https://`` address, or ``pip:NAME==VERSION``.
        sha256: the checksum that the archive must have, in hexadecimal digits.
        path: where to put it; the file gets this name only once its checksum is verified.
        limit: bytes that a download may have at most.

    Raises:
        UserError: the source cannot be reached or read, or its bytes have another checksum.
    """
    try:
        scheme = urllib.parse.urlsplit(source).scheme
    except ValueError as error:
        raise UserError(f"data.archive: {source}: is not an address: {error}; {ELSEWHERE}") from None
    remote = scheme in ("http", "https")
    receive = functools.partial(_download_http, limit) if remote else _download_wheel if scheme == "pip" else _copy_file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A run that was killed while downloading leaves its temporary file behind.
        for leftover in path.parent.glob("tmp" + 8 * "[a-z0-9_]"):
            leftover.unlink()
        pooch.create(
            path=path.parent,
            base_url="",
            registry={path.name: f"sha256:{sha256}"},
            urls={path.name: one_line(source)},  # pooch prints it
            retry_if_failed=1 if remote else 0,  # where the bytes are wrong; other failures never come back to pooch
        ).fetch(path.name, downloader=lambda _url, output, _pooch: receive(source, output))
    except ValueError as error:  # pooch's, "... expected sha256:... but got ..."
        found = str(error).split("but got ")[-1].split(".")[0]
        raise UserError(
            f"{source}: the archive's SHA-256 is {found}, and {sha256} is expected: it is damaged or another edition; "
            "set data.sha256 if you trust it, or " + ELSEWHERE
        ) from None
    except OSError as error:
        raise cannot_write(path, error) from None


def _download_http(limit: int, url: str, output: str | Path) -> None:
    """Download over HTTP; where the network or the server is at fault, wait and try again a few times."""
    for attempt in range(1, ATTEMPTS + 1):
        wait = 2.0 ** (attempt - 1)
        try:
            return _receive(url, output, limit)
        except requests.exceptions.HTTPError as error:
            answer = error.response
            reason = f"the server answers {answer.status_code} {answer.reason}"
            if answer.status_code not in AGAIN:
                raise UserError(f"{url}: {reason}; {ELSEWHERE}") from None
            asked = _retry_after(answer)
            if asked > LONGEST_WAIT:
                reason += f" and asks to wait {asked:.0f} seconds"
                raise UserError(f"{url}: {reason}; do so, or {ELSEWHERE}") from None
            wait = max(wait, asked)
        # A ValueError tells what is not an address.
        except (ValueError, requests.exceptions.TooManyRedirects) as error:
            raise UserError(f"{url}: cannot be fetched: {_reason(error)}; {ELSEWHERE}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = _reason(error)
            if _is_about_a_certificate(error):
                raise UserError(f"{url}: the server's certificate is not valid: {reason}; {ELSEWHERE}") from None
        if attempt < ATTEMPTS:
            print(one_line(f"{url}: {reason}; trying again in {wait:.0f} s"), file=sys.stderr)
            time.sleep(wait)
    raise UserError(f"{url}: cannot be fetched after {ATTEMPTS} attempts: {reason}; {ELSEWHERE}")


def _receive(url: str, output: str | Path, limit: int) -> None:
    """Try once to download."""
    too_large = UserError(f"{url}: has more than the {limit} bytes that are allowed for data.dataset; {ELSEWHERE}")
    with Path(output).open("wb") as file, _in_good_time(file.tell):
        hooks: Any = {"response": _refuse_downgrade}
        with requests.get(url, stream=True, timeout=TIMEOUT, hooks=hooks) as response:
            response.raise_for_status()
            announced = response.headers.get("Content-Length", "")
            total = int(announced) if announced.isdecimal() else 0
            if total > limit:
                raise too_large
            with tqdm(total=total or None, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as progress:
                for chunk in response.iter_content(CHUNK):
                    progress.update(file.write(chunk))
                    if file.tell() > limit:
                        raise too_large


@contextmanager
def _in_good_time(received: Callable[[], int]) -> Iterator[None]:
    """Break off what takes too long: a server that sends a byte now and then lets no other timeout run out.

    Args:
        received: gives the number of bytes that have come.
    """
    start, before = time.monotonic(), 0

    def check(*_: object) -> None:
        nonlocal before
        now = received()
        if now - before < SLOWEST * WINDOW or time.monotonic() - start > LONGEST:
            raise requests.exceptions.Timeout(f"too slow: {now - before} bytes in {WINDOW:g} s")
        before = now

    former = signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, WINDOW, WINDOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def _refuse_downgrade(response: requests.Response, **_: object) -> None:
    """Refuse to be sent from https to http, where anybody on the way can read and change what is said."""
    target = urllib.parse.urljoin(response.url, response.headers.get("Location", ""))
    if response.is_redirect and response.url.startswith("https:") and target.startswith("http:"):
        raise UserError(f"{response.url}: sends on to {target}, which is not encrypted; {ELSEWHERE}")


def _retry_after(answer: requests.Response) -> float:
    """Give the seconds that the server asks to wait, 0 where it asks nothing that can be understood."""
    try:
        return urllib3.Retry().get_retry_after(answer.raw) or 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _download_wheel(source: str, output: str | Path) -> None:
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


def _copy_file(source: str, output: str | Path) -> None:
    """Copy a local archive."""
    parts = urllib.parse.urlsplit(source)
    if parts.scheme not in ("", "file"):
        raise UserError(
            f"data.archive: {source}: {parts.scheme}:// is not known; give a path, file://, http:// or https://"
        )
    path = Path(urllib.request.url2pathname(parts.path) if parts.scheme == "file" else source)
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()} (an absolute path works from anywhere)"
        found = "is a folder, not a file" if path.is_dir() else "is not a file" if path.exists() else "no such file"
        raise UserError(f"data.archive: {source}: {found}{where}; {ELSEWHERE}")
    try:
        shutil.copyfile(path, output)
    except PermissionError:
        raise UserError(f"data.archive: {source}: may not be read; give read access, or {ELSEWHERE}") from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error, what caused it, what caused that, and so on."""
    seen: list[int] = []
    cause: object = error
    while isinstance(cause, BaseException) and id(cause) not in seen:
        yield cause
        seen.append(id(cause))
        wrapped = next((entry for entry in cause.args if isinstance(entry, BaseException)), None)
        cause = cause.__cause__ or cause.__context__ or wrapped or getattr(cause, "reason", None)


def _reason(error: BaseException) -> str:
    """Give the innermost cause of a network error that a user can act upon: the system's, else the protocol's."""
    causes = list(_causes(error))[::-1]
    system = [
        cause for cause in causes if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException)
    ]
    protocol = [cause for cause in causes if isinstance(cause, http.client.HTTPException)]
    told = (system or protocol or causes)[0]
    text = getattr(told, "strerror", None) or str(told) or type(told).__name__
    text = f"not HTTP: {text}" if isinstance(told, http.client.BadStatusLine) and not system else text
    return re.sub(r"\[SSL: \w+\] certificate verify failed: | \(_ssl\.c:\d+\)|\.$", "", text)


def _is_about_a_certificate(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error))


if __name__ == "__main__":
    run(main)
