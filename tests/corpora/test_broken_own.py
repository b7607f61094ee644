"""Own files that are wrong: refused in one line with the file, the line or row, what was found and what is allowed."""

import gzip
import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recommender.paths import ARCHIVE
from stages import extract, fetch, split
from tests.conftest import Ending, set_params

HEAD = "user_id,item_id,rating,timestamp\n"
GOOD = HEAD + "u1,b1,5,978300760\nu1,b2,3,978300761\nu2,b1,4,978300762\n"
ITEMS = "item_id,title,genres\nb1,One,Crime\nb2,Two,Poetry\n"


@dataclass(frozen=True)
class Case:
    """A file of ratings, what the message about it must contain, and what else is set."""

    data: str | bytes
    words: str
    name: str = "ratings.csv"
    items: str | bytes | None = None
    own: dict[str, Any] = field(default_factory=dict)
    member: str = ""  # of a zip file


def row(text: str, words: str, **own: Any) -> Case:  # noqa: ANN401 - of the parameters
    """Return a case with this text as the third line."""
    lines = GOOD.splitlines(keepends=True)
    return Case("".join([*lines[:2], text + "\n", *lines[2:]]), f"^ratings.csv: line 3: {words}", own=own)


def parquet(words: str, name: str = "ratings.parquet", **columns: object) -> Case:
    """Return a case of a Parquet file; a column of None is left out."""
    file = io.BytesIO()
    good = {"user": [1, 2, 3], "item": ["a", "b", "c"], "rating": [1.0, 2.0, 3.0], "timestamp": [1, 2, 3]}
    pq.write_table(pa.table({key: value for key, value in (good | columns).items() if value is not None}), file)
    return Case(file.getvalue(), f"^{name}: {words}", name)


def lines_of_json(*records: object, words: str) -> Case:
    """Return a case of JSON lines, after a good one."""
    good = {"user": 1, "item": "a", "rating": 3}
    texts = [record if isinstance(record, str) else json.dumps(record) for record in (good, *records)]
    return Case("\n".join(texts) + "\n", f"^ratings.jsonl: {words}", "ratings.jsonl")


def packed(*members: tuple[str, str | bytes]) -> bytes:
    """Return a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def encrypted() -> bytes:
    """Return a zip file that says of its member that it is encrypted."""
    data = bytearray(packed(("ratings.csv", GOOD)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


def listed(items: str | bytes, words: str) -> Case:
    """Return a case with a broken list of items."""
    return Case(GOOD, f"^items.csv: {words}", items=items)


def columns(words: str, **names: object) -> Case:
    """Return a case with wrong names of columns."""
    every: dict[str, object] = dict.fromkeys(("user", "item", "rating", "timestamp", "title", "categories"))
    return Case(GOOD, f"^ratings.csv: {words}", own={"columns": every | names})


UTF16 = "UTF-8 text, JSON lines, Parquet"
TIME = "seconds or milliseconds since 1970, or an ISO date"
CASES: dict[str, Case] = {
    # The file as a whole
    "an empty file": Case("", "^ratings.csv: is empty;"),
    "only blank lines": Case("\n\n \n", "is empty"),
    "a header alone": Case(HEAD, "has no rows"),
    "a header without line end": Case(HEAD.strip(), "has no rows"),
    "a web page": Case("<html>\n<p>Sign in</p>\n", "is a web page"),
    "a JSON array": Case('[{"user": 1}]', "is a JSON array; write one object a line"),
    "a PDF file": Case(b"%PDF-1.7\n", "is a PDF file"),
    "an Excel workbook": Case(packed(("xl/workbook.xml", "<workbook/>")), "is an Excel workbook; save it as CSV"),
    "UTF-16": Case(GOOD.encode("utf-16"), f"is UTF-16; allowed are {UTF16}"),
    "UTF-16 of the other order": Case(b"\xfe\xff" + GOOD.encode("utf-16-be"), "is UTF-16"),
    "Latin-1": Case((HEAD + "é,b,3,5\n").encode("latin-1"), r"line 2: is not UTF-8 text: .*; convert the file"),
    "one column": Case("user_id\n1\n2\n", "line 1 is 'user_id', without a separator of columns"),
    "a gzip file cut off": Case(gzip.compress(GOOD.encode() * 100)[:-30], "cannot be read"),
    "a gzip file with a wrong byte": Case(b"\x1f\x8b" + GOOD.encode(), "cannot be read"),
    "a zip file cut off": Case(packed(("ratings.csv", GOOD))[:-30], "cannot be read"),
    "an encrypted zip file": Case(encrypted(), "is encrypted; pack it without a password"),
    "a zip file of two": Case(packed(("a.csv", GOOD), ("b.csv", GOOD)), "has 2 members: a.csv, b.csv; name one of"),
    "a zip file of none": Case(packed(), "is an empty zip file"),
    "a zip file without that member": Case(
        packed(("a.csv", GOOD)), "has 0 members of that name: a.csv; name one", "r.zip", member="#b.csv"
    ),
    # Lines
    "a column too few": row("u3,b1,5", r"has 3 columns where 4 are expected, separated by ',': 'u3,b1,5'"),
    "a column too many": row("u3,b1,5,6,7", "has 5 columns where 4 are expected"),
    "a comma without quotes": row("u3,b,1,5,6", "has 5 columns where 4 are expected"),
    "an open quote": row('u3,"b1,5,6', "(a quote is opened|item runs over|has )"),
    "an open quote at the end": Case(GOOD + 'u3,b3,5,"9\n', "line 5: a quote is opened and not closed"),
    "a quote over lines in an id": row('u3,"b\n1",5,6', r"item runs over the end of the line; is a quote not closed\?"),
    "a second header": row(HEAD.strip(), "rating must be a number; found 'rating'"),
    "a comment": row("# more", "has 1 columns where 4 are expected"),
    "a line of spaces": row("   ", "has 1 columns"),
    "semicolons in one line": row("u3;b1;5;6", "has 1 columns"),
    # Ids
    "no user": row(",b1,5,6", "user is empty"),
    "no item": row("u3,,5,6", "item is empty"),
    "an id over the limit": row(f"u3,{'b' * 1001},5,6", "item is longer than 1000 characters: 'bbb"),
    "ids of numbers with decimals": parquet("row 1: user is 1.5, of type double; ids are whole", user=[1.5, 2.0, 3.0]),
    "ids that are dates": parquet("row 1: user is .*, of type timestamp", user=pa.array([1, 2, 3], pa.timestamp("s"))),
    "ids that are true or false": parquet("row 1: item is True, of type bool", item=[True, False, True]),
    "ids that are bytes": parquet("row 1: item is .*, of type binary", item=[b"a", b"b", b"c"]),
    "a missing id in Parquet": parquet("row 2: item is missing", item=["a", None, "c"]),
    # Ratings
    "a rating in words": row("u3,b1,good,6", "rating must be a number; found 'good'"),
    "no rating": row("u3,b1,,6", "rating must be a number; found ''"),
    "a decimal comma": row('u3,b1,"3,5",6', "rating must be a number; found '3,5'"),
    "a rating that is not a number": row("u3,b1,nan,6", "rating is nan; ratings are finite numbers"),
    "an infinite rating": row("u3,b1,-inf,6", "rating is -inf; ratings are finite numbers"),
    "a rating too large": row("u3,b1,1e39,6", "rating is 1e39; ratings are finite numbers"),
    "a rating with a unit": row("u3,b1,5 stars,6", ".*found '5 stars'"),
    "a rating in full-width digits": row("u3,b1,５,6", "rating must be a number"),  # noqa: RUF001
    "a rating below the scale": row("u3,b1,0,6", "rating is 0; ratings are 1 to 5, by data.own.scale", scale=[1, 5]),
    "a rating above the scale": row("u3,b1,5.5,6", "rating is 5.5; ratings are 1 to 5", scale=[1, 5]),
    "a missing rating in Parquet": parquet("row 3: rating is missing", rating=[1.0, 2.0, None]),
    "ratings that are true or false": parquet("row 1: rating must be a number", rating=[True, True, False]),
    "ratings that are dates": parquet("row 1: rating must be", rating=pa.array([1, 2, 3], pa.date32())),
    "ratings that are lists": parquet("row 1: rating must be a number", rating=[[1], [2], [3]]),
    # Times
    "no time": row("u3,b1,5,", f"timestamp must be {TIME}.*; found ''"),
    "a time in words": row("u3,b1,5,yesterday", ".*found 'yesterday'"),
    "a date among seconds": row("u3,b1,5,2004-05-06", ".*found '2004-05-06'"),
    "a date of another order": Case(HEAD + "u,b,5,06/05/2004\n", "line 2: timestamp must be .* found '06/05/2004'"),
    "a day that does not exist": Case(HEAD + "u,b,5,2004-05-06\nu,c,5,2004-02-30\n", "line 3: .* found '2004-02-30'"),
    "seconds among dates": Case(HEAD + "u,b,5,2004-05-06\nu,c,5,978300760\n", "line 3: .* found '978300760'"),
    "a negative time": row("u3,b1,5,-1", f"timestamp is -1; timestamps are {TIME}.*, from 1970 on"),
    "a date before 1970": Case(HEAD + "u,b,5,1969-12-31\n", "line 2: timestamp is 1969-12-31; .*from 1970 on"),
    "nanoseconds": row("u3,b1,5,978300760000000000", "timestamp is 978300760000000000; timestamps are"),
    "a time that is not a number": row("u3,b1,5,nan", "timestamp is nan"),
    "a date of Parquet before 1970": parquet("row 1: timestamp is", timestamp=pa.array([-9, 2, 3], pa.timestamp("s"))),
    # Columns
    "a column twice": Case("user,item,user\n1,2,3\n", "two columns are called 'user'; set data.own.columns.user"),
    "a rating twice": Case("user,item,rating,Rating\n1,2,3,4\n", "two columns are called 'rating'"),
    "no column for the user": Case("who,item_id,rating\nu,b,5\n", "no column for the user is found among who, item_id"),
    "no column for the item": Case("user_id,what,rating\nu,b,5\n", 'item .*; set data.own.columns.item, or COLUMNS="i'),
    "names or values": Case("a,b\nc,d\n", "line 1 is 'a,b': names of columns or values"),
    "a column that is missing": columns(
        "data.own.columns.user is 'reader', but there is no such column", user="reader"
    ),
    "a column by a large number": columns("data.own.columns.item is 9, but there is no such column: ", item=9),
    "one column for two": columns("column 'user_id' cannot be the .* and something else", user=1, item="user_id"),
    "a name without a header": Case(
        "1,2,3\n4,5,6\n", "there is no such column: 1, 2, 3", own={"columns": columns("", user="reader").own["columns"]}
    ),
    "a wrong separator": Case(GOOD, "line 1 is .*, without ';'; set", own={"separator": ";"}),
    "values as names": Case("1,2,3\n4,5,6\n", "no column for the user is found among 1, 2, 3", own={"header": True}),
    "names as values": Case(GOOD, "line 1: rating must be a number; found 'rating'", own={"header": False}),
    # Duplicates
    "a pair twice": Case(GOOD + "u1,b1,2,9\n", "1 ratings repeat .*: user u1 and item b1 on line 2, line 5"),
    "a pair three times": Case(GOOD + "u1,b1,1,1\nu1,b1,2,2\n", "2 ratings repeat .*: user u1 and item b1 on line 2, "),
    # JSON lines
    "no JSON": lines_of_json("{'user': 1}", words="line 2: is not JSON"),
    "JSON of another kind": lines_of_json("[1, 2]", words="line 2: is not a JSON object"),
    "JSON cut off": lines_of_json('{"user": 1, "ite', words="line 2: is not JSON"),
    "a number among texts in JSON": lines_of_json(
        {"user": 1, "item": 7, "rating": 3}, words="line 2: item is 7, of another type than in the lines before"
    ),
    "a text among numbers in JSON": lines_of_json({"user": "x", "item": "b", "rating": 3}, words="line 2: user is 'x'"),
    "a missing id in JSON": lines_of_json({"item": "b", "rating": 3}, words="line 2: user is missing"),
    "a rating in words in JSON": lines_of_json({"user": 2, "item": "b", "rating": "x"}, words="line 2: rating is 'x'"),
    # Parquet
    "Parquet cut off": Case(parquet("").data[:-20], "^r.parquet: cannot be read", "r.parquet"),
    "Parquet that is text": Case(b"PAR1" + GOOD.encode(), "^r.parquet: cannot be read", "r.parquet"),
    "Parquet without a user": parquet("no column for the user is found among item, rating, timestamp", user=None),
    "Parquet without rows": parquet("has no rows", user=[], item=[], rating=[], timestamp=[]),
    # Items
    "an empty list": listed("", "is empty"),
    "a list of nothing": listed("item_id,title\n", "has no rows"),
    "an item listed twice": listed(ITEMS + "b1,Again,Crime\n", "line 4: item b1 is listed a second time"),
    "an item without id": listed(ITEMS + ",Nameless,Crime\n", "line 4: item is empty"),
    "a list without ids": listed("title,genres\nOne,Crime\n", "no column for the item is found among title, genres"),
    "a comma in a title": listed(ITEMS + "b3,Three, or four,Crime\n", "line 4: has 4 columns where 3 are expected"),
    "a title over lines": listed(ITEMS + 'b3,"Three\nfour",Crime\n', "line 4: the title runs over the end of the line"),
    "an open quote in a title": listed(ITEMS + 'b3,"Three,Crime\n', "line 4: has 2 columns .* is a quote not closed"),
    "a list in Latin-1": listed((ITEMS + "b3,Amélie,x\n").encode("latin-1"), "line 4: is not UTF-8 text"),
}


def place(workspace: Path, case: Case) -> None:
    """Write a case's files and set the parameters, with checksums."""
    values: dict[str, Any] = {"data__dataset": "own"}
    for key, name, data in (("sha256", case.name, case.data), ("items_sha256", "items.csv", case.items)):
        if data is not None:
            path = workspace / name
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
            values[f"data__own__{key}"] = hashlib.sha256(path.read_bytes()).hexdigest()
            values[f"data__own__{'ratings' if key == 'sha256' else 'items'}"] = name + case.member
    set_params(workspace, **values, **{f"data__own__{key}": value for key, value in case.own.items()})


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_refused(workspace: Path, ending: Ending, case: Case) -> None:
    place(workspace, case)
    fetch.main()
    message = ending(extract.main)
    assert re.search(case.words, message), message
    assert len(message) < 400


def test_a_good_file_is_not_refused(workspace: Path) -> None:
    place(workspace, Case(GOOD, "", items=ITEMS))
    fetch.main()
    extract.main()


# Fetching


def test_a_file_without_a_checksum(workspace: Path, ending: Ending) -> None:
    place(workspace, Case(GOOD, ""))
    set_params(workspace, data__own__sha256=None)
    found = hashlib.sha256(GOOD.encode()).hexdigest()
    assert ending(fetch.main).startswith(
        f"ratings.csv: its SHA-256 is {found}; set data.own.sha256 to it, or run `make"
    )


def test_a_file_that_has_changed(workspace: Path, ending: Ending) -> None:
    place(workspace, Case(GOOD, ""))
    fetch.main()
    before = ARCHIVE.read_bytes()
    Path("ratings.csv").write_text(GOOD + "u9,b9,1,1\n")
    message = ending(fetch.main)
    for text in (GOOD, GOOD + "u9,b9,1,1\n"):
        assert hashlib.sha256(text.encode()).hexdigest() in message
    assert "`make own` with the same arguments accepts the file as it is now" in message
    assert ARCHIVE.read_bytes() == before


def test_a_list_that_has_changed(workspace: Path, ending: Ending) -> None:
    place(workspace, Case(GOOD, "", items=ITEMS))
    Path("items.csv").write_text(ITEMS + "b9,Nine,x\n")
    assert "data.own.items_sha256 is " in ending(fetch.main)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/no/such/file.csv", "^data.own.ratings: /no/such/file.csv: no such file; "),
        ("ftp://example.org/ratings.csv", "ftp:// is not supported"),
        ("http://[::1/ratings.csv", "is not a URL"),
        ("/proc", "is a folder, not a file"),
        ("http://localhost:9/ratings.csv", "cannot be fetched after 4 attempts"),
    ],
    ids=["no such file", "another protocol", "no URL", "a folder", "no server"],
)
def test_a_source(workspace: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch, source: str, words: str) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    place(workspace, Case(GOOD, ""))
    set_params(workspace, data__own__ratings=source)
    notes = ["trying again"] * 3 if "localhost" in source else []
    message = ending(fetch.main, *notes)
    assert re.search(words, message), message
    assert "data.archive" not in message


def test_a_source_that_is_gone_is_not_needed_again(workspace: Path) -> None:
    place(workspace, Case(GOOD, "", items=ITEMS))
    fetch.main()
    before = ARCHIVE.read_bytes()
    Path("ratings.csv").unlink()
    fetch.main()
    assert ARCHIVE.read_bytes() == before


def test_another_archive_is_in_place_of_the_files(workspace: Path, ending: Ending) -> None:
    place(workspace, Case(GOOD, ""))
    ARCHIVE.parent.mkdir(parents=True)
    ARCHIVE.write_bytes(packed(("ml-1m/ratings.dat", GOOD)))
    assert "does not contain ratings/ratings.csv" in ending(extract.main)


# Filters and degenerate data


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"data__min_ratings": {"user": 3, "item": 0}}, "data.min_ratings removes 3"),
        ({"data__min_ratings": {"user": 0, "item": 9}}, "data.min_ratings removes 3"),
        ({"data__min_rating_value": 6}, "data.min_rating_value removes 3"),
        (
            {"data__min_rating_value": 4, "data__min_ratings": {"user": 2, "item": 0}},
            "value removes 1 and .* removes 2",
        ),
    ],
    ids=["few by users", "few of items", "low values", "both"],
)
def test_filters_that_leave_nothing(workspace: Path, ending: Ending, filters: dict[str, Any], words: str) -> None:
    place(workspace, Case(GOOD, ""))
    set_params(workspace, **filters)
    fetch.main()
    extract.main()
    message = ending(split.main)
    assert re.search(words, message), message


@pytest.mark.parametrize(
    "data", [HEAD + "u,b,5,1\n", HEAD + "u,b,5,1\nu,c,5,1\n"], ids=["one rating", "two ratings, where test has none"]
)
def test_too_few_ratings_to_split(workspace: Path, ending: Ending, data: str) -> None:
    place(workspace, Case(data, ""))
    set_params(workspace, split__test_size=0.1 if data.count("\n") == 2 else 0.999)
    fetch.main()
    extract.main()
    assert "leaves one of the parts empty" in ending(split.main)


def test_a_rating_model_on_implicit_data(workspace: Path, ending: Ending) -> None:
    from stages import train  # loads TensorFlow

    place(workspace, Case("".join(f"{user}\t{item}\n" for user in range(5) for item in range(5)), ""))
    for stage in (fetch, extract, split):
        stage.main()
    assert "train.model: mf predicts ratings, but all ratings are the same" in ending(train.main)


def test_a_file_that_cannot_be_read(workspace: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    place(workspace, Case(GOOD, ""))
    monkeypatch.setattr(hashlib, "file_digest", refuse)
    assert ending(fetch.main) == "ratings.csv: cannot be read: Permission denied; give the path of a file with ratings"
