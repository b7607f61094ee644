"""Look for inputs that end in an uncaught exception: ``make fuzz SECONDS=300``.

Hypothesis makes and changes parameters, archives and their members, and files that pass between stages. It shrinks and
shows the first input that ends in another exception than `UserError`: fix the code and add a test with that input.
"""

import argparse
import io
import os
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pyarrow as pa
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from recommender.data.movielens import RELEASES, Release
from recommender.data.synthetic import make_ratings, write_archive
from recommender.data.tables import extract
from recommender.errors import UserError, one_line, run
from recommender.params_file import load_params
from recommender.paths import PARAMS
from recommender.ranking import fold_in
from recommender.ranking.factors import Factors
from recommender.storage import read_json, read_table, write_json, write_table

ROUND: Final = 200  # inputs of one kind in turn
Bytes = st.SearchStrategy[bytes]
Kinds = dict[str, tuple[Bytes, Callable[[Path], object]]]
PIECES: Final = (
    *(b"", b"\0", b"\n", b"\r", b"\t", b'"', b"::", b",", b"-", b"1e999", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x01\x02"),
    *(b"*a", b"&a ", b"<<: ", b"!!python/name:os.system ", b"{", b"[", b"? ", b"---\n", b".inf", b"0x", b"1_0", b"NaN"),
)
CELLS: Final = ("1", "2", "5", "0", "-1", "2147483648", "", " ", "x", '"', "é", "4.5", "nan", "\0", "\x1b[2J")


def main() -> None:
    """Fuzz for as many seconds as the command line says."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    seconds = parser.parse_args().seconds
    sys.unraisablehook = fail
    end = time.monotonic() + seconds
    counts = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        kinds = make_kinds(Path(folder))
        while time.monotonic() < end:
            for name, (inputs, read) in kinds.items():
                attempt(inputs, read, Path(folder) / "input")
                counts[name] += ROUND
    print(f"{seconds:g} s without an uncaught exception: " + ", ".join(f"{counts[name]} {name}" for name in counts))


def fail(unraisable: "sys.UnraisableHookArgs") -> NoReturn:
    """Exit at an exception that would be ignored after its traceback, as in a library's callback."""
    traceback.print_exception(unraisable.exc_value)
    os._exit(1)


def attempt(inputs: Bytes, read: Callable[[Path], object], path: Path) -> None:
    """Write `ROUND` inputs to a file and read each: that must succeed or end in one printable line."""

    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def try_input(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except UserError as error:
            assert str(error) == one_line(str(error)) != "", repr(str(error))

    try_input()


def make_kinds(folder: Path) -> Kinds:
    """Return strategies for each kind of input, and what reads it."""
    params = PARAMS.read_bytes()
    values = parameters(yaml.safe_load(params)).map(lambda made: yaml.safe_dump(made).encode())
    kinds: Kinds = {"parameter files": (mutated(params), load_params), "parameters": (values, load_params)}
    for name, release in RELEASES.items():
        path = folder / name
        write_archive(path, name, [make_ratings(6, 9, 20, scale=release.scale)], 9)
        read = partial(extract, release=release, output=folder / "ratings.parquet")
        kinds[f"archives of {name}"] = mutated(path.read_bytes()), read
        kinds[f"members of {name}"] = members(path.read_bytes(), release), read
    zeros = np.zeros(3, np.float32)
    factors = Factors(
        np.ones((3, 2), np.float32), np.ones((3, 2), np.float32), zeros, zeros, np.arange(3, dtype=np.int32)
    )
    written: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
        "factors": (factors.save, Factors.load),
        "losses": (partial(fold_in.save, fold_in.RatingLoss(100, 0.1)), fold_in.load),
        "tables": (partial(write_table, table=pa.table({"user": [1, 2], "title": ["a", "b"]})), read_table),
        "metrics": (partial(write_json, values={"map": 0.1, "users": 3}), read_json),
    }
    for name, (write, read_again) in written.items():
        write(folder / name)
        kinds[name] = mutated((folder / name).read_bytes()), read_again
    return kinds


@st.composite
def mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """Replace, remove, repeat or insert pieces of some bytes, a few times."""
    data = good
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = start + draw(st.sampled_from((0, 1, 1, 2, 4, 20, 1000)))
        piece = draw(st.binary(max_size=8) | st.just(data[start:stop] * 2) | st.sampled_from(PIECES))
        data = data[:start] + piece + data[stop:]
    return data


@st.composite
def members(draw: st.DrawFn, archive: bytes, release: Release) -> bytes:
    """Replace one member of an archive by a changed one, or by rows that are nearly right."""
    made = io.BytesIO()
    broken = draw(st.sampled_from((release.items, release.ratings)))
    with zipfile.ZipFile(io.BytesIO(archive)) as good, zipfile.ZipFile(made, "w") as bad:
        for name in (release.items, release.ratings):
            text = good.read(name)
            rows = st.lists(st.lists(st.sampled_from(CELLS), max_size=6).map(release.layout.separator.join), max_size=6)
            bad.writestr(name, draw(mutated(text) | rows.map("\n".join).map(str.encode)) if name == broken else text)
    return made.getvalue()


def parameters(good: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Replace some parameters by values of all kinds."""
    value = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates()
    anything = st.recursive(
        value, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(value, inner, max_size=3)
    )

    @st.composite
    def change(draw: st.DrawFn, section: dict[str, Any]) -> dict[Any, Any]:
        changed: dict[Any, Any] = dict(section)
        for key in draw(st.lists(st.sampled_from(sorted(section)), max_size=4)):
            inner = section[key]
            changed[key] = draw(change(inner) if isinstance(inner, dict) else anything)
        return changed | draw(st.dictionaries(value, anything, max_size=1))

    return change(good) | anything


if __name__ == "__main__":
    run(main)
