"""An archive is fetched from a path or the package index, verified, and kept; tests of servers are in tests/corpora."""

import base64
import hashlib
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from recommender.data.download import ELSEWHERE, fetch
from recommender.data.movielens import RELEASES
from recommender.errors import UserError
from tests.conftest import files, refused, set_params, sha256, stage

GOOD = b"the right bytes " * 5000
GOOD_SHA256 = hashlib.sha256(GOOD).hexdigest()
OTHER_SHA256 = "0" * 64
LIMIT = 1  # byte: it is for downloads over HTTP alone


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the archive goes; nothing else may appear in that folder."""
    return tmp_path / "data" / "raw" / "archive.zip"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good archive in the working directory, with a name that URLs have to escape."""
    path = tmp_path / "my copy é.zip"
    path.write_bytes(GOOD)
    monkeypatch.chdir(tmp_path)
    return path


def refusal(source: str | Path, target: Path, checksum: str = GOOD_SHA256) -> str:
    """Fetch what must be refused, check that the folder is as before, and return the message."""
    before = files(target.parent)
    with pytest.raises(UserError) as raised:
        fetch(str(source), f"sha256:{checksum}", target, LIMIT)
    assert files(target.parent) == before
    return str(raised.value)


def only(target: Path) -> bytes:
    """Return the archive's bytes; there must be nothing else beside it."""
    assert list(target.parent.iterdir()) == [target]
    return target.read_bytes()


# Local files


def test_a_local_archive_is_copied_in_place_of_another(source: Path, target: Path) -> None:
    assert "%20" in source.as_uri()
    for form in (str(source), source.name, f"./{source.parent.name}/../{source.name}", source.as_uri()):
        (source.parent / source.parent.name).mkdir(exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"other bytes")
        assert fetch(form, f"sha256:{GOOD_SHA256}", target, LIMIT)
        assert only(target) == source.read_bytes() == GOOD


@pytest.mark.parametrize("name", ["a#b?c.zip", "100%25.zip"])
def test_a_path_is_not_read_as_a_url(tmp_path: Path, target: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD)
    assert fetch(str(tmp_path / name), f"sha256:{GOOD_SHA256}", target, LIMIT)
    assert only(target) == GOOD


def test_a_verified_archive_is_kept_without_its_source(source: Path, target: Path) -> None:
    fetch(str(source), f"sha256:{GOOD_SHA256}", target, LIMIT)
    source.unlink()
    before = target.stat()
    assert not fetch(str(source), f"sha256:{GOOD_SHA256}", target, LIMIT)
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_copy_with_a_wrong_checksum_is_not_kept(source: Path, target: Path) -> None:
    assert refusal(source, target, OTHER_SHA256) == (
        f"{source}: the archive's SHA-256 is {GOOD_SHA256}, expected {OTHER_SHA256}: it is damaged or another edition; "
        f"set data.sha256 if you trust it, or {ELSEWHERE}"
    )
    assert list(target.parent.iterdir()) == []


def test_a_missing_file_is_reported_with_the_folder_looked_in(source: Path, target: Path) -> None:
    assert refusal("nowhere.zip", target) == (
        f"data.archive: nowhere.zip: no such file in {source.parent} (an absolute path works from anywhere); "
        f"{ELSEWHERE}"
    )
    missing = source.parent / "nowhere.zip"
    for name in (str(missing), missing.as_uri()):
        assert refusal(name, target) == f"data.archive: {name}: no such file; {ELSEWHERE}"


@pytest.mark.parametrize("url", ["ftp://host/a.zip", "htp://host/a.zip", "FTP://host/a.zip"])
def test_an_unsupported_scheme_is_reported_with_the_supported_ones(target: Path, url: str) -> None:
    assert refusal(url, target) == (
        f"data.archive: {url}: {url.split(':')[0].lower()}:// is not supported; "
        "use a path, file://, http:// or https://"
    )


def test_what_is_in_place_of_the_archive_or_its_folder_is_reported_and_kept(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    assert refusal(source, target) == (
        f"{target}: cannot be written: Is a directory; a folder has its name: move it away, then retry"
    )
    shutil.rmtree(target.parent)
    target.parent.write_bytes(b"a file")
    assert refusal(source, target) == (
        f"{target}: cannot be written: File exists; a file is in place of its folder: move it away, then retry"
    )
    assert target.parent.read_bytes() == b"a file"


# pip


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only wheel of a package index that is the only one that pip knows."""
    info = "ratings_archive-1.0.dist-info"
    members = {
        "ratings_archive/ratings.dat": "1::1::5::9\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: ratings-archive\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    page = tmp_path / "simple" / "ratings-archive" / "index.html"
    page.parent.mkdir(parents=True)
    path = page.with_name("ratings_archive-1.0-py3-none-any.whl")
    page.write_text(f'<a href="{path.name}">{path.name}</a>')
    with zipfile.ZipFile(path, "w") as archive:
        record = ""
        for name, text in members.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\n"
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    return path


def test_a_wheel_is_fetched_once_with_pip_from_the_user_s_index(wheel: Path, target: Path) -> None:
    assert fetch("pip:ratings-archive==1.0", f"sha256:{sha256(wheel)}", target, LIMIT)
    assert only(target) == wheel.read_bytes()
    assert not fetch("pip:ratings-archive==1.0", f"sha256:{sha256(wheel)}", target, LIMIT)


def test_a_wheel_with_a_wrong_checksum_is_not_kept(wheel: Path, target: Path) -> None:
    message = refusal("pip:ratings-archive==1.0", target, OTHER_SHA256)
    assert f"SHA-256 is {sha256(wheel)}, expected {OTHER_SHA256}" in message
    assert list(target.parent.iterdir()) == []


@pytest.mark.usefixtures("wheel")
def test_a_version_that_the_index_lacks_is_reported(target: Path) -> None:
    assert refusal("pip:ratings-archive==2.0", target) == (
        "ratings-archive==2.0: pip cannot fetch it from the package index: ERROR: No matching distribution found for "
        f"ratings-archive==2.0; {ELSEWHERE}"
    )


# The stage


def test_the_stage_fetches_the_archive_and_nothing_else(project: Path, archives: dict[str, Path]) -> None:
    shutil.copy(archives["ml-1m"], project / "copy.zip")
    set_params(project, data__archive="copy.zip")  # a path relative to the project
    before = files(project)
    for _ in range(2):
        result = stage(project, "fetch")
        assert result.returncode == 0, result.stderr
        assert files(project) == before | {"data/raw/archive.zip": sha256(archives["ml-1m"])}
    assert result.stderr == "data/raw/archive.zip: already has the right checksum; data.archive is not read\n"


def test_the_stage_expects_the_release_s_own_checksum_by_default(project: Path, archives: dict[str, Path]) -> None:
    assert stage(project, "fetch").returncode == 0
    set_params(project, data__sha256=None)
    before = files(project)
    refused(
        stage(project, "fetch"),
        f"{archives['ml-1m']}: the archive's SHA-256 is {sha256(archives['ml-1m'])}, expected a6898adb50b9ca05",
        "set data.sha256 if you trust it",
        ELSEWHERE,
    )
    assert files(project) == before


@pytest.mark.usefixtures("wheel")
def test_the_stage_reports_an_index_out_of_reach(project: Path) -> None:
    set_params(project, data__dataset="ml-100k", data__archive=None, data__sha256=None)
    before = files(project)
    environment = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "1", "no_proxy": "*"}
    refused(
        stage(project, "fetch", env=environment),
        "recbole==1.2.1: pip cannot fetch it from the package index: ",
        "Connection refused",
        ELSEWHERE,
    )
    assert files(project) == before


def test_an_archive_is_checked_against_the_md5_where_nothing_else_is_known(tmp_path: Path) -> None:
    source, target = tmp_path / "source.zip", tmp_path / "target.zip"
    source.write_bytes(GOOD)
    digest = hashlib.md5(GOOD, usedforsecurity=False).hexdigest()
    assert fetch(str(source), f"md5:{digest}", target, LIMIT)
    assert not fetch(str(source), f"md5:{digest}", target, LIMIT)
    source.write_bytes(GOOD + b".")
    with pytest.raises(UserError, match=f"the archive's MD5 is .{{32}}, expected {digest[:-1]}0: it is damaged"):
        fetch(str(source), f"md5:{digest[:-1]}0", tmp_path / "other.zip", LIMIT)
    assert not (tmp_path / "other.zip").exists()
    assert {name for name, release in RELEASES.items() if release.checksum.startswith("md5:")} == {
        "ml-32m",
        "ml-100k-zip",
    }
