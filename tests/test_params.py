"""Every mistake in params.yaml is told in one line that names the parameter, the value and what is allowed."""

import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, files, refused, stage

from stages.lib.errors import UserError
from stages.lib.params import Params, load_params

SECTIONS = ("data", "split", "train", "evaluate", "baselines", "recommend")


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Give the dotted name of every parameter."""
    names = []
    for key, found in values.items():
        names += leaves(found, f"{prefix}{key}.") if isinstance(found, dict) else [f"{prefix}{key}"]
    return names


KEYS = leaves(yaml.safe_load((REPOSITORY / "params.yaml").read_text()))
INTEGERS = (
    "split.seed",
    "train.embedding_size",
    "train.batch_size",
    "train.epochs",
    "train.models",
    "train.early_stopping.patience",
    "train.early_stopping.k",
    "train.seed",
    "evaluate.k",
    "baselines.ease_max_movies",
    "recommend.k",
)
NUMBERS = (
    "split.test_size",
    "split.validation_size",
    "train.learning_rate",
    "train.l2",
    "train.softmax.rating_base",
    "train.softmax.dropout",
    "train.softmax.user_l2",
    "train.encoded.dropout",
    "train.encoded.encoder_l2",
    "train.early_stopping.relevance_quantile",
    "evaluate.relevance_quantile",
    "baselines.item_mean_damping",
    "baselines.ease_lambda",
    "baselines.ease_min_rating",
)
Load = Callable[[str], Params]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load parameters from a text, or bytes smuggled in as surrogates."""

    def load_text(text: str) -> Params:
        path = tmp_path / "params.yaml"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return load_params(path)

    return load_text


def original() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "params.yaml").read_text())


def changed(name: str, value: object) -> str:
    """The repository's parameters with one of them changed."""
    params = original()
    *sections, key = name.split(".")
    functools.reduce(operator.getitem, sections, params)[key] = value
    return yaml.safe_dump(params)


def replaced(line: str, by: str) -> str:
    """The repository's parameters with one line written in another way."""
    text = (REPOSITORY / "params.yaml").read_text()
    assert text.count(line) == 1
    return text.replace(line, by)


def problem(load: Load, text: str) -> str:
    """Load what must be refused, and give the message, which must fit on a line of a terminal or three."""
    with pytest.raises(UserError) as raised:
        load(text)
    message = " ".join(str(raised.value).split())
    assert "params.yaml: " in message
    return message.split("params.yaml: ", 1)[1]


def value(params: Params, name: str) -> object:
    return operator.attrgetter(name)(params)


def test_the_repository_s_own_parameters_are_read_as_written() -> None:
    assert load_params(REPOSITORY / "params.yaml").model_dump() == original()


@pytest.mark.parametrize("name", [name for name in KEYS if name not in ("data.archive", "data.sha256")])
def test_no_parameter_may_be_null(load: Load, name: str) -> None:
    message = problem(load, changed(name, None))
    assert message.startswith(f"{name}: ")
    assert message.endswith("found None")


@pytest.mark.parametrize("name", SECTIONS)
def test_a_missing_section_is_named(load: Load, name: str) -> None:
    params = original()
    del params[name]
    assert problem(load, yaml.safe_dump(params)) == f"{name} is missing"


@pytest.mark.parametrize("name", KEYS)
def test_a_missing_parameter_is_named(load: Load, name: str) -> None:
    params = original()
    *sections, key = name.split(".")
    del functools.reduce(operator.getitem, sections, params)[key]
    assert problem(load, yaml.safe_dump(params)) == f"{name} is missing"


@pytest.mark.parametrize("found", [None, [], "words", 3, True])
@pytest.mark.parametrize("name", ["data", "train"])
def test_a_section_that_is_not_a_mapping_is_shown_with_its_keys(load: Load, name: str, found: object) -> None:
    params = original()
    keys = ", ".join(params[name])
    params[name] = found
    assert problem(load, yaml.safe_dump(params)) == (f"{name} must be a section with the keys {keys}; found {found!r}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("train.batchsize", "did you mean 'batch_size'?"),
        ("train.batch-size", "did you mean 'batch_size'?"),
        ("data.sha265", "did you mean 'sha256'?"),
        ("split.zzz", "known here: test_size, validation_size, seed"),
        ("train.early_stopping.patiance", "did you mean 'patience'?"),
        ("train.softmax.zzz", "known here: rating_base, dropout, user_l2"),
    ],
)
def test_an_unknown_parameter_gets_the_nearest_name(load: Load, name: str, hint: str) -> None:
    assert problem(load, changed(name, 1)) == f"{name} is not a parameter; {hint}"


@pytest.mark.parametrize(
    ("section", "hint"), [("training", "did you mean 'train'?"), ("zzz", f"known here: {', '.join(SECTIONS)}")]
)
def test_an_unknown_section_gets_the_nearest_name(load: Load, section: str, hint: str) -> None:
    params = original()
    params[section] = {}
    assert problem(load, yaml.safe_dump(params)) == f"{section} is not a parameter; {hint}"


def test_a_key_that_is_not_text_is_refused(load: Load) -> None:
    params = original()
    params["split"][3] = 4
    assert problem(load, yaml.safe_dump(params)).startswith("split.3")


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("name", INTEGERS + NUMBERS)
def test_a_yes_or_no_is_not_a_number(load: Load, name: str, found: bool) -> None:
    assert problem(load, changed(name, found)) == f"{name}: must be a number, not a yes/no value; found {found}"


@pytest.mark.parametrize("found", ["abc", "", "1,5", [1], {"a": 1}, "0x10", "1e"])
@pytest.mark.parametrize("name", INTEGERS + NUMBERS)
def test_what_is_not_a_number_is_refused(load: Load, name: str, found: object) -> None:
    message = problem(load, changed(name, found))
    assert message.startswith(f"{name}: input should be a valid ")
    assert message.endswith(f"found {found!r}")


@pytest.mark.parametrize("found", [1.5, "1.5", float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_may_not_have_a_fraction_nor_be_infinite(load: Load, name: str, found: object) -> None:
    message = problem(load, changed(name, found))
    assert message.startswith(f"{name}: ")
    assert message.endswith(f"found {found!r}")


@pytest.mark.parametrize("found", [".nan", ".inf", "-.inf", "nan", "inf", "'-Infinity'", "1" + 400 * "0"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_must_be_finite(load: Load, name: str, found: str) -> None:
    assert problem(load, changed(name, "FOUND").replace("FOUND", found)).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "found", "allowed"),
    [
        ("split.test_size", 0, "greater than 0"),
        ("split.test_size", 1, "less than 1"),
        ("split.test_size", -0.1, "greater than 0"),
        ("split.validation_size", -0.1, "greater than or equal to 0"),
        ("split.validation_size", 1, "less than 1"),
        ("train.softmax.rating_base", 0, "greater than 0"),
        ("train.softmax.rating_base", 101, "less than or equal to 100"),
        ("train.softmax.dropout", 1, "less than or equal to 0.99"),
        ("train.softmax.user_l2", -1, "greater than or equal to 0"),
        ("train.encoded.dropout", -0.1, "greater than or equal to 0"),
        ("train.encoded.encoder_l2", 1.1, "less than or equal to 1"),
        ("train.models", 0, "greater than or equal to 1"),
        ("train.models", 17, "less than or equal to 16"),
        ("train.early_stopping.patience", -1, "greater than or equal to 0"),
        ("train.early_stopping.k", 0, "greater than or equal to 1"),
        ("train.early_stopping.relevance_quantile", 1.1, "less than or equal to 1"),
        ("split.seed", -1, "greater than or equal to 0"),
        ("split.seed", 2**32, "less than or equal to 4294967295"),
        ("train.embedding_size", 0, "greater than or equal to 1"),
        ("train.embedding_size", 4097, "less than or equal to 4096"),
        ("train.learning_rate", 0, "greater than 0"),
        ("train.learning_rate", 1.01, "less than or equal to 1"),
        ("train.batch_size", 0, "greater than or equal to 1"),
        ("train.batch_size", 2**20 + 1, "less than or equal to 1048576"),
        ("train.epochs", 0, "greater than or equal to 1"),
        ("train.epochs", 10_001, "less than or equal to 10000"),
        ("train.l2", -1e-9, "greater than or equal to 0"),
        ("train.l2", 1.1, "less than or equal to 1"),
        ("train.seed", -1, "greater than or equal to 0"),
        ("train.seed", 10**30, "less than or equal to 4294967295"),
        ("evaluate.k", 0, "greater than or equal to 1"),
        ("evaluate.k", 1001, "less than or equal to 1000"),
        ("evaluate.relevance_quantile", -0.1, "greater than or equal to 0"),
        ("evaluate.relevance_quantile", 1.1, "less than or equal to 1"),
        ("baselines.item_mean_damping", -1, "greater than or equal to 0"),
        ("baselines.item_mean_damping", 1e7, "less than or equal to 1000000"),
        ("baselines.ease_lambda", 0, "greater than 0"),
        ("baselines.ease_lambda", 1e7, "less than or equal to 1000000"),
        ("baselines.ease_min_rating", -1, "greater than or equal to 0"),
        ("baselines.ease_min_rating", 6, "less than or equal to 5"),
        ("baselines.ease_max_movies", -1, "greater than or equal to 0"),
        ("baselines.ease_max_movies", 100_001, "less than or equal to 100000"),
        ("recommend.k", 0, "greater than or equal to 1"),
        ("recommend.k", 1001, "less than or equal to 1000"),
    ],
)
def test_a_number_out_of_range_is_shown_with_the_range(load: Load, name: str, found: float, allowed: str) -> None:
    message = problem(load, changed(name, found))
    assert message.startswith(f"{name}: input should be {allowed}")
    assert message.endswith(f"; found {found!r}")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("split.test_size", 1e-9),
        ("split.test_size", 0.999999),
        ("split.seed", 0),
        ("split.seed", 2**32 - 1),
        ("train.embedding_size", 1),
        ("train.embedding_size", 4096),
        ("train.learning_rate", 1),
        ("train.batch_size", 2**20),
        ("train.epochs", 10_000),
        ("train.l2", 0),
        ("train.l2", 1),
        ("evaluate.k", 1000),
        ("evaluate.relevance_quantile", 0),
        ("evaluate.relevance_quantile", 1),
        ("baselines.item_mean_damping", 0),
        ("baselines.ease_lambda", 1e6),
        ("baselines.ease_min_rating", 0),
        ("baselines.ease_max_movies", 0),
        ("recommend.k", 1),
        ("data.archive", "some where/ö.zip"),
        ("data.sha256", "0123456789abcdef" * 4),
    ],
)
def test_the_ends_of_a_range_are_allowed(load: Load, name: str, found: object) -> None:
    assert value(load(changed(name, found)), name) == found


@pytest.mark.parametrize("written", ["5e-4", "'5e-4'", "5.0e-4", "0.0005", "+5E-4"])
def test_scientific_notation_is_a_number_however_yaml_reads_it(load: Load, written: str) -> None:
    assert load(replaced("learning_rate: 5.0e-4 ", f"learning_rate: {written} ")).train.learning_rate == 0.0005


CHOICES = {
    "data.dataset": ("ml-100k", "ml-latest-small", "ml-1m"),
    "train.loss": ("mse", "softmax"),
    "train.movie_vectors": ("free", "encoded"),
    "train.interaction": ("dot", "batch_sum"),
    "train.optimizer": ("adam", "lazy_adam"),
    "train.schedule": ("constant", "cosine"),
    "train.early_stopping.metric": ("map", "ndcg", "precision", "recall", "mrr", "hit_rate", "rmse", "mae"),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("found", ["ML-1M", "", 1, False, ["ml-1m"]])
def test_a_choice_lists_its_values(load: Load, name: str, found: object) -> None:
    message = problem(load, changed(name, found))
    assert all(repr(choice) in message for choice in CHOICES[name])
    assert message.endswith(f"; found {found!r}")


@pytest.mark.parametrize("name", ["train.global_mean", "train.final_fit"])
@pytest.mark.parametrize("found", ["yes please", 1, 0, "true", []])
def test_a_switch_is_true_or_false(load: Load, name: str, found: object) -> None:
    assert problem(load, changed(name, found)) == f"{name}: input should be true or false; found {found!r}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"loss": "softmax", "interaction": "batch_sum"},
            "train.interaction: must be 'dot' with train.loss: softmax; found 'batch_sum'",
        ),
        (
            {"loss": "softmax", "movie_vectors": "encoded", "global_mean": True},
            "train.movie_vectors: must be 'free' with train.loss: softmax; found 'encoded'; "
            "train.global_mean: must be False with train.loss: softmax; found True",
        ),
        (
            {"loss": "softmax", "optimizer": "lazy_adam"},
            "train.optimizer: must be 'adam' with train.loss: softmax; found 'lazy_adam'",
        ),
        (
            {"movie_vectors": "encoded"},
            "train.global_mean: must be True with train.loss: mse and train.movie_vectors: encoded; found False",
        ),
        (
            {"models": 2, "interaction": "batch_sum"},
            "train.interaction: must be 'dot' with train.models: 2; found 'batch_sum'",
        ),
    ],
)
def test_what_a_kind_of_training_would_pass_over_is_refused(
    load: Load, values: dict[str, object], message: str
) -> None:
    params = original()
    params["train"].update(values)
    assert problem(load, yaml.safe_dump(params)) == message


@pytest.mark.parametrize("found", ["", "12", "g" * 64, "a" * 63, "a" * 65, "sha256:" + "a" * 64, 12, 10**63, True])
def test_a_checksum_has_64_hexadecimal_digits(load: Load, found: object) -> None:
    message = problem(load, changed("data.sha256", found))
    assert message == (
        "data.sha256: must be the 64 hexadecimal digits, as text, that `sha256sum ARCHIVE` prints; found "
        + f"{found!r:.80}"
    )


def test_a_checksum_may_have_capitals(load: Load) -> None:
    assert load(changed("data.sha256", "0123456789ABCDEF" * 4)).data.sha256 == "0123456789abcdef" * 4


@pytest.mark.parametrize("found", ["", 7, True, ["a.zip"]])
def test_an_archive_is_a_name(load: Load, found: object) -> None:
    message = problem(load, changed("data.archive", found))
    assert message.startswith("data.archive: ")
    assert message.endswith(f"; found {found!r}")


def test_all_problems_are_told_at_once(load: Load) -> None:
    params = original()
    del params["recommend"]
    del params["split"]["seed"]
    params["train"].update(epochs=0, batchsize=3, l2="abc")
    message = problem(load, yaml.safe_dump(params))
    told = message.split("; ")
    for words in (
        "recommend is missing",
        "split.seed is missing",
        "train.epochs: input should be greater than or equal to 1",
        "train.batchsize is not a parameter",
        "train.l2: input should be a valid number, unable to parse string as a number",
    ):
        assert told.count(words) == 1, message


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "null\n", "3\n", "words\n", "- a\n- b\n", "'a: b'\n", "---\n...\n"]
)
def test_a_file_that_is_not_a_mapping_is_refused(load: Load, text: str) -> None:
    message = problem(load, text)
    assert message.startswith(f"must hold the sections {', '.join(SECTIONS)}; found ")


@pytest.mark.parametrize(
    "text",
    [
        "data:\n\tdataset: ml-1m\n",
        "data: {dataset: ml-1m\n",
        "data: [1, 2\n",
        "data: 'open\n",
        "data: a: b\n",
        "data: *nowhere\n",
        "data: !!python/object/apply:os.getcwd []\n",
        "data: !unknown 3\n",
        "{}\n---\n{}\n",
        "data: \x00\n",
        "data: \udcff\n",
        "{[a]: b}\n",
        "split: {seed: 2024-99-99}\n",
        "split: {seed: 0b_}\n",
        "split: {seed: !!bool maybe}\n",
        "split: {seed: !!int ''}\n",
        "split: {seed: !!timestamp soon}\n",
        "split: {seed: " + "1" * 5000 + "}\n",
        "data: " + "[" * 1000 + "\n",
    ],
    ids=range(19),
)
def test_what_is_not_plain_yaml_is_refused(load: Load, text: str) -> None:
    message = problem(load, text)
    assert message.startswith("cannot be read as YAML: ")
    assert len(message) < 500


@pytest.mark.parametrize(
    ("line", "by", "name"),
    [
        ("  epochs: 5 ", "  epochs: 5\n  epochs: 6 ", "epochs"),
        ("recommend:", "split: {test_size: 0.5, seed: 1}\nrecommend:", "split"),
        ("recommend:", "'split': {test_size: 0.5, seed: 1}\nrecommend:", "split"),
    ],
)
def test_a_parameter_given_twice_is_refused(load: Load, line: str, by: str, name: str) -> None:
    message = problem(load, replaced(line, by))
    assert message.startswith("cannot be read as YAML: ")
    assert f"{name!r} is given twice" in message
    assert "line " in message


def test_a_value_may_be_repeated_by_reference(load: Load) -> None:
    text = (REPOSITORY / "params.yaml").read_text()
    params = load(text.replace("  seed: 7 ", "  seed: &seed 9 ", 1).replace("  seed: 7 ", "  seed: *seed ", 1))
    assert (params.split.seed, params.train.seed) == (9, 9)


@pytest.mark.parametrize(
    "text",
    [
        # A thousand million lol's when written out.
        "\n".join(
            ["a0: &a0 lol"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)] + ["data: *a9"]
        ),
        "- &a [lol, lol]\n- &b [*a, *a]\n- [*b, *b]\n",
        "data: &data {dataset: *data}\n",
        "data: &data {dataset: ml-1m}\nsplit: {<<: *data}\n",
    ],
    ids=["bomb", "list", "recursive", "merge"],
)
def test_references_to_collections_are_refused(load: Load, text: str) -> None:
    message = problem(load, text)
    assert message.startswith("cannot be read as YAML: ")
    assert "only a single value may be repeated by reference" in message
    assert len(message) < 500


@pytest.mark.parametrize("name", ["data.dataset", "data.sha256", "train.l2", "train.epochs"])
def test_a_long_value_is_shortened_in_the_message(load: Load, name: str) -> None:
    message = problem(load, changed(name, "x" * 10_000))
    assert message.startswith(f"{name}: ")
    assert "found 'xxxx" in message
    assert len(message) < 300


@pytest.mark.parametrize("text", ["x" * 10_000, f"[{'x' * 10_000}]", f"data: {'x' * 10_000}"])
def test_a_long_value_in_place_of_a_mapping_is_shortened(load: Load, text: str) -> None:
    assert len(problem(load, text)) < 400


def test_a_long_name_is_shortened_in_the_message(load: Load) -> None:
    message = problem(load, changed("train." + "x" * 10_000, 1))
    assert message.startswith("train.xxxx")
    assert len(message) < 300


@pytest.mark.parametrize("first", ["\ufeff", "---\n"])
def test_a_byte_order_mark_or_a_document_start_changes_nothing(load: Load, first: str) -> None:
    text = (REPOSITORY / "params.yaml").read_text()
    assert load(first + text) == load_params(REPOSITORY / "params.yaml")


def test_windows_line_ends_change_nothing(load: Load) -> None:
    text = (REPOSITORY / "params.yaml").read_text()
    assert load(text.replace("\n", "\r\n")) == load_params(REPOSITORY / "params.yaml")


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: not found: run from the top folder of the repository"):
        load_params(tmp_path / "params.yaml")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read as YAML: .*Is a directory"):
        load_params(tmp_path)


def test_parameters_cannot_be_changed() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.split.seed = 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["params.yaml: must hold the sections data, split, "]),
        ("data:\n\tdataset: ml-1m\n", ["params.yaml: cannot be read as YAML: ", "line 2"]),
        (
            "data: {dataset: ml-1m, archive: null, sha256: null}\nsplit: {test_size: 2, sed: 1}\n",
            ["split.test_size: input should be less than 1; found 2", "did you mean 'seed'?", "train is missing"],
        ),
    ],
)
def test_a_stage_ends_in_one_line_and_writes_nothing(project: Path, text: str, words: list[str]) -> None:
    (project / "params.yaml").write_text(text)
    before = files(project)
    refused(stage(project, "fetch"), *words)
    assert files(project) == before


def test_a_stage_outside_the_repository_s_top_folder_says_so(project: Path) -> None:
    (project / "params.yaml").unlink()
    before = files(project)
    refused(stage(project, "split"), "params.yaml: not found: run from the top folder of the repository")
    assert files(project) == before
