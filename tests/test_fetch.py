"""An archive is fetched from anywhere, verified, kept; what cannot be had is told in one line and leaves nothing."""

import base64
import datetime
import hashlib
import ipaddress
import os
import shutil
import ssl
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import files, refused, set_params, sha256, stage
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import stages.fetch
from stages.fetch import ELSEWHERE, fetch
from stages.lib.errors import UserError

GOOD = b"the right bytes " * 5000
BAD = b"other bytes"
GOOD_SHA256 = hashlib.sha256(GOOD).hexdigest()
BAD_SHA256 = hashlib.sha256(BAD).hexdigest()
OTHER_SHA256 = "0" * 64
LIMIT = 10**6
CLOSED = "http://127.0.0.1:1"  # nobody listens there


class Server(ThreadingHTTPServer):
    """A server on 127.0.0.1 that counts requests and answers each path with a list of answers, the last for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on any free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[tuple[int, bytes, dict[str, str]]]] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.scheme = "http"

    def url(self, path: str, *answers: tuple[int, bytes] | tuple[int, bytes, dict[str, str]]) -> str:
        """Set the answers of a path and give its address."""
        self.answers[path] = [(*answer, {})[:3] for answer in answers]
        return f"{self.scheme}://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say nothing about clients that hang up."""


class Handler(BaseHTTPRequestHandler):
    """Gives the next answer of a path."""

    server: Server

    def do_GET(self) -> None:
        """Answer; a status of 0 means never to answer, and a Content-Length may be a lie."""
        self.server.requests.append(self.path)
        answers = self.server.answers.get(self.path, [(404, b"", {})])
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        if not status:
            self.server.closing.wait(20)
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that runs for one test, reached without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let pooch wait no time between its attempts, but note how long it would have."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the archive goes; nothing else may appear in that folder."""
    return tmp_path / "data" / "raw" / "archive.zip"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A good archive, in a name that addresses have to escape."""
    path = tmp_path / "my copy é.zip"
    path.write_bytes(GOOD)
    return path


def refusal(source: str | Path, target: Path, checksum: str = GOOD_SHA256) -> str:
    """Fetch what must be refused, see that the folder is as before, and give the message."""
    before = files(target.parent)
    with pytest.raises(UserError) as raised:
        fetch(str(source), checksum, target, LIMIT)
    assert files(target.parent) == before
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def only(target: Path) -> bytes:
    """Give the archive's bytes; there must be nothing else beside it."""
    assert list(target.parent.iterdir()) == [target]
    return target.read_bytes()


# Local files


@pytest.mark.parametrize("form", ["absolute", "relative", "dotted", "address"])
def test_a_local_archive_is_copied(source: Path, target: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    forms = {
        "absolute": str(source),
        "relative": source.name,
        "dotted": f"./data/../{source.name}",
        "address": source.as_uri(),
    }
    (source.parent / "data").mkdir()
    assert ("%20" in forms[form]) == (form == "address")
    fetch(forms[form], GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD
    assert source.read_bytes() == GOOD


@pytest.mark.parametrize("name", ["a#b?c.zip", "100%25.zip"])
def test_a_path_is_not_taken_for_an_address(tmp_path: Path, target: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD)
    fetch(str(tmp_path / name), GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD


def test_a_verified_archive_is_kept_though_its_source_is_gone(source: Path, target: Path) -> None:
    fetch(str(source), GOOD_SHA256, target, LIMIT)
    source.unlink()
    before = target.stat()
    fetch(str(source), GOOD_SHA256, target, LIMIT)
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_wrong_archive_is_replaced(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(BAD)
    fetch(str(source), GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD


def test_a_checksum_may_have_capitals_nowhere_else_than_its_digits(source: Path, target: Path) -> None:
    fetch(str(source), GOOD_SHA256.upper(), target, LIMIT)
    assert only(target) == GOOD


def test_a_copy_with_a_wrong_checksum_is_not_kept(source: Path, target: Path) -> None:
    assert refusal(source, target, OTHER_SHA256) == (
        f"{source}: the archive's SHA-256 is {GOOD_SHA256}, and {OTHER_SHA256} is expected: "
        f"it is damaged or another edition; set data.sha256 if you trust it, or {ELSEWHERE}"
    )
    assert list(target.parent.iterdir()) == []


def test_a_missing_file_is_told_with_the_folder_looked_in(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    assert refusal("nowhere.zip", target) == (
        f"data.archive: nowhere.zip: no such file in {source.parent} (an absolute path works from anywhere); "
        f"{ELSEWHERE}"
    )
    missing = source.parent / "nowhere.zip"
    for name in (str(missing), missing.as_uri()):
        assert refusal(name, target) == f"data.archive: {name}: no such file; {ELSEWHERE}"


def test_a_folder_is_told_to_be_one(source: Path, target: Path) -> None:
    for name in (str(source.parent), source.parent.as_uri()):
        assert refusal(name, target) == f"data.archive: {name}: is a folder, not a file; {ELSEWHERE}"


@pytest.mark.parametrize("address", ["ftp://host/a.zip", "s3://bucket/a.zip", "htp://host/a.zip", "FTP://host/a.zip"])
def test_an_unknown_scheme_is_told_with_the_known_ones(target: Path, address: str) -> None:
    assert refusal(address, target) == (
        f"data.archive: {address}: {address.split(':')[0].lower()}:// is not known; "
        "give a path, file://, http:// or https://"
    )


def test_what_a_killed_download_left_is_removed_and_nothing_else(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True)
    (target.parent / "tmpab_3cd9x").write_bytes(b"half a download")
    kept = {"tmp.zip", "tmp-archive.zip", "tmpfolder"}
    (target.parent / "tmp.zip").write_bytes(BAD)
    (target.parent / "tmp-archive.zip").write_bytes(BAD)
    (target.parent / "tmpfolder").mkdir()
    fetch(str(source), GOOD_SHA256, target, LIMIT)
    assert {path.name for path in target.parent.iterdir()} == kept | {target.name}


def test_a_folder_in_place_of_the_archive_is_told_and_kept(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    assert refusal(source, target) == (
        f"{target}: cannot be written: Is a directory; a folder has its name: move it away, then retry"
    )
    assert list(target.parent.rglob("*")) == [target]


def test_a_file_in_place_of_the_folder_is_told_and_kept(source: Path, target: Path) -> None:
    target.parent.parent.write_bytes(BAD)
    with pytest.raises(UserError, match=r"archive\.zip: cannot be written: Not a directory; a file is in place of"):
        fetch(str(source), GOOD_SHA256, target, LIMIT)
    assert target.parent.parent.read_bytes() == BAD


# HTTP


def test_an_archive_is_downloaded_once(server: Server, target: Path) -> None:
    url = server.url("/a.zip", (200, GOOD))
    fetch(url, GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD
    fetch(url, GOOD_SHA256, target, LIMIT)
    assert server.requests == ["/a.zip"]


def test_a_wrong_archive_is_downloaded_again(server: Server, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(GOOD[:-1])
    fetch(server.url("/a.zip", (200, GOOD)), GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD
    assert server.requests == ["/a.zip"]


def test_a_redirection_is_followed(server: Server, target: Path) -> None:
    server.url("/b.zip", (200, GOOD))
    fetch(server.url("/a.zip", (302, b"", {"Location": "/b.zip"})), GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD
    assert server.requests == ["/a.zip", "/b.zip"]


@pytest.mark.parametrize("present", [None, GOOD])
@pytest.mark.usefixtures("sleeps")
def test_a_download_with_a_wrong_checksum_is_not_kept(server: Server, target: Path, present: bytes | None) -> None:
    url = server.url("/a.zip", (200, BAD))
    if present is not None:
        target.parent.mkdir(parents=True)
        target.write_bytes(present)
    assert refusal(url, target, OTHER_SHA256) == (
        f"{url}: the archive's SHA-256 is {BAD_SHA256}, and {OTHER_SHA256} is expected: "
        f"it is damaged or another edition; set data.sha256 if you trust it, or {ELSEWHERE}"
    )
    assert files(target.parent) == ({} if present is None else {target.name: GOOD_SHA256})


@pytest.mark.parametrize(
    ("status", "reason"), [(400, "Bad Request"), (401, "Unauthorized"), (403, "Forbidden"), (404, "Not Found")]
)
def test_a_refusal_by_the_server_is_final(
    server: Server, target: Path, sleeps: list[float], status: int, reason: str
) -> None:
    url = server.url("/a.zip", (status, b"no"))
    assert refusal(url, target) == f"{url}: the server answers {status} {reason}; {ELSEWHERE}"
    assert len(server.requests) == 1
    assert sleeps == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_trouble_of_the_server_is_waited_out(server: Server, target: Path, sleeps: list[float], status: int) -> None:
    fetch(server.url("/a.zip", (status, b"later"), (status, b"later"), (200, GOOD)), GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD
    assert len(server.requests) == 3
    assert sleeps == [1, 2]


@pytest.mark.parametrize("first", [(200, GOOD[:-9], {"Content-Length": str(len(GOOD))}), (200, GOOD[:-9])])
@pytest.mark.usefixtures("sleeps")
def test_a_download_cut_short_is_tried_again(server: Server, target: Path, first: tuple[Any, ...]) -> None:
    fetch(server.url("/a.zip", first, (200, GOOD)), GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD
    assert len(server.requests) == 2


def test_lasting_trouble_of_the_server_is_told(server: Server, target: Path, sleeps: list[float]) -> None:
    url = server.url("/a.zip", (500, b"never"))
    message = refusal(url, target)
    assert message.startswith(
        f"{url}: cannot be fetched after 4 attempts: the server answers 500 Internal Server Error; "
    )
    assert message.endswith(ELSEWHERE)
    assert len(server.requests) == 4
    assert sleeps == [1, 2, 4]


@pytest.mark.usefixtures("sleeps")
def test_a_download_always_cut_short_is_told(server: Server, target: Path) -> None:
    url = server.url("/a.zip", (200, BAD, {"Content-Length": "999"}))
    message = refusal(url, target)
    assert message.startswith(f"{url}: cannot be fetched after 4 attempts: IncompleteRead(11 bytes read, 988 more")
    assert message.endswith(ELSEWHERE)
    assert list(target.parent.iterdir()) == []


@pytest.mark.usefixtures("sleeps")
def test_a_server_that_never_answers_is_given_up(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.fetch, "TIMEOUT", 0.05)
    url = server.url("/a.zip", (0, b""))
    message = refusal(url, target)
    assert message.startswith(f"{url}: cannot be fetched after 4 attempts: ")
    assert "timed out" in message
    assert message.endswith(ELSEWHERE)
    assert len(server.requests) == 4


def test_a_refused_connection_is_told(target: Path, sleeps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    message = refusal(f"{CLOSED}/a.zip", target)
    assert message.startswith(f"{CLOSED}/a.zip: cannot be fetched after 4 attempts: ")
    assert "Connection refused" in message
    assert message.endswith(ELSEWHERE)
    assert sleeps == [1, 2, 4]


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http:///a.zip",
        "https://:80/a.zip",
        "http://[::1/a.zip",
        "http://127.0.0.1:99999/a.zip",
        "http://127.0.0.1:port/a.zip",
        "http://a..b/a.zip",
        "http://.a/a.zip",
        "http://*/a.zip",
        "http://a b/a.zip",
        "http://" + "a" * 70 + ".invalid/a.zip",
    ],
)
@pytest.mark.usefixtures("sleeps")
def test_what_is_not_an_address_is_told(target: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    message = refusal(address, target)
    assert f"{address}: " in message
    assert "SHA-256" not in message
    assert message.endswith(ELSEWHERE)


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/a.zip", "file:///etc/passwd", "/a.zip", "http://[::1/"])
@pytest.mark.usefixtures("sleeps")
def test_a_redirection_that_leads_nowhere_is_told(server: Server, target: Path, location: str) -> None:
    url = server.url("/a.zip", (302, b"", {"Location": location}))
    message = refusal(url, target)
    assert message.startswith(f"{url}: cannot be fetched")
    assert "SHA-256" not in message
    assert message.endswith(ELSEWHERE)


# HTTPS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates, each with its key, that sign themselves: good, expired, and for another host."""
    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.datetime.now(datetime.UTC)
    paths = {}
    for name, host, end in (("good", "127.0.0.1", 1), ("expired", "127.0.0.1", -1), ("other", "127.0.0.9", 1)):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
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


def secure(server: Server, certificate: Path) -> None:
    """Let a server speak TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    # The handshake is left to the thread of each connection: the listener must not fall over a client that leaves.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.scheme = "https"


def test_an_archive_is_downloaded_over_https(
    server: Server, target: Path, certificates: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates["good"]))
    secure(server, certificates["good"])
    fetch(server.url("/a.zip", (200, GOOD)), GOOD_SHA256, target, LIMIT)
    assert only(target) == GOOD


@pytest.mark.parametrize(
    ("presented", "trusted", "reason"),
    [
        ("expired", "expired", "certificate has expired"),
        ("other", "other", "IP address mismatch"),
        ("good", "expired", "self-signed certificate"),
    ],
)
def test_a_certificate_that_is_not_valid_is_final(
    server: Server,
    target: Path,
    certificates: dict[str, Path],
    sleeps: list[float],
    monkeypatch: pytest.MonkeyPatch,
    presented: str,
    trusted: str,
    reason: str,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates[trusted]))
    secure(server, certificates[presented])
    url = server.url("/a.zip", (200, GOOD))
    message = refusal(url, target)
    assert message.startswith(f"{url}: the server's certificate is not valid: ")
    assert reason in message
    assert message.endswith(ELSEWHERE)
    assert server.requests == []
    assert sleeps == []


# pip


def make_wheel(folder: Path) -> Path:
    """Make a wheel as small as pip takes one."""
    info = "ratings_archive-1.0.dist-info"
    members = {
        "ratings_archive/ratings.dat": "1::1::5::9\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: ratings-archive\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / "ratings_archive-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        record = ""
        for name, text in members.items():
            wheel.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\n"
        wheel.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


@pytest.fixture
def index(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that has one wheel and is the only one that pip knows; gives the wheel."""
    wheel = make_wheel(tmp_path)
    server.url(f"/files/{wheel.name}", (200, wheel.read_bytes()))
    page = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()
    url = server.url("/simple/ratings-archive/", (200, page, {"Content-Type": "text/html"}))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", url.removesuffix("ratings-archive/"))
    return wheel


def test_a_wheel_is_fetched_with_pip_from_the_user_s_index(server: Server, index: Path, target: Path) -> None:
    fetch("pip:ratings-archive==1.0", sha256(index), target, LIMIT)
    assert only(target) == index.read_bytes()
    asked = len(server.requests)
    fetch("pip:ratings-archive==1.0", sha256(index), target, LIMIT)
    assert len(server.requests) == asked


def test_a_wheel_with_a_wrong_checksum_is_not_kept(index: Path, target: Path) -> None:
    message = refusal("pip:ratings-archive==1.0", target, OTHER_SHA256)
    assert f"SHA-256 is {sha256(index)}, and {OTHER_SHA256} is expected" in message
    assert list(target.parent.iterdir()) == []


@pytest.mark.usefixtures("index")
def test_a_version_that_the_index_lacks_is_told(target: Path) -> None:
    message = refusal("pip:ratings-archive==2.0", target)
    assert message.startswith("ratings-archive==2.0: pip cannot fetch it from the package index: ERROR: ")
    assert "No matching distribution found for ratings-archive==2.0" in message
    assert message.endswith(ELSEWHERE)


@pytest.mark.usefixtures("index")
def test_an_index_that_cannot_be_reached_is_told(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{CLOSED}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    message = refusal("pip:ratings-archive==1.0", target)
    assert message.startswith("ratings-archive==1.0: pip cannot fetch it from the package index: ")
    assert "Connection refused" in message
    assert message.endswith(ELSEWHERE)


# The stage


def test_the_stage_fetches_the_archive_and_nothing_else(project: Path, archives: dict[str, Path]) -> None:
    before = files(project)
    result = stage(project, "fetch")
    assert result.returncode == 0, result.stderr
    assert files(project) == before | {"data/raw/archive.zip": sha256(archives["ml-1m"])}


def test_the_stage_takes_a_path_relative_to_the_project(project: Path, archives: dict[str, Path]) -> None:
    shutil.copy(archives["ml-1m"], project / "copy.zip")
    set_params(project, data__archive="copy.zip")
    result = stage(project, "fetch")
    assert result.returncode == 0, result.stderr
    assert sha256(project / "data" / "raw" / "archive.zip") == sha256(archives["ml-1m"])


def test_the_stage_expects_the_release_s_own_checksum_unless_told(project: Path, archives: dict[str, Path]) -> None:
    set_params(project, data__sha256=None)
    before = files(project)
    refused(
        stage(project, "fetch"),
        f"{archives['ml-1m']}: the archive's SHA-256 is {sha256(archives['ml-1m'])}, and a6898adb50b9ca05",
        "set data.sha256 if you trust it",
        "data.archive",
        "another data.dataset",
    )
    assert files(project) == before


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        ("nowhere.zip", ["data.archive: nowhere.zip: no such file in ", "another data.dataset"]),
        ("stages", ["data.archive: stages: is a folder, not a file", "another data.dataset"]),
        ("ftp://host/a.zip", ["data.archive: ftp://host/a.zip: ftp:// is not known; give a path, file://"]),
        ("http://[::1/a.zip", ["data.archive: http://[::1/a.zip: is not an address", "another data.dataset"]),
    ],
)
def test_the_stage_tells_a_wrong_source_in_one_line(project: Path, archive: str, words: list[str]) -> None:
    set_params(project, data__archive=archive)
    before = files(project)
    refused(stage(project, "fetch"), *words)
    assert files(project) == before


def test_the_stage_tells_a_refusing_server_in_one_line(project: Path, server: Server) -> None:
    url = server.url("/a.zip", (404, b""))
    set_params(project, data__archive=url)
    before = files(project)
    refused(stage(project, "fetch"), f"{url}: the server answers 404 Not Found; ", "data.archive", "data.dataset")
    assert files(project) == before
    assert server.requests == ["/a.zip"]


def test_the_stage_tells_an_expired_certificate_in_one_line(
    project: Path, server: Server, certificates: dict[str, Path]
) -> None:
    secure(server, certificates["expired"])
    url = server.url("/a.zip", (200, GOOD))
    set_params(project, data__archive=url)
    before = files(project)
    result = stage(project, "fetch", env={"REQUESTS_CA_BUNDLE": str(certificates["expired"])})
    refused(result, f"{url}: the server's certificate is not valid: ", "certificate has expired", "data.archive")
    assert files(project) == before


def test_the_stage_tells_an_unreachable_index_in_one_line(project: Path) -> None:
    set_params(project, data__dataset="ml-100k", data__archive=None, data__sha256=None)
    before = files(project)
    environment = {"PIP_INDEX_URL": f"{CLOSED}/simple", "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull}
    environment |= {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_NO_CACHE_DIR": "1", "no_proxy": "127.0.0.1"}
    refused(
        stage(project, "fetch", env=environment),
        "recbole==1.2.1: pip cannot fetch it from the package index: ",
        "Connection refused",
        "data.archive",
        "another data.dataset",
    )
    assert files(project) == before


def test_the_stage_keeps_a_good_archive_when_the_next_is_wrong(project: Path, tmp_path: Path) -> None:
    assert stage(project, "fetch").returncode == 0
    (tmp_path / "bad.zip").write_bytes(BAD)
    set_params(project, data__archive=str(tmp_path / "bad.zip"), data__sha256=OTHER_SHA256)
    before = files(project)
    result = stage(project, "fetch")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'bad.zip'}: the archive's SHA-256 is")
    assert files(project) == before


def test_an_archive_that_is_not_read_because_the_right_one_is_here_is_told(project: Path) -> None:
    assert stage(project, "fetch").stderr.count("is not read") == 0
    set_params(project, data__archive="/nowhere/at/all.zip")
    result = stage(project, "fetch")
    assert result.returncode == 0
    assert result.stderr == "data/raw/archive.zip: is here with the right checksum; data.archive is not read\n"
