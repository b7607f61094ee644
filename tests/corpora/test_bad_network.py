"""Servers that fail, deceive and stall: retried for faults that pass, ended in one line, nothing partial is kept."""

import contextlib
import dataclasses
import datetime
import email.utils
import hashlib
import ipaddress
import os
import re
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from recommender.data import download
from recommender.data.movielens import RELEASES
from recommender.errors import UserError, run
from recommender.paths import ARCHIVE
from stages import fetch
from tests.conftest import Ending, files, set_params

GOOD = b"the right bytes " * 5000
GOOD_SHA256 = hashlib.sha256(GOOD).hexdigest()
ELSEWHERE = re.escape(download.ELSEWHERE)
Speak = Callable[[socket.socket], object]


def answer(status: str, *headers: str, body: bytes = b"", length: int | str | None = None) -> bytes:
    """Return an HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


RIGHT = answer("200 OK", body=GOOD)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def says(data: bytes) -> Speak:
    return lambda connection: connection.sendall(data)


def stalls(data: bytes) -> Speak:
    """Send byte by byte, far too slowly for a download but fast enough for every other timeout."""

    def speak(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            threading.Event().wait(0.02)

    return speak


def stalls_in_the_body(connection: socket.socket) -> None:
    connection.sendall(RIGHT[:200])
    stalls(GOOD)(connection)


def resets(data: bytes) -> Speak:
    def speak(connection: socket.socket) -> None:
        connection.sendall(data)
        threading.Event().wait(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return speak


def never_ends(connection: socket.socket) -> None:
    connection.sendall(CHUNKED)
    while True:
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


class Server(threading.Thread):
    """Answers one connection after the other, the last answer repeatedly."""

    def __init__(self, *speeches: Speak, certificate: Path | None = None) -> None:
        """Listen on any free port, with TLS where there is a certificate."""
        super().__init__(daemon=True)
        self.speeches = list(speeches)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.context = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate)
        self.url = f"http{'s' * bool(certificate)}://127.0.0.1:{self.listener.getsockname()[1]}/a.zip"
        self.connections = 0

    def run(self) -> None:
        """Answer until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.answer, args=self.listener.accept()[:1], daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        """Answer one connection, unless the client hangs up."""
        with contextlib.suppress(OSError):
            client = self.context.wrap_socket(connection, server_side=True) if self.context else connection
            with client:
                self.connections += 1
                speak = self.speeches.pop(0) if len(self.speeches) > 1 else self.speeches[0]
                client.recv(65536)
                speak(client)


Serve = Callable[..., Server]
Ask = Callable[[str], None]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start servers that are reached without any proxy."""
    monkeypatch.setenv("no_proxy", "*")
    started: list[Server] = []

    def start(*speeches: Speak, certificate: Path | None = None) -> Server:
        started.append(Server(*speeches, certificate=certificate))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.listener.close()


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Skip the pauses between attempts, and return how long they would have been."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.fixture
def ask(workspace: Path, sleeps: list[float], monkeypatch: pytest.MonkeyPatch) -> Ask:  # noqa: ARG001 - skips them
    """Set where the archive is, with an archive of an earlier run in place."""
    monkeypatch.setenv("no_proxy", "*")

    def setting(url: str) -> None:
        set_params(workspace, data__archive=url, data__sha256=GOOD_SHA256)
        ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        ARCHIVE.write_bytes(b"of an earlier run")

    return setting


def fetched() -> None:
    """Fetch, and check that the right archive is there and nothing beside it."""
    fetch.main()
    assert ARCHIVE.read_bytes() == GOOD
    assert list(ARCHIVE.parent.iterdir()) == [ARCHIVE]


def again(reason: str, seconds: tuple[int, ...] = (1, 2, 4)) -> list[str]:
    """Return patterns of the lines that announce retries."""
    return [f"^http.*/a\\.zip: .*({reason}).*; trying again in {wait} s$" for wait in seconds]


# What is the same the second time: the server's answer, and the message.
FINAL: dict[str, tuple[bytes, str]] = {
    "400": (answer("400 Bad Request"), "the server answers 400 Bad Request"),
    "401": (answer("401 Unauthorized"), "the server answers 401 Unauthorized"),
    "403": (answer("403 Forbidden"), "the server answers 403 Forbidden"),
    "404": (answer("404 Not Found"), "the server answers 404 Not Found"),
    "410": (answer("410 Gone"), "the server answers 410 Gone"),
    "501": (answer("501 Not Implemented"), "the server answers 501 Not Implemented"),
    "429 with a long Retry-After": (
        answer("429 Too Many Requests", "Retry-After: 3600"),
        "the server answers 429 Too Many Requests and asks to wait 3600 seconds; do so, or",
    ),
    "more bytes announced than allowed": (answer("200 OK", length=99999999999), "is larger than 984000000 bytes"),
    "two lengths": (
        answer("200 OK", "Content-Length: 9", body=GOOD),
        "cannot be fetched: Content-Length contained multiple unmatching values",
    ),
    "a redirection to FTP": (answer("302 Found", "Location: ftp://127.0.0.1/a.zip"), "cannot be fetched: No "),
    "a redirection to a file": (answer("302 Found", "Location: file:///etc/passwd"), "cannot be fetched: No "),
    "a redirection to nowhere": (answer("302 Found", "Location: http://[::1/"), "cannot be fetched: "),
}


@pytest.mark.parametrize(("data", "words"), FINAL.values(), ids=FINAL)
def test_final(serve: Serve, ask: Ask, ending: Ending, data: bytes, words: str) -> None:
    server = serve(says(data))
    ask(server.url)
    message = ending(fetch.main)
    assert re.search(f"{words}.*{ELSEWHERE}$", message), message
    assert server.connections == 1


# What may be better the second time: what the server does, and the reason given.
PASSING: dict[str, tuple[Speak, str]] = {
    status[:3]: (says(answer(status)), f"the server answers {status}")
    for status in ("408 Request Timeout", "429 Too Many Requests", "500 Oops", "502 Bad", "503 Busy", "504 Slow")
} | {
    "an invalid Retry-After": (says(answer("503 Busy", "Retry-After: soon")), "the server answers 503 Busy"),
    "a reset at once": (resets(b""), "reset by peer"),
    "a reset halfway": (resets(RIGHT[: len(RIGHT) // 2]), "reset by peer|IncompleteRead"),
    "no answer": (lambda _: threading.Event().wait(2), "timed out"),
    "a connection closed at once": (says(b""), "closed connection without response"),
    "something else than HTTP": (says(b"220 mail.example.org ESMTP\r\n"), "not HTTP: 220 mail.example.org ESMTP"),
    "a body cut short": (says(RIGHT[:-1000]), r"IncompleteRead\(79000 bytes read, 1000 more expected\)"),
    "chunks cut short": (says(CHUNKED + b"10\r\nabc"), "IncompleteRead|ended prematurely"),
    "invalid chunks": (says(CHUNKED + b"xyz\r\nabc"), "InvalidChunkLength"),
    "headers byte by byte": (stalls(RIGHT[:30] * 9), "too slow: 0 bytes in 0.3 s"),
    "a body byte by byte": (stalls_in_the_body, r"too slow: \d+ bytes in 0.3 s"),
}


@pytest.fixture
def passing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Speak, str]:
    """One of the above, with a limit of time that it exceeds soon."""
    if request.param == "no answer":
        monkeypatch.setattr(download, "TIMEOUT", 0.3)
    if "byte by byte" in request.param:
        monkeypatch.setattr(download, "WINDOW", 0.3)
    return PASSING[request.param]


@pytest.mark.parametrize("passing", PASSING, indirect=True)
def test_passing(
    serve: Serve, ask: Ask, capsys: pytest.CaptureFixture[str], sleeps: list[float], passing: tuple[Speak, str]
) -> None:
    speak, words = passing
    server = serve(speak, speak, says(RIGHT))
    ask(server.url)
    fetched()
    assert server.connections == 3
    assert sleeps == [1, 2]
    for line, pattern in zip(capsys.readouterr().err.splitlines(), again(words, (1, 2)), strict=True):
        assert re.search(pattern, line), line


@pytest.mark.parametrize(
    "passing", ["an invalid Retry-After", "a body cut short", "a reset at once", "headers byte by byte"], indirect=True
)
def test_lasting(serve: Serve, ask: Ask, ending: Ending, sleeps: list[float], passing: tuple[Speak, str]) -> None:
    speak, words = passing
    server = serve(speak)
    ask(server.url)
    message = ending(fetch.main, *again(words))
    assert re.search(f"cannot be fetched after 4 attempts: .*{words}; {ELSEWHERE}$", message), message
    assert server.connections == 4
    assert sleeps == [1, 2, 4]


def test_too_long_altogether(serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("WINDOW", 0.3), ("SLOWEST", 1), ("LONGEST", 0.5), ("ATTEMPTS", 1)):
        monkeypatch.setattr(download, name, value)
    ask(serve(stalls_in_the_body).url)
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"cannot be fetched after 1 attempts: too slow: \d+ bytes in 0.3 s"):
        fetch.main()
    assert files(tmp_path) == before


def test_a_system_without_alarms_downloads_and_has_the_limit_of_time_without_an_answer(
    serve: Serve, ask: Ask, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SIGALRM", "ITIMER_REAL", "setitimer"):  # Windows
        monkeypatch.delattr(signal, name)
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    ask(serve(lambda _: threading.Event().wait(2), says(RIGHT)).url)
    fetched()
    assert sleeps == [1]


def test_a_body_without_end(serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch, ending: Ending) -> None:
    monkeypatch.setitem(RELEASES, "ml-1m", dataclasses.replace(RELEASES["ml-1m"], size=25_000))
    ask(serve(never_ends).url)
    assert "is larger than 1000000 bytes, the limit for data.dataset; " in ending(fetch.main)


@pytest.mark.parametrize("length", [len(GOOD) - 1000, 0])
def test_the_wrong_bytes(serve: Serve, ask: Ask, ending: Ending, length: int) -> None:
    server = serve(says(answer("200 OK", body=GOOD, length=length)))  # no more bytes are read than announced
    ask(server.url)
    found = hashlib.sha256(GOOD[:length]).hexdigest()
    assert f"SHA-256 is {found}, expected {GOOD_SHA256}" in ending(fetch.main)
    assert server.connections == 2


# The first answer, and how often the server is asked: after wrong bytes, once more.
HARMLESS = {
    "a negative length": (answer("200 OK", body=GOOD, length="-5"), 1),
    "a length in words": (answer("200 OK", body=GOOD, length="many"), 1),
    "a hexadecimal length": (answer("200 OK", body=GOOD, length="0x10"), 1),
    "more bytes than announced": (RIGHT + b"more", 1),
    "an answer cut in a header": (RIGHT[:30], 2),
    "changed bytes": (RIGHT.replace(b"right", b"wrong"), 2),
    "fewer bytes, with their length": (answer("200 OK", body=GOOD[:-9]), 2),
}


@pytest.mark.parametrize(("data", "connections"), HARMLESS.values(), ids=HARMLESS)
def test_harmless(serve: Serve, ask: Ask, data: bytes, connections: int) -> None:
    server = serve(says(data), says(RIGHT))
    ask(server.url)
    fetched()
    assert server.connections == connections


def test_an_archive_is_downloaded_once_and_redirections_are_followed(serve: Serve, ask: Ask) -> None:
    server = serve(says(answer("302 Found", "Location: /b.zip", "Connection: close")), says(RIGHT))
    ask(server.url)
    fetched()
    fetched()
    assert server.connections == 2


@pytest.mark.parametrize("form", ["seconds", "a date"])
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_retry_after_is_respected(serve: Serve, ask: Ask, sleeps: list[float], status: str, form: str) -> None:
    after = "9" if form == "seconds" else email.utils.formatdate(time.time() + 9, usegmt=True)
    ask(serve(says(answer(status, f"Retry-After: {after}")), says(RIGHT)).url)
    fetched()
    assert len(sleeps) == 1
    assert 6 < sleeps[0] <= 9


SOURCES = {
    "a file that is not there": ("nowhere/ml-1m.zip", "no such file"),
    "a folder": ("/", "is a folder, not a file"),
    "a device": ("/dev/zero", "is not a file"),
    "an unsupported scheme": ("s3://bucket/ml-1m.zip", "s3:// is not supported; use a path, file://"),
    "an invalid address": ("http://[::1/a.zip", "is not a URL"),
    "an invalid port": ("http://host:port/a.zip", "cannot be fetched"),
}


@pytest.mark.parametrize(("source", "words"), SOURCES.values(), ids=SOURCES)
def test_a_source(ask: Ask, ending: Ending, monkeypatch: pytest.MonkeyPatch, source: str, words: str) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home/me/project"))
    ask(source)
    assert words in ending(fetch.main)


@pytest.mark.parametrize("host", ["", ":80", "127.0.0.1:99999", "a..b", ".a", "*", "a b", "a" * 70 + ".invalid"])
@pytest.mark.usefixtures("sleeps")
def test_what_is_not_a_url_is_reported(tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    url = f"https://{host}/a.zip"
    with pytest.raises(UserError, match=f"^{re.escape(url)}: cannot be fetched.*; {ELSEWHERE}$"):
        download.fetch(url, f"sha256:{GOOD_SHA256}", tmp_path / "data" / "archive.zip", 10**6)
    assert files(tmp_path) == {}


def test_a_file_that_is_not_readable(
    ask: Ask, ending: Ending, monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    def closed(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    (workspace / "ml-1m.zip").write_bytes(GOOD)
    monkeypatch.setattr("shutil.copyfile", closed)  # root can read every file
    ask("ml-1m.zip")
    assert "data.archive: ml-1m.zip: is not readable; make it readable, or " in ending(fetch.main)


def test_a_closed_port(ask: Ask, ending: Ending) -> None:
    ask("http://127.0.0.1:1/a.zip")
    message = ending(fetch.main, *again("Connection refused"))
    assert "cannot be fetched after 4 attempts: Connection refused; " in message


def test_an_unknown_host(ask: Ask, ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    ask("https://nowhere.invalid/a.zip")
    message = ending(fetch.main, *again("Name or service not known"))
    assert "https://nowhere.invalid/a.zip: cannot be fetched after 4 attempts: Name or service not known; " in message


def test_a_redirection_in_a_circle(serve: Serve, ask: Ask, ending: Ending) -> None:
    server = serve(says(answer("302 Found", "Location: /a.zip", "Connection: close")))
    ask(server.url)
    assert "cannot be fetched: Exceeded 30 redirects; " in ending(fetch.main)
    assert server.connections == 31


# HTTPS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Self-signed certificates, each with its key: good, expired, and for another host."""
    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.datetime.now(datetime.UTC)
    paths = {}
    for name, host, end in (("good", "127.0.0.1", 1), ("expired", "127.0.0.1", -1), ("other", "127.0.0.9", 1)):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=end))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        paths[name] = folder / f"{name}.pem"
        paths[name].write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return paths


def test_a_valid_certificate(
    serve: Serve, ask: Ask, certificates: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates["good"]))
    ask(serve(says(RIGHT), certificate=certificates["good"]).url)
    fetched()


@pytest.mark.parametrize(
    ("presented", "trusted", "reason"),
    [
        ("expired", "expired", "certificate has expired"),
        ("other", "other", "IP address mismatch"),
        ("good", "expired", "self-signed certificate"),
    ],
)
def test_a_certificate(
    serve: Serve,
    ask: Ask,
    certificates: dict[str, Path],
    ending: Ending,
    monkeypatch: pytest.MonkeyPatch,
    presented: str,
    trusted: str,
    reason: str,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates[trusted]))
    server = serve(says(RIGHT), certificate=certificates[presented])
    ask(server.url)
    assert f"the server's certificate is not valid: {reason}" in ending(fetch.main)
    assert server.connections == 0


def test_a_redirection_from_https_to_http(
    serve: Serve, ask: Ask, certificates: dict[str, Path], ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates["good"]))
    plain = serve(says(RIGHT))
    ask(serve(says(answer("302 Found", f"Location: {plain.url}")), certificate=certificates["good"]).url)
    assert re.search(r"redirects to http://127\.0\.0\.1:\d+/a\.zip, which is not encrypted; ", ending(fetch.main))
    assert plain.connections == 0


def test_https_where_the_server_speaks_http(serve: Serve, ask: Ask, ending: Ending) -> None:
    server = serve(says(RIGHT))
    ask(server.url.replace("http:", "https:"))
    message = ending(fetch.main, *again("[sS][sS][lL]|version|record"))
    assert "certificate" not in message
    assert server.connections == 4


def test_a_password_is_never_shown(serve: Serve, ask: Ask, ending: Ending) -> None:
    server = serve(says(answer("500 Oops")))
    ask(server.url.replace("http://", "http://me:hidden@word@"))
    message = ending(fetch.main, *again("the server answers 500"))
    assert message.startswith(f"{server.url}: cannot be fetched")
    assert "hidden" not in message


# Interruptions


def test_half_a_download_does_not_get_into_the_next(serve: Serve, ask: Ask) -> None:
    server = serve(resets(RIGHT[:5000]), says(RIGHT))
    ask(server.url)
    fetched()
    assert server.connections == 2


def test_an_interrupted_download_leaves_nothing(serve: Serve, ask: Ask, workspace: Path) -> None:
    def interrupts(connection: socket.socket) -> None:
        connection.sendall(RIGHT[:5000])
        threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    ask(serve(interrupts).url)
    before = files(workspace)
    with pytest.raises(SystemExit) as raised:
        run(fetch.main)
    assert raised.value.code == 130
    assert files(workspace) == before
