"""Every parameter, set to what it cannot be: one line with its name, the value found and what is allowed."""

import itertools
from pathlib import Path

import pytest

from stages import fetch
from tests.conftest import Ending, set_params
from tests.test_params import CHOICES, DEFAULTS, INTEGERS, NUMBERS, RANGES, SWITCHES

WRONG = {
    "data.archive": ["ml-1m.zip"],
    "data.sha256": "230dc9f5",
    "data.own.ratings": "",
    "data.own.items": ["items.csv"],
    "data.own.sha256": "230dc9f5",
    "data.own.items_sha256": 7,
    "data.own.separator": "::::",
    "data.own.header": "first",
    "data.own.scale": "1 to 10",
    "data.min_rating_value": "four",
    **dict.fromkeys((name for name in DEFAULTS if name.startswith("data.own.columns.")), 0),
    **dict.fromkeys(CHOICES, "nonsense"),
    **dict.fromkeys(SWITCHES, "maybe"),
    **{name: RANGES[name.split(".")[-1]][0] for name in INTEGERS},  # too low
    **{name: RANGES[name.split(".")[-1]][-1] for name in NUMBERS},  # too high
    "train.early_stopping.patience": True,
    "train.mf.ensemble_size": 1.5,
    "train.mf.l2": None,
    "evaluate.k": "25 movies",
    "recommend.k": [10],
}


def put(workspace: Path, **values: object) -> None:
    """Change parameters, named with dots."""
    set_params(workspace, **{name.replace(".", "__"): value for name, value in values.items()})


@pytest.mark.parametrize("name", DEFAULTS)
def test_wrong(workspace: Path, ending: Ending, name: str) -> None:
    put(workspace, **{name: WRONG[name]})
    message = ending(fetch.main)
    assert message.startswith(f"params.yaml: {name}: ")
    assert message.endswith(f"; found {WRONG[name]!r}")


TEXTS = {
    "an empty file": "",
    "a comment": "# nothing\n",
    "a list": "- data\n- split\n",
    "one word": "params\n",
    "a number": "3\n",
    "two documents": "{}\n---\n{}\n",
    "a tab": "data:\n\tdataset: ml-1m\n",
    "an open bracket": "data: {dataset: ml-1m\n",
    "an open quote": "data: 'open\n",
    "two colons": "data: a: b\n",
    "a key given twice": "data: {dataset: ml-1m, dataset: ml-100k}\n",
    "a key that is a list": "{[a]: b}\n",
    "a reference to nothing": "data: *nowhere\n",
    "references that multiply": "data:\n- &a [x, x]\n"
    + "".join(f"- &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")),
    "a reference to itself": "data: &data {dataset: *data}\n",
    "an object of Python": "data: !!python/object/apply:os.system [true]\n",
    "an unknown tag": "data: !unknown 3\n",
    "an impossible date": "split: {seed: 2024-99-99}\n",
    "an impossible number": "split: {seed: 0b_}\n",
    "an impossible boolean": "split: {seed: !!bool maybe}\n",
    "an empty integer": "split: {seed: !!int ''}\n",
    "an impossible time": "split: {seed: !!timestamp soon}\n",
    "too many digits": "split: {seed: " + 5000 * "1" + "}\n",
    "brackets without end": "data: " + 2000 * "[",
    "NUL": "data: \x00\n",
    "bytes that are not text": "data: \udcff\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_parameters(workspace: Path, ending: Ending, text: str) -> None:
    (workspace / "params.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    message = ending(fetch.main)
    assert message.startswith("params.yaml: ")
    assert len(message) < 2000


@pytest.mark.parametrize(
    "name", ["train.mf.batchsize", "evaluate.relevance", "spilt", "train.softmax_mf.drop_out", "nonsense"]
)
def test_an_unknown_name(workspace: Path, ending: Ending, name: str) -> None:
    put(workspace, **{name: 1})
    message = ending(fetch.main)
    assert f"{name} is not a parameter; " in message
    assert ("did you mean" in message) == (name != "nonsense")


def test_former_names(workspace: Path, ending: Ending) -> None:
    put(workspace, **{"train.loss": "mse", "train.models": 2, "train.epochs": 5, "baselines.ease_max_movies": 20_000})
    assert ending(fetch.main).count(" is now ") == 4


def test_missing_sections_and_names(workspace: Path, ending: Ending) -> None:
    (workspace / "params.yaml").write_text("data: {dataset: ml-1m, archive: null}\nsplit: 3\n")
    message = ending(fetch.main)
    for words in ("data.sha256 is missing", "split must be a section with the keys ", "recommend is missing"):
        assert words in message


def test_all_mistakes_at_once(workspace: Path, ending: Ending) -> None:
    put(workspace, **WRONG)
    message = ending(fetch.main)
    assert [name for name in WRONG if f"{name}: " not in message] == []


@pytest.mark.parametrize(
    "values",
    [
        {"train.mf.interaction": "batch_sum", "train.mf.ensemble_size": 2},
        {"train.model": "softmax_mf", "train.early_stopping.metric": "rmse"},
        {"train.model": "kernel", "train.early_stopping.patience": 3},
    ],
    ids=[
        "a sum over the batch of two models",
        "the rating error of a model that ranks",
        "patience without epochs",
    ],
)
def test_settings_that_do_not_go_together(workspace: Path, ending: Ending, values: dict[str, object]) -> None:
    put(workspace, **values)
    assert " must be " in ending(fetch.main)


def test_no_file(workspace: Path, ending: Ending) -> None:
    (workspace / "params.yaml").unlink()
    assert ending(fetch.main) == "params.yaml: not found: run from the top folder of the repository"
