"""Two reproductions are compared: what differs between the machines, and the first output that differs, to the cell."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recommender import paths
from recommender.errors import run
from recommender.storage import write_arrays, write_csv, write_json, write_text
from tools import verify
from tools.verify import Reproduction

LOCK = {
    "stages": {stage: {"outs": []} for stage in paths.STAGES}
    | {
        "split": {"outs": [{"path": "data/processed"}, {"path": "metrics/split.json"}]},
        "train": {"outs": [{"path": "metrics/history.csv"}, {"path": "models/factors.npz"}]},
        "report": {"outs": [{"path": "reports/index.html"}]},
    }
}
OUTPUTS = ["data/processed/a.csv", "data/processed/inside/b.csv", "metrics/split.json", "metrics/history.csv"]
OUTPUTS += ["models/factors.npz", "reports/index.html"]
Change = Callable[[], None]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write the outputs of a run, with one of them changed; NAME.json records them and the folder NAME keeps them."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, change: Change = lambda: None, **recorded: Any) -> None:  # noqa: ANN401 - fields of a record
        for part in ("a", "inside/b"):
            write_csv(Path(f"data/processed/{part}.csv"), {"rating": np.array([3, 5])})
        write_json(paths.SPLIT_METRICS, {"users": 9})
        write_csv(paths.HISTORY, {"loss": np.array([1.5, 1.25])})
        write_arrays(paths.FACTORS, {"item_bias": np.zeros(3, np.float32)})
        write_text(paths.REPORT, "<title>MovieLens</title>\n")
        change()
        fields = {
            "commit": "c0ffee",
            "as_committed": True,
            "lock": "0" * 64,
            "outputs": list(verify.outputs(Path(), LOCK)),
            "machine": {"processor": "one", "features": ["X86_V3"]},
            "versions": {"numpy": "2.4.6"},
            "began": "2026-01-01T00:00:00+00:00",
            "seconds": 60,
        }
        reproduction = Reproduction.model_validate(fields | recorded)
        write_json(Path(f"{name}.json"), reproduction.model_dump())
        verify.keep(reproduction, Path(), Path(name))

    return write


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["verify", *arguments])
    run(verify.main)


COMPARED = ("a.json", "b.json", "--cache", "a", "--cache", "b")


def test_outputs_are_every_file_in_the_order_of_the_stages(make: Callable[..., None]) -> None:
    make("a")
    assert [output.path for output in verify.read(Path("a.json")).outputs] == OUTPUTS


def test_equal_outputs_are_equal_whatever_the_machine_which_is_shown(
    make: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a")
    make("b", machine={"processor": "another", "features": ["X86_V4"]}, versions={"numpy": "2.4.7", "h5py": "3"})
    call(monkeypatch, *COMPARED)
    assert capsys.readouterr().out.splitlines() == [
        "machine.features: ['X86_V3'] and ['X86_V4']",
        "machine.processor: one and another",
        "versions.numpy: 2.4.6 and 2.4.7",
        "versions.h5py: None and 3",
        "equal: 6 outputs of all stages, byte for byte",
    ]


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (
            lambda: write_csv(Path("data/processed/inside/b.csv"), {"rating": np.array([5, 3])}),
            "stage split, output data/processed/inside/b.csv: rating[0]: '3' and '5'",
        ),
        (
            lambda: write_json(paths.SPLIT_METRICS, {"users": 8}),
            "stage split, output metrics/split.json: users: 9 and 8",
        ),
        (
            lambda: write_csv(paths.HISTORY, {"loss": np.array([1.5, 1.250001])}),
            "stage train, output metrics/history.csv: loss[1]: '1.250000' and '1.250001'",
        ),
        (
            lambda: write_arrays(paths.FACTORS, {"item_bias": np.array([0, 0, 1e-9], np.float32)}),
            "stage train, output models/factors.npz: item_bias[2]: 0.0 and 1e-09",
        ),
        (
            lambda: write_text(paths.REPORT, "<title>Other</title>\n"),
            "stage report, output reports/index.html: byte 7: b'MovieLens</title>\\n' and b'Other</title>\\n'",
        ),
    ],
)
def test_the_first_difference_is_named_to_the_cell(
    change: Change,
    first: str,
    make: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make("a")
    make("b", change)
    with pytest.raises(SystemExit):
        call(monkeypatch, *COMPARED)
    output, errors = capsys.readouterr()
    assert output == f"first difference: {first}\n"
    assert errors.startswith("error: a.json and b.json differ in 1 of 6 outputs: ")
    with pytest.raises(SystemExit):
        call(monkeypatch, *COMPARED[:2])
    assert capsys.readouterr().out == f"first difference: {first.split(': ')[0]}\n"


def test_the_first_stage_comes_first_and_an_output_of_one_alone_is_named(
    make: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def change() -> None:
        write_json(paths.SPLIT_METRICS, {"users": 8})
        write_text(paths.REPORT, "")
        Path("data/processed/a.csv").unlink()

    make("a")
    make("b", change, commit="decaf")
    with pytest.raises(SystemExit):
        call(monkeypatch, *COMPARED)
    output, errors = capsys.readouterr()
    assert output == (
        "commit: c0ffee and decaf\nfirst difference: stage split, output data/processed/a.csv: only in a.json\n"
    )
    assert "differ in 3 of 6 outputs: data/processed/a.csv, metrics/split.json, reports/index.html; " in errors


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda: Path("b.json").unlink(),
            "b.json: cannot be read as what `make verify` writes: [Errno 2] No such file",
        ),
        (lambda: Path("b.json").write_bytes(b"\xff"), "b.json: cannot be read as what `make verify` writes: "),
        (lambda: Path("b.json").write_text('{"commit": 1}'), "b.json: cannot be read as what `make verify` writes: "),
        (lambda: kept("b").unlink(), "b: metrics/split.json, in files/md5/"),
        (lambda: kept("b").unlink(), " is not there; copy that cache again"),
        (lambda: kept("a").write_text("{}"), " is damaged; copy that cache again"),
    ],
)
def test_what_cannot_be_read_ends_in_one_line(
    spoil: Change,
    message: str,
    make: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make("a")
    make("b", lambda: write_json(paths.SPLIT_METRICS, {"users": 8}))
    spoil()
    with pytest.raises(SystemExit) as raised:
        call(monkeypatch, *COMPARED)
    assert raised.value.code == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def kept(name: str) -> Path:
    """Return where a cache has the metrics of the split."""
    reproduction = verify.read(Path(f"{name}.json"))
    return reproduction.outputs[OUTPUTS.index("metrics/split.json")].within(Path(name))


@pytest.mark.parametrize("arguments", [["a.json"], COMPARED[:4], ["--cache", "a", "--cache", "b"]])
def test_other_numbers_of_arguments_are_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, *arguments)
    assert "expected two files with no cache or one --cache for each" in capsys.readouterr().err
