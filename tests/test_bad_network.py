"""Servers that fail, deceive and dawdle: retried for faults that pass, ended in one line, and nothing partial kept."""

import dataclasses
import email.utils
import hashlib
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages import fetch
from stages.lib.releases import RELEASES
from tests.conftest import Ending, files, set_params
from tests.test_fetch import BAD, GOOD, GOOD_SHA256, Server, certificates, secure, server, sleeps  # noqa: F401 - fixtures

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\n"
RIGHT = HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD
ELSEWHERE = re.escape(fetch.ELSEWHERE)
Speak = Callable[[socket.socket], None]


class Rude(threading.Thread):
    """A server that says one thing after the other, the last for ever, to whoever connects."""

    def __init__(self, *speeches: Speak) -> None:
        """Listen on any free port."""
        super().__init__(daemon=True)
        self.speeches = list(speeches)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/a.zip"
        self.connections = 0

    def run(self) -> None:
        """Answer one connection at a time."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            speak = self.speeches.pop(0) if len(self.speeches) > 1 else self.speeches[0]
            with connection:
                try:
                    connection.recv(65536)
                    speak(connection)
                except OSError:  # the client has hung up
                    pass


def says(data: bytes) -> Speak:
    return lambda connection: connection.sendall(data)


def dawdles(data: bytes, every: float = 0.02) -> Speak:
    """Send byte by byte, far too slowly for a download but fast enough for every timeout."""

    def speak(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            threading.Event().wait(every)

    return speak


def resets(data: bytes) -> Speak:
    def speak(connection: socket.socket) -> None:
        connection.sendall(data)
        threading.Event().wait(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return speak


def endless(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


@pytest.fixture
def rude(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rude]]:
    """Start rude servers, reached without any proxy and given up soon."""
    monkeypatch.setenv("no_proxy", "*")
    for name, value in (("TIMEOUT", 0.2), ("WINDOW", 0.3), ("SLOWEST", 1000)):
        monkeypatch.setattr(fetch, name, value)
    started: list[Rude] = []

    def start(*speeches: Speak) -> Rude:
        started.append(Rude(*speeches))
        started[-1].start()
        return started[-1]

    yield start
    for running in started:
        running.listener.close()


@pytest.fixture
def ask(workspace: Path, sleeps: list[float]) -> Callable[..., None]:  # noqa: ARG001, F811 - waits for nothing
    """Set where the archive is, with an archive of an earlier run in place."""

    def setting(url: str, sha256: str = GOOD_SHA256) -> None:
        set_params(workspace, data__archive=url, data__sha256=sha256)
        fetch.ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        fetch.ARCHIVE.write_bytes(b"of an earlier run")

    return setting


def again(reason: str, seconds: tuple[int, ...] = (1, 2, 4)) -> list[str]:
    """Give the lines that tell of retries."""
    return [f"^http.*/a\\.zip: .*{reason}.*; trying again in {wait} s$" for wait in seconds]


# What is the same the second time: the answer of the server, how often it is asked, and what is said.
FINAL: dict[str, tuple[bytes, str]] = {
    "403": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "the server answers 403 Forbidden"),
    "404": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "the server answers 404 Not Found"),
    "410": (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", "the server answers 410 Gone"),
    "501": (b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n", "the server answers 501 Not Implemented"),
    "429 with a long Retry-After": (
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n",
        "the server answers 429 Too Many Requests and asks to wait 3600 seconds; do so, or",
    ),
    "more bytes announced than allowed": (
        HEAD + b"Content-Length: 99999999999\r\n\r\n",
        "more than the 984000000 bytes",
    ),
    "two lengths": (
        HEAD + b"Content-Length: 7\r\nContent-Length: 9\r\n\r\n" + GOOD,
        "cannot be fetched: Content-Length contained multiple unmatching values",
    ),
}


@pytest.mark.parametrize(("answer", "words"), FINAL.values(), ids=FINAL)
def test_final(rude: Callable[..., Rude], ask: Callable[..., None], ending: Ending, answer: bytes, words: str) -> None:
    host = rude(says(answer))
    ask(host.url)
    message = ending(fetch.main)
    assert re.search(f"{words}.*{ELSEWHERE}$", message), message
    assert host.connections == 1


# What may be better the second time: what the server does, and what is said of it.
PASSING: dict[str, tuple[Speak, str]] = {
    "408": (
        says(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
        "the server answers 408 Request Timeout",
    ),
    "429": (says(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"), "answers 429 Too Many Requests"),
    "500": (says(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), "the server answers 500 Oops"),
    "503 with Retry-After that nobody understands": (
        says(b"HTTP/1.1 503 Busy\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n"),
        "the server answers 503 Busy",
    ),
    "a reset at once": (resets(b""), "reset by peer"),
    "a reset halfway": (resets(RIGHT[: len(RIGHT) // 2]), "reset by peer|IncompleteRead"),
    "no answer": (lambda _: threading.Event().wait(0.22) and None, "timed out"),
    "no answer but the end": (says(b""), "closed connection without response"),
    "something else than HTTP": (says(b"220 mail.example.org ESMTP\r\n"), "not HTTP: 220 mail.example.org ESMTP"),
    "a body cut short": (says(RIGHT[:-1000]), r"IncompleteRead\(79000 bytes read, 1000 more expected\)"),
    "chunks cut short": (
        says(HEAD + b"Transfer-Encoding: chunked\r\n\r\n10\r\nabc"),
        "IncompleteRead|ended prematurely",
    ),
    "chunks that are none": (says(HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc"), "InvalidChunkLength"),
    "headers byte by byte": (dawdles(HEAD * 9), "too slow: 0 bytes in 0.3 s"),
    "a body byte by byte": (lambda c: says(RIGHT[:200])(c) or dawdles(GOOD)(c), r"too slow: \d+ bytes in 0.3 s"),
}


@pytest.mark.parametrize(("speak", "words"), PASSING.values(), ids=PASSING)
def test_passing(
    rude: Callable[..., Rude],
    ask: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    sleeps: list[float],  # noqa: F811 - the fixture
    speak: Speak,
    words: str,
) -> None:
    host = rude(speak, speak, says(RIGHT))
    ask(host.url)
    fetch.main()
    assert fetch.ARCHIVE.read_bytes() == GOOD
    assert [path.name for path in fetch.ARCHIVE.parent.iterdir()] == ["archive.zip"]
    assert host.connections == 3
    assert sleeps == [1, 2]
    told = [line for line in capsys.readouterr().err.splitlines() if "ing file" not in line]
    for line, note in zip(told, again(f"({words})", (1, 2)), strict=True):
        assert re.search(note, line), line


@pytest.mark.parametrize(
    "name", ["503 with Retry-After that nobody understands", "a body cut short", "a reset at once"]
)
def test_lasting(rude: Callable[..., Rude], ask: Callable[..., None], ending: Ending, name: str) -> None:
    speak, words = PASSING[name]
    host = rude(speak)
    ask(host.url)
    message = ending(fetch.main, *again(words))
    assert re.search(f"cannot be fetched after 4 attempts: .*{words}; {ELSEWHERE}$", message), message
    assert host.connections == 4


def test_too_slow_to_the_end(rude: Callable[..., Rude], ask: Callable[..., None], ending: Ending) -> None:
    host = rude(dawdles(HEAD * 9))
    ask(host.url)
    assert "4 attempts: too slow: 0 bytes in 0.3 s; " in ending(fetch.main, *again("too slow: 0 bytes in 0.3 s"))


def test_too_long_altogether(
    rude: Callable[..., Rude], ask: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("SLOWEST", 1), ("LONGEST", 0.5), ("ATTEMPTS", 1)):
        monkeypatch.setattr(fetch, name, value)
    ask(rude(lambda c: says(RIGHT[:200])(c) or dawdles(GOOD)(c)).url)
    before = files(tmp_path)
    with pytest.raises(fetch.UserError, match=r"cannot be fetched after 1 attempts: too slow: \d+ bytes in 0.3 s"):
        fetch.main()
    assert files(tmp_path) == before


def test_a_body_without_end(
    rude: Callable[..., Rude], ask: Callable[..., None], monkeypatch: pytest.MonkeyPatch, ending: Ending
) -> None:
    monkeypatch.setitem(RELEASES, "ml-1m", dataclasses.replace(RELEASES["ml-1m"], size=25_000))
    ask(rude(endless).url)
    assert re.search(r"has more than the 1000000 bytes that are allowed for data\.dataset", ending(fetch.main))


@pytest.mark.parametrize("answer", [HEAD[:30], RIGHT.replace(b"right", b"wrong")], ids=["cut in a header", "changed"])
def test_wrong_bytes_are_fetched_once_more(rude: Callable[..., Rude], ask: Callable[..., None], answer: bytes) -> None:
    host = rude(says(answer), says(RIGHT))
    ask(host.url)
    fetch.main()
    assert fetch.ARCHIVE.read_bytes() == GOOD
    assert host.connections == 2


def test_the_wrong_bytes(rude: Callable[..., Rude], ask: Callable[..., None], ending: Ending) -> None:
    wrong = bytes(len(GOOD))
    host = rude(says(RIGHT.replace(GOOD, wrong)))
    ask(host.url)
    assert f"SHA-256 is {hashlib.sha256(wrong).hexdigest()}, and {GOOD_SHA256} is expected" in ending(fetch.main)
    assert host.connections == 2


@pytest.mark.parametrize("length", [len(GOOD) - 1000, 0])
def test_more_bytes_than_announced_are_not_taken(
    rude: Callable[..., Rude], ask: Callable[..., None], ending: Ending, length: int
) -> None:
    ask(rude(says(HEAD + b"Content-Length: %d\r\n\r\n" % length + GOOD)).url)
    assert f"SHA-256 is {hashlib.sha256(GOOD[:length]).hexdigest()}, and" in ending(fetch.main)


@pytest.mark.parametrize("length", [b"-5", b"many", b"0x10"])
def test_a_length_that_is_no_number_is_passed_over(
    rude: Callable[..., Rude], ask: Callable[..., None], length: bytes
) -> None:
    ask(rude(says(HEAD + b"Content-Length: " + length + b"\r\n\r\n" + GOOD)).url)
    fetch.main()
    assert fetch.ARCHIVE.read_bytes() == GOOD


def test_extra_bytes_after_the_right_ones_change_nothing(rude: Callable[..., Rude], ask: Callable[..., None]) -> None:
    ask(rude(says(RIGHT + BAD)).url)
    fetch.main()
    assert fetch.ARCHIVE.read_bytes() == GOOD


@pytest.mark.parametrize("form", ["seconds", "a date"])
@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"503 Service Unavailable"])
def test_retry_after_is_waited_for(
    rude: Callable[..., Rude],
    ask: Callable[..., None],
    sleeps: list[float],  # noqa: F811 - the fixture
    status: bytes,
    form: str,
) -> None:
    after = "9" if form == "seconds" else email.utils.formatdate(time.time() + 9, usegmt=True)
    busy = b"HTTP/1.1 " + status + b"\r\nRetry-After: " + after.encode() + b"\r\nContent-Length: 0\r\n\r\n"
    ask(rude(says(busy), says(RIGHT)).url)
    fetch.main()
    assert fetch.ARCHIVE.read_bytes() == GOOD
    assert len(sleeps) == 1
    assert 6 < sleeps[0] <= 9


SOURCES = {
    "a file that is not there": ("nowhere/ml-1m.zip", "no such file"),
    "a folder": ("/", "is a folder, not a file"),
    "a device": ("/dev/zero", "is not a file"),
    "a scheme that nobody knows": ("s3://bucket/ml-1m.zip", r"s3:// is not known; give a path, file://"),
    "an address that is none": ("http://[::1/a.zip", "is not an address"),
    "a port that is none": ("http://host:port/a.zip", "cannot be fetched"),
}


@pytest.mark.parametrize(("source", "words"), SOURCES.values(), ids=SOURCES)
def test_a_source(
    ask: Callable[..., None], ending: Ending, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home/me/project"))
    ask(source)
    assert re.search(words, ending(fetch.main))


def test_a_file_that_may_not_be_read(
    ask: Callable[..., None], ending: Ending, monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    def closed(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    (workspace / "ml-1m.zip").write_bytes(GOOD)
    monkeypatch.setattr("shutil.copyfile", closed)  # nothing is closed to root
    ask("ml-1m.zip")
    assert "data.archive: ml-1m.zip: may not be read; give read access" in ending(fetch.main)


def test_nobody_listens(ask: Callable[..., None], ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    ask("http://127.0.0.1:1/a.zip")
    message = ending(fetch.main, *again("Connection refused"))
    assert "cannot be fetched after 4 attempts: Connection refused; " in message


def test_a_host_that_nobody_knows(ask: Callable[..., None], ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    ask("https://nowhere.invalid/a.zip")
    message = ending(fetch.main, *again("Name or service not known"))
    assert "https://nowhere.invalid/a.zip: cannot be fetched after 4 attempts: Name or service not known; " in message


def test_a_redirection_in_a_circle(rude: Callable[..., Rude], ask: Callable[..., None], ending: Ending) -> None:
    host = rude(says(b"HTTP/1.1 302 Found\r\nLocation: /a.zip\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
    ask(host.url)
    assert "cannot be fetched: Exceeded 30 redirects; " in ending(fetch.main)
    assert host.connections == 31


def test_a_redirection_from_https_to_http(
    server: Server,  # noqa: F811 - the fixture
    certificates: dict[str, Path],  # noqa: F811 - the fixture
    ask: Callable[..., None],
    rude: Callable[..., Rude],
    ending: Ending,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_host = rude(says(RIGHT))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates["good"]))
    secure(server, certificates["good"])
    ask(server.url("/a.zip", (302, b"", {"Location": open_host.url})))
    assert re.search(r"sends on to http://127\.0\.0\.1:\d+/a\.zip, which is not encrypted; ", ending(fetch.main))
    assert open_host.connections == 0


@pytest.mark.parametrize("name", ["expired", "other"])
def test_a_certificate(
    server: Server,  # noqa: F811 - the fixture
    certificates: dict[str, Path],  # noqa: F811 - the fixture
    ask: Callable[..., None],
    ending: Ending,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates[name]))
    secure(server, certificates[name])
    ask(server.url("/a.zip", (200, GOOD)))
    assert "the server's certificate is not valid: " in ending(fetch.main)
    assert server.requests == []


def test_https_where_the_server_speaks_http(
    rude: Callable[..., Rude], ask: Callable[..., None], ending: Ending
) -> None:
    host = rude(says(RIGHT))
    ask(host.url.replace("http:", "https:"))
    message = ending(fetch.main, *again("[sS][sS][lL]|version|record"))
    assert "certificate" not in message
    assert host.connections == 4


def test_a_password_is_never_shown(rude: Callable[..., Rude], ask: Callable[..., None], ending: Ending) -> None:
    host = rude(says(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"))
    ask(host.url.replace("http://", "http://me:hidden@word@"))
    message = ending(fetch.main, *again("the server answers 500"))
    assert message.startswith(f"{host.url}: cannot be fetched")
    assert "hidden" not in message


def test_what_an_interrupted_download_left_does_not_get_into_the_next(
    rude: Callable[..., Rude], ask: Callable[..., None], workspace: Path
) -> None:
    host = rude(resets(RIGHT[:5000]), says(RIGHT))
    ask(host.url)
    fetch.ARCHIVE.unlink()
    (fetch.ARCHIVE.parent / "tmpab_3cd9x").write_bytes(GOOD[:1000])
    fetch.main()
    fetch.main()
    assert files(workspace / "data") == {"raw/archive.zip": GOOD_SHA256}
    assert host.connections == 2


def test_an_interrupted_download_leaves_nothing(
    rude: Callable[..., Rude], ask: Callable[..., None], workspace: Path
) -> None:
    def interrupts(connection: socket.socket) -> None:
        connection.sendall(RIGHT[:5000])
        threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    ask(rude(interrupts).url)
    before = files(workspace)
    with pytest.raises(SystemExit) as raised:
        fetch.run(fetch.main)
    assert raised.value.code == 130
    assert files(workspace) == before


def test_the_limit_is_the_one_of_the_release() -> None:
    assert RELEASES["ml-1m"].limit == 984_000_000
