"""Archives that are malicious, damaged or packed differently: refused in one line, or read like any other."""

import dataclasses
import io
import os
import re
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from recommender.data.movielens import RELEASES
from recommender.errors import UserError
from recommender.paths import ARCHIVE, LISTED_ITEMS
from recommender.paths import RATINGS as RATINGS_PATH
from recommender.storage import read_table
from stages import extract as stage
from tests.conftest import Ending, files
from tests.samples import ITEM_ROWS, ITEM_TEXT, RATING_ROWS, RATING_TEXT, extracted, pack, rows

ITEMS, RATINGS = "ml-1m/movies.dat", "ml-1m/ratings.dat"
TEXTS = {ITEMS: ITEM_TEXT["ml-1m"].encode("latin-1"), RATINGS: RATING_TEXT["ml-1m"].encode("latin-1")}
CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def renamed(**names: str) -> bytes:
    """Return an archive with some members under other names; "" omits one."""
    wanted = {ITEMS: names.get("items", ITEMS), RATINGS: names.get("ratings", RATINGS)}
    return zipped(*((wanted[name], data) for name, data in TEXTS.items() if wanted[name]))


def good(method: int = zipfile.ZIP_DEFLATED) -> bytes:
    return zipped(*TEXTS.items(), method=method)


def patched(archive: bytes, **fields: int) -> bytes:
    """Change fields of the last member, in the list of members and before the data."""
    places = {"flags": (8, 6, "<H"), "method": (10, 8, "<H"), "size": (24, 22, "<I"), "version": (6, 4, "<H")}
    data = bytearray(archive)
    for name, value in fields.items():
        central, local, form = places[name]
        struct.pack_into(form, data, data.rindex(CENTRAL) + central, value)
        struct.pack_into(form, data, data.rindex(LOCAL) + local, value)
    return bytes(data)


def flipped(archive: bytes, position: int, mask: int = 0x10) -> bytes:
    return archive[:position] + bytes([archive[position] ^ mask]) + archive[position + 1 :]


def many(count: int) -> bytes:
    """Return an archive that lists a member many times."""
    listed = zipped(("a", b""))
    start = listed.index(CENTRAL)
    entry = listed[start : listed.index(b"PK\x05\x06")]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(entry) * count, start, 0)
    return listed[:start] + entry * count + end


def link() -> bytes:
    member = zipfile.ZipInfo(RATINGS)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped((ITEMS, TEXTS[ITEMS]), (member, b"/etc/passwd"))


def twice() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped(*TEXTS.items(), (RATINGS, b"1::1::5::9\n"))


def overlapping() -> bytes:
    """Return an archive whose list has both members start at the same place."""
    data = bytearray(good())
    struct.pack_into("<I", data, data.rindex(CENTRAL) + 42, 0)
    return bytes(data)


def name_that_is_not_text() -> bytes:
    return patched(good().replace(b"ml-1m/ratings", b"ml-1m/\xff\xfetings"), flags=0x800)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb that declares its size": (lambda: patched(good(), size=2**32 - 2), "unpacks to 4294967294 bytes"),
    "a bomb that hides its size": (
        lambda: patched(zipped((ITEMS, TEXTS[ITEMS]), (RATINGS, bytes(10**6))), size=9),
        "CRC",
    ),
    "more members than any release has": (lambda: many(10_001), "has 10001 members, more than 10000"),
    "members without end": (lambda: many(200_000), "list of members is far too long"),
    "a member that is a link": (link, "is a link, not a file"),
    "a member that is there twice": (twice, "contains ml-1m/ratings.dat 2 times"),
    "a second name behind a NUL": (
        lambda: zipped(*TEXTS.items(), ("ml-1m/ratings.dat+evil", b"")).replace(b"dat+evil", b"dat\0evil"),
        "contains ml-1m/ratings.dat 2 times|differ",
    ),
    "an encrypted member": (lambda: patched(good(), flags=1), "is encrypted; pack it without a password"),
    "bzip2": (lambda: good(zipfile.ZIP_BZIP2), "is compressed by an unusual method; use deflate"),
    "lzma": (lambda: good(zipfile.ZIP_LZMA), "is compressed by an unusual method; use deflate"),
    "an unknown method": (lambda: patched(good(), method=99), "is compressed by an unusual method; use deflate"),
    "an unknown version": (lambda: patched(good(), version=99), "zip file version 9.9"),
    "overlapping members": (overlapping, "cannot be read as a zip archive"),
    "a name that is not text": (name_that_is_not_text, "cannot be read as a zip archive"),
    "members above the folder": (
        lambda: renamed(items=f"../{ITEMS}", ratings=f"../{RATINGS}"),
        "has no member ml-1m/movies.dat but ../ml-1m/movies.dat",
    ),
    "members with absolute paths": (
        lambda: renamed(items=f"/{ITEMS}", ratings=f"/{RATINGS}"),
        "has no member ml-1m/movies.dat but /ml-1m/movies.dat",
    ),
    "members in another folder": (
        lambda: renamed(ratings=f"MovieLens/{RATINGS}"),
        "has no member ml-1m/ratings.dat but MovieLens/ml-1m/ratings.dat",
    ),
    "members in no folder": (lambda: renamed(items="movies.dat"), "has no member ml-1m/movies.dat but movies.dat: "),
    "members in capitals": (lambda: renamed(ratings="ML-1M/RATINGS.DAT"), "ratings.dat but ML-1M/RATINGS.DAT: "),
    "no ratings": (lambda: renamed(ratings=""), "has no member ml-1m/ratings.dat;"),
    "no movies": (lambda: renamed(items=""), "has no member ml-1m/movies.dat;"),
    "no members": (zipped, "has no member ml-1m/movies.dat;"),
    "a folder in place of a member": (lambda: renamed(ratings=f"{RATINGS}/"), "has no member ml-1m/ratings.dat;"),
    "a zip in a zip": (lambda: zipped(("ml-1m.zip", good())), "has no member ml-1m/movies.dat;"),
    "an archive cut short": (lambda: good()[:-30], "cannot be read as a zip archive"),
    "an archive cut at the start": (lambda: good()[40:], "cannot be read as a zip archive"),
    "a wrong bit in packed data": (lambda: flipped(good(), good().index(b"ratings.dat") + 40), "cannot be read"),
    "a wrong bit in stored data": (
        lambda: flipped(good(zipfile.ZIP_STORED), good(zipfile.ZIP_STORED).index(b"9::3")),
        "Bad CRC-32",
    ),
    "a gzip file": (lambda: b"\x1f\x8b\x08" + bytes(100), "looks like a gzip file"),
    "a 7z archive": (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(100), "looks like a 7z archive"),
    "a RAR archive": (lambda: b"Rar!\x1a\x07" + bytes(100), "looks like a RAR archive"),
    "a web page": (lambda: b"\n<!DOCTYPE html><title>Sign in</title>", "looks like a web page"),
    "ratings without an archive": (lambda: TEXTS[RATINGS], "File is not a zip file"),
    "the start of an archive": (lambda: LOCAL + bytes(100), "File is not a zip file"),
    "nothing": (bytes, "File is not a zip file"),
    "zeros": (lambda: bytes(10_000), "File is not a zip file"),
}


def put(workspace: Path, archive: bytes) -> None:
    """Put an archive where fetch would, and tables where an earlier run would have."""
    for path, data in ((ARCHIVE, archive), (RATINGS_PATH, b"earlier"), (LISTED_ITEMS, b"earlier")):
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_bytes(data)


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(workspace: Path, ending: Ending, make: Callable[[], bytes], words: str) -> None:
    put(workspace, make())
    message = ending(stage.main)
    assert message.startswith("data/raw/archive.zip: ")
    assert re.search(words, message), message


def test_the_archive_of_another_release(workspace: Path, ending: Ending) -> None:
    put(workspace, pack(workspace / "a.zip", "ml-100k").read_bytes())
    assert "has no member ml-1m/movies.dat; is the archive the one that data.dataset names?" in ending(stage.main)


def test_a_size_over_the_limit_of_the_release(workspace: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RELEASES, "ml-1m", dataclasses.replace(RELEASES["ml-1m"], size=2))
    put(workspace, good())
    assert "ml-1m/movies.dat unpacks to 90 bytes, and at most 80 are allowed; is the" in ending(stage.main)


def test_a_folder_in_place_of_the_archive(workspace: Path, ending: Ending) -> None:
    (workspace / ARCHIVE).mkdir(parents=True)
    assert "Is a directory" in ending(stage.main)


@pytest.mark.usefixtures("workspace")
def test_no_archive(ending: Ending) -> None:
    assert ending(stage.main) == "data/raw/archive.zip: not found; run `dvc repro` to fetch it"


def test_what_is_unpacked_is_bounded_by_what_is_declared(tmp_path: Path) -> None:
    bomb = zipped((ITEMS, TEXTS[ITEMS]), (RATINGS, bytes(60 * 2**20)))
    assert len(bomb) < 100_000
    for name, archive in (("declared", patched(bomb, size=2**30)), ("hidden", patched(bomb, size=1000))):
        (tmp_path / name).write_bytes(archive)
        tracemalloc.start()
        try:
            with pytest.raises(UserError):
                extracted(tmp_path / name, "ml-1m")
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        finally:
            tracemalloc.stop()


def test_an_archive_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole, path = good(), tmp_path / "a.zip"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cannot be read as a zip archive .*; delete it and run `dvc repro`"):
            extracted(path, "ml-1m")


@pytest.mark.parametrize("mask", [0x01, 0x41, 0xFF])
def test_an_archive_with_a_wrong_byte_anywhere_is_refused_or_read_right(tmp_path: Path, mask: int) -> None:
    whole, path, refusals = good(), tmp_path / "a.zip", 0
    for position in range(len(whole)):
        path.write_bytes(flipped(whole, position, mask))
        try:
            ratings, items = extracted(path, "ml-1m")
        except UserError:  # any other exception fails the test
            refusals += 1
        else:
            assert rows(ratings) == RATING_ROWS
            assert rows(items) == ITEM_ROWS
    assert refusals > len(whole) // 2


def neighbours() -> bytes:
    """Return an archive with everything bad beside the right members: none of it is ever unpacked."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped(
            *TEXTS.items(),
            ("../../outside", b"evil"),
            ("/tmp/outside", b"evil"),  # noqa: S108 - that is the attack
            ("ml-1m/README", b"1"),
            ("ml-1m/README", b"2"),
            ("ml-1m/users.dat", bytes(10**6)),
        )


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "stored": lambda: good(zipfile.ZIP_STORED),
    "in the other order": lambda: zipped(*reversed(TEXTS.items())),
    "after a program": lambda: b"#!/bin/sh\n" + good(),
    "with a comment": lambda: good()[:-2] + b"\x05\x00hello",
    "with bad neighbours": neighbours,
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED)
def test_harmless(workspace: Path, tmp_path: Path, make: Callable[[], bytes]) -> None:
    put(workspace, make())
    before = set(files(tmp_path))
    stage.main()
    assert rows(read_table(RATINGS_PATH)) == RATING_ROWS
    assert rows(read_table(LISTED_ITEMS)) == ITEM_ROWS
    assert set(files(tmp_path)) == before
    assert not os.path.lexists("/tmp/outside")  # noqa: S108
