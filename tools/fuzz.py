"""Look for inputs that end in anything but a result or one line: ``make fuzz SECONDS=300``.

Hypothesis makes and mutates parameters, archives, their members and what passes between stages. The first input that
ends in another exception than `UserError` is shrunk and shown; it belongs into the tests, and the mistake mended.
"""

import argparse
import io
import os
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.synthetic import make_ratings, write_archive
from stages.extract import extract
from stages.lib.errors import UserError, one_line, run
from stages.lib.factors import Factors
from stages.lib.params import PATH, load_params
from stages.lib.releases import RELEASES
from stages.lib.storage import read_json, read_table, write_table

ROUND = 200  # inputs of one kind before the next kind has its turn
Target = Callable[[], None]


def main() -> None:
    """Fuzz for the seconds that the command line gives."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    seconds = parser.parse_args().seconds
    sys.unraisablehook = fail
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        kinds = targets(Path(folder))
        counts = dict.fromkeys(kinds, 0)
        while time.monotonic() < end:
            for name, target in kinds.items():
                target()
                counts[name] += ROUND
    made = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{seconds:g} s without an uncaught exception: {made}")


def fail(unraisable: "sys.UnraisableHookArgs") -> NoReturn:
    """End at an exception that a library's callback swallows after showing a traceback."""
    traceback.print_exception(unraisable.exc_value)
    os._exit(1)


def told(action: Callable[[], object]) -> None:
    """Run something that may refuse its input, in one printable line."""
    try:
        action()
    except UserError as error:
        message = str(error)
        assert message, "an empty message"  # noqa: S101 - a fuzzer asserts
        assert message == one_line(message), message  # noqa: S101


def targets(folder: Path) -> dict[str, Target]:
    """Make what is fuzzed, each a function that tries `ROUND` inputs.

    Args:
        folder: for the inputs.

    Returns:
        The functions by what they try.
    """
    path = folder / "input"
    archives = {name: archive(folder, name) for name in RELEASES}
    names = st.sampled_from(sorted(RELEASES))
    params = PATH.read_text(encoding="utf-8")
    written = between_stages(folder)

    @fuzzed
    @given(mutated(params.encode()))
    def parameter_files(data: bytes) -> None:
        path.write_bytes(data)
        told(lambda: load_params(path))

    @fuzzed
    @given(parameters(yaml.safe_load(params)))
    def parameters_of_other_values(values: Any) -> None:  # noqa: ANN401 - whatever YAML can hold
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        told(lambda: load_params(path))

    @fuzzed
    @given(names, st.data())
    def archives_with_wrong_bytes(name: str, data: st.DataObject) -> None:
        path.write_bytes(data.draw(mutated(archives[name])))
        told(lambda: extract(path, RELEASES[name]))

    @fuzzed
    @given(names, st.data())
    def members(name: str, data: st.DataObject) -> None:
        release = RELEASES[name]
        with zipfile.ZipFile(io.BytesIO(archives[name])) as good:
            texts = {member: good.read(member) for member in (release.movies, release.ratings)}
        broken = data.draw(st.sampled_from(sorted(texts)))
        texts[broken] = data.draw(mutated(texts[broken]) | lines(release.layout.separator))
        with zipfile.ZipFile(path, "w") as bad:
            for member, text in texts.items():
                bad.writestr(member, text)
        told(lambda: extract(path, release))

    @fuzzed
    @given(st.sampled_from(sorted(written)), st.data())
    def damaged_outputs(name: str, data: st.DataObject) -> None:
        path.write_bytes(data.draw(mutated(written[name])))
        readers: dict[str, Callable[[Path], object]] = {"npz": Factors.load, "parquet": read_table, "json": read_json}
        told(lambda: readers[name](path))

    kinds = (parameter_files, parameters_of_other_values, archives_with_wrong_bytes, members, damaged_outputs)
    return {kind.__name__.replace("_", " "): kind for kind in kinds}


def fuzzed(test: Callable[..., None]) -> Target:
    """Let a property try `ROUND` new inputs whenever it is called."""
    name = test.__name__
    configured: Target = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(test)
    configured.__name__ = name
    return configured


def archive(folder: Path, name: str) -> bytes:
    """Give a small archive as a release lays it out."""
    users, movies, ratings = make_ratings(6, 9, 20, scale=RELEASES[name].scale)
    write_archive(folder / "good.zip", name, users, movies, ratings, 9)
    return (folder / "good.zip").read_bytes()


def between_stages(folder: Path) -> dict[str, bytes]:
    """Give one file of each kind that passes between stages."""
    paths = {kind: folder / f"good.{kind}" for kind in ("npz", "parquet", "json")}
    zeros = np.zeros(3, np.float32)
    Factors(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32), zeros, zeros, np.arange(3, dtype=np.int32)).save(
        paths["npz"]
    )
    write_table(paths["parquet"], pa.table({"user": [1, 2], "title": ["a", "b"]}))
    paths["json"].write_text('{"map": 0.1, "users": 3}')
    return {kind: path.read_bytes() for kind, path in paths.items()}


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


PIECES: tuple[bytes, ...] = (
    b"",
    b"\0",
    b"\n",
    b"\r",
    b"\t",
    b'"',
    b"::",
    b",",
    b"-",
    b"1e999",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"PK\x01\x02",
    b"*a",
    b"&a ",
    b"<<: ",
    b"!!python/name:os.system ",
    b"{",
    b"[",
    b"? ",
    b"---\n",
    b".inf",
    b"0x",
    b"1_0",
    b"NaN",
)


def lines(separator: str) -> st.SearchStrategy[bytes]:
    """Give texts of rows that are nearly right."""
    value = st.sampled_from(
        ["1", "2", "5", "0", "-1", "2147483648", "", " ", "x", '"', "é", "4.5", "nan", "\0", "\x1b[2J"]
    )
    row = st.lists(value, max_size=6).map(separator.join)
    return st.lists(row, max_size=6).map(lambda rows: "\n".join(rows).encode())


def parameters(good: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Give parameters with values of all kinds in place of some."""
    value = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates()
    anything = st.recursive(
        value, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(value, inner, max_size=3)
    )

    @st.composite
    def change(draw: st.DrawFn, section: dict[str, Any]) -> dict[Any, Any]:
        changed = dict(section)
        for key in draw(st.lists(st.sampled_from(sorted(section)), max_size=4)):
            inner = section[key]
            changed[key] = draw(change(inner) if isinstance(inner, dict) else anything)
        return changed | draw(st.dictionaries(value, anything, max_size=1))

    return change(good) | anything


if __name__ == "__main__":
    run(main)
