"""Every parameter, set to what it cannot be: one line with its name, the value found and what is allowed."""

from pathlib import Path

import pytest
import yaml

from stages import fetch
from tests.conftest import REPOSITORY, Ending

WRONG: dict[str, object] = {
    "data.dataset": "ml-10m",
    "data.archive": ["ml-1m.zip"],
    "data.sha256": "230dc9f5",
    "split.test_size": 1.0,
    "split.validation_size": -0.1,
    "split.seed": -1,
    "train.loss": "rmse",
    "train.movie_vectors": "coded",
    "train.interaction": "sum",
    "train.global_mean": "maybe",
    "train.optimizer": "sgd",
    "train.schedule": "linear",
    "train.embedding_size": -10,
    "train.learning_rate": 1e3,
    "train.batch_size": -128,
    "train.epochs": 0,
    "train.l2": "abc",
    "train.softmax.rating_base": 0,
    "train.softmax.dropout": 1,
    "train.softmax.user_l2": 2,
    "train.encoded.dropout": "half",
    "train.encoded.encoder_l2": -1,
    "train.models": 1.5,
    "train.early_stopping.patience": True,
    "train.early_stopping.metric": "accuracy",
    "train.early_stopping.k": 10**9,
    "train.early_stopping.relevance_quantile": 1.5,
    "train.final_fit": 1,
    "train.seed": 2**40,
    "evaluate.k": "25 movies",
    "evaluate.relevance_quantile": 1.5,
    "baselines.item_mean_damping": "5e-4x",
    "baselines.ease_lambda": 0,
    "baselines.ease_min_rating": 6,
    "baselines.ease_max_movies": -1,
    "recommend.k": [10],
}


def put(workspace: Path, **values: object) -> None:
    """Change parameters, named with dots."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for name, value in values.items():
        *sections, key = name.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[key] = value
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.parametrize("name", WRONG)
def test_wrong(workspace: Path, ending: Ending, name: str) -> None:
    put(workspace, **{name: WRONG[name]})
    message = ending(fetch.main)
    assert message.startswith(f"params.yaml: {name}: ")
    assert message.endswith(f"; found {WRONG[name]!r}")


def test_every_parameter_is_among_them() -> None:
    def leaves(values: dict[str, object], prefix: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
        return found

    assert list(WRONG) == leaves(yaml.safe_load((REPOSITORY / "params.yaml").read_text()))


TEXTS = {
    "an empty file": "",
    "a list": "- data\n- split\n",
    "one word": "params\n",
    "a tab": "data:\n\tdataset: ml-1m\n",
    "an open bracket": "data: {dataset: ml-1m\n",
    "a key given twice": "data: {dataset: ml-1m, dataset: ml-100k}\n",
    "a bomb of references": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "an object of Python": "data: !!python/object/apply:os.system [true]\n",
    "brackets without end": "data: " + 2000 * "[",
    "bytes that are no text": "data: \udcff\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_parameters(workspace: Path, ending: Ending, text: str) -> None:
    (workspace / "params.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert ending(fetch.main).startswith("params.yaml: ")


@pytest.mark.parametrize(
    "name", ["train.batchsize", "evaluate.relevance", "spilt", "train.softmax.drop_out", "nonsense"]
)
def test_an_unknown_name(workspace: Path, ending: Ending, name: str) -> None:
    put(workspace, **{name: 1})
    message = ending(fetch.main)
    assert f"{name} is not a parameter; " in message
    assert ("did you mean" in message) == (name != "nonsense")


def test_missing_sections_and_names(workspace: Path, ending: Ending) -> None:
    (workspace / "params.yaml").write_text("data: {dataset: ml-1m, archive: null}\nsplit: 3\n")
    message = ending(fetch.main)
    for words in ("data.sha256 is missing", "split must be a section with the keys test_size", "recommend is missing"):
        assert words in message


def test_all_mistakes_at_once(workspace: Path, ending: Ending) -> None:
    put(workspace, **WRONG)
    message = ending(fetch.main)
    assert [name for name in WRONG if f"{name}: " not in message] == []


def test_settings_that_do_not_go_together(workspace: Path, ending: Ending) -> None:
    put(workspace, **{"train.loss": "softmax", "train.interaction": "batch_sum", "train.global_mean": True})
    assert ending(fetch.main).count("with train.loss: softmax; found ") == 2


def test_no_file(workspace: Path, ending: Ending) -> None:
    (workspace / "params.yaml").unlink()
    assert ending(fetch.main) == "params.yaml: not found: run from the top folder of the repository"
