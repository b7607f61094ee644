"""Fetching an archive from a path, a URL or the package index, and keeping it only if its checksum is right."""

import contextlib
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
from pathlib import Path
from typing import Final

import requests
import urllib3
from tqdm import tqdm

from recommender.errors import UserError, one_line
from recommender.storage import atomic, checksum

ATTEMPTS: Final = 4  # with 1, 2 and 4 seconds between them
TIMEOUT: Final = 30  # seconds without an answer or a byte
WINDOW: Final = 60  # seconds, in each of which a download has to bring
SLOWEST: Final = 1000  # bytes a second on average
LONGEST: Final = 3600  # seconds for all of it
LONGEST_WAIT: Final = 60  # seconds that a server may ask to wait
CHUNK: Final = 2**14  # bytes
HTTP: Final = ("http", "https")
NAMES: Final = {"sha256": "SHA-256", "md5": "MD5"}
TRANSIENT: Final = (408, 429, 500, 502, 503, 504)  # answers after which another attempt may succeed
ELSEWHERE: Final = "set data.archive to a copy (a path or URL), or choose another data.dataset"


def fetch(source: str, digest: str, path: Path, limit: int) -> bool:
    """Fetch an archive and return True, or False where `path` already has the right checksum and is kept.

    `source` is a path, a ``file://``, ``http://`` or ``https://`` URL, or ``pip:NAME==VERSION``; `digest` is
    ``sha256:`` or ``md5:`` and the checksum; `limit` is the most bytes that a download over HTTP may have.
    """
    receive = receiver(source, limit)
    algorithm, expected = digest.split(":")
    if path.is_file() and checksum(path, algorithm=algorithm) == expected:
        return False
    with atomic(path) as temporary:
        for _ in range(2 if urllib.parse.urlsplit(source).scheme in HTTP else 1):  # a server may have sent wrong bytes
            receive(source, temporary)
            found = checksum(temporary, algorithm=algorithm)
            if found == expected:
                return True
        raise UserError(
            f"{source}: the archive's {NAMES[algorithm]} is {found}, expected {expected}: it is damaged or another "
            f"edition; set data.sha256 if you trust it, or {ELSEWHERE}"
        )


def receiver(source: str, limit: int) -> Callable[[str, Path], None]:
    """Return the function that fetches from a source to a path, without a check of what comes."""
    try:
        scheme = urllib.parse.urlsplit(source).scheme
    except ValueError as error:
        raise UserError(f"data.archive: {source}: is not a URL: {error}; {ELSEWHERE}") from None
    remote = functools.partial(_download_http, limit)
    return remote if scheme in HTTP else _download_wheel if scheme == "pip" else _copy_file


def _download_http(limit: int, url: str, output: Path) -> None:
    """Download over HTTP; after a failure that may pass, wait and try again a few times."""
    for attempt in range(1, ATTEMPTS + 1):
        wait, asked = 2.0 ** (attempt - 1), 0.0
        try:
            return _receive(url, output, limit)
        except requests.exceptions.HTTPError as error:
            answer = error.response
            reason = f"the server answers {answer.status_code} {answer.reason}"
            if answer.status_code not in TRANSIENT:
                raise UserError(f"{url}: {reason}; {ELSEWHERE}") from None
            with contextlib.suppress(urllib3.exceptions.InvalidHeader):
                asked = urllib3.Retry().get_retry_after(answer.raw) or 0.0
            if asked > LONGEST_WAIT:
                reason += f" and asks to wait {asked:.0f} seconds"
                raise UserError(f"{url}: {reason}; do so, or {ELSEWHERE}") from None
            wait = max(wait, asked)
        # requests and urllib3 raise a ValueError for what is not a URL.
        except (ValueError, requests.exceptions.TooManyRedirects) as error:
            raise UserError(f"{url}: cannot be fetched: {_reason(error)}; {ELSEWHERE}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = _reason(error)
            if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
                raise UserError(f"{url}: the server's certificate is not valid: {reason}; {ELSEWHERE}") from None
        if attempt < ATTEMPTS:
            print(one_line(f"{url}: {reason}; trying again in {wait:.0f} s"), file=sys.stderr)
            time.sleep(wait)
    raise UserError(f"{url}: cannot be fetched after {ATTEMPTS} attempts: {reason}; {ELSEWHERE}")


def _receive(url: str, output: Path, limit: int) -> None:
    too_large = UserError(f"{url}: is larger than {limit} bytes, the limit for data.dataset; {ELSEWHERE}")
    get = functools.partial(requests.get, stream=True, timeout=TIMEOUT, hooks={"response": _refuse_downgrade})
    with output.open("wb") as file, _speed_limit(file.tell), get(url) as response:
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


@contextlib.contextmanager
def _speed_limit(received: Callable[[], int]) -> Iterator[None]:
    """Stop a download whose count of bytes grows too slowly; a byte now and then triggers no other timeout.

    Windows has no such alarm: there `TIMEOUT` alone ends a download.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
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
    target = urllib.parse.urljoin(response.url, response.headers.get("Location", ""))
    if response.is_redirect and response.url.startswith("https:") and target.startswith("http:"):
        raise UserError(f"{response.url}: redirects to {target}, which is not encrypted; {ELSEWHERE}")


def _download_wheel(source: str, output: Path) -> None:
    """Fetch a wheel by name with pip, which knows the user's index, proxy and certificates."""
    requirement = source.removeprefix("pip:")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")] or ["no wheel came"]
            # pip ends on "no matching distribution" even where it could not reach the index.
            broken = re.search("connection broken by '(.*)'", result.stderr)
            reason = f"{errors[-1]} ({broken[1]})" if broken else errors[-1]
            raise UserError(f"{requirement}: pip cannot fetch it from the package index: {reason}; {ELSEWHERE}")
        shutil.copyfile(wheels[0], output)


def _copy_file(source: str, output: Path) -> None:
    parts = urllib.parse.urlsplit(source)
    if parts.scheme not in ("", "file"):
        problem = f"{parts.scheme}:// is not supported; use a path, file://, http:// or https://"
        raise UserError(f"data.archive: {source}: {problem}")
    path = Path(urllib.request.url2pathname(parts.path) if parts.scheme == "file" else source)
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()} (an absolute path works from anywhere)"
        found = "is a folder, not a file" if path.is_dir() else "is not a file" if path.exists() else "no such file"
        raise UserError(f"data.archive: {source}: {found}{where}; {ELSEWHERE}")
    try:
        shutil.copyfile(path, output)
    except PermissionError:
        raise UserError(f"data.archive: {source}: is not readable; make it readable, or {ELSEWHERE}") from None


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: object = error
    while isinstance(cause, BaseException) and cause not in chain:
        chain.append(cause)
        wrapped = next((entry for entry in cause.args if isinstance(entry, BaseException)), None)
        cause = cause.__cause__ or cause.__context__ or wrapped or getattr(cause, "reason", None)
    return chain


def _reason(error: BaseException) -> str:
    """Return the innermost cause of a network error that a user can act upon: the system's, else the protocol's."""
    causes = _causes(error)[::-1]
    protocol = [cause for cause in causes if isinstance(cause, http.client.HTTPException)]
    # A RequestException is an OSError too.
    system = [each for each in causes if isinstance(each, OSError) and not isinstance(each, requests.RequestException)]
    cause = (system or protocol or causes)[0]
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    text = f"not HTTP: {text}" if isinstance(cause, http.client.BadStatusLine) and not system else text
    return re.sub(r"\[SSL: \w+\] certificate verify failed: | \(_ssl\.c:\d+\)|\.$", "", text)
