"""Parameters are read as written, and each wrong one is named with the value found and what is allowed."""

import functools
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

from recommender.data.movielens import RELEASES
from recommender.data.splitting import METHODS
from recommender.errors import UserError
from recommender.evaluation.metrics import COLUMNS, ERRORS
from recommender.params import MODELS, Params, Scores, Section
from recommender.params_file import flatten, load_params
from tests.conftest import REPOSITORY


def declared(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the type of every section and parameter."""
    for key, field in section.model_fields.items():
        yield f"{prefix}{key}", field.annotation
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from declared(field.annotation, f"{prefix}{key}.")


TEXT = (REPOSITORY / "params.yaml").read_text()
DEFAULTS = dict(flatten(load_params(REPOSITORY / "params.yaml")))
INTEGERS = [name for name, value in DEFAULTS.items() if type(value) is int]
NUMBERS = [name for name, value in DEFAULTS.items() if type(value) is float]
TYPES = dict(declared(Params))
CHOICES = {name: get_args(kind) for name, kind in TYPES.items() if get_origin(kind) is Literal}
SWITCHES = [name for name, value in DEFAULTS.items() if type(value) is bool and name not in CHOICES]
# Of each number: the highest that is too low, the lowest, the highest, the lowest that is too high.
# What can be cut into parts.
BLOCKS = {"split.method": "hash", "train.mf.optimizer": "lazy_adam", "train.mf.batch_size": 1000}
RANGES: dict[str, tuple[float, float, float, float]] = {
    "user": (-1, 0, 10**9, 10**9 + 1),
    "item": (-1, 0, 10**9, 10**9 + 1),
    "test_size": (0, 1e-9, 0.999999, 1),
    "validation_size": (-1e-9, 0, 0.999999, 1),
    "n": (0, 1, 10**6, 10**6 + 1),
    "fold_in_share": (0, 1e-9, 0.999999, 1),
    "seed": (-1, 0, 2**32 - 1, 2**32),
    "patience": (-1, 0, 10_000, 10_001),
    "k": (0, 1, 1000, 1001),
    "relevance_quantile": (-0.1, 0, 1, 1.1),
    "user_share": (0, 1e-9, 1, 1.1),
    "parts": (0, 1, 200, 201),
    "embedding_size": (0, 1, 4096, 4097),
    "learning_rate": (0, 1e-9, 1, 1.01),
    "batch_size": (0, 1, 2**20, 2**20 + 1),
    "epochs": (0, 1, 10_000, 10_001),
    "ensemble_size": (0, 1, 16, 17),
    "rating_base": (0, 1e-9, 100, 101),
    "dropout": (-0.1, 0, 0.99, 1),
    **dict.fromkeys(("user_discount", "item_scale", "item_discount", "user_scale"), (-0.1, 0, 2, 2.1)),
    **dict.fromkeys(("item_gamma", "item_ridge", "profile_weight", "user_gamma", "ridge"), (0, 1e-9, 1000, 1001)),
    **dict.fromkeys(("max_users", "max_items"), (0, 1, 20_000, 20_001)),
    "l2": (-1e-9, 0, 1, 1.1),
    "user_l2": (-1e-9, 0, 1, 1.1),
    "item_l2": (-1e-9, 0, 1, 1.1),
    "encoder_l2": (-1e-9, 0, 1, 1.1),
    "item_mean_damping": (-1, 0, 1e6, 1e7),
    "ease_lambda": (0, 1e-9, 1e6, 1e7),
    "ease_min_rating": (-1, 0, 5, 6),
    "ease_max_items": (-1, 0, 100_000, 100_001),
}
FORMER = [
    *("train.loss", "train.movie_vectors", "train.models", "train.softmax", "train.encoded", "train.interaction"),
    *("train.global_mean", "train.optimizer", "train.schedule", "train.embedding_size", "train.learning_rate"),
    *("train.batch_size", "train.epochs", "train.l2", "baselines.ease_max_movies"),
]
Load = Callable[[str], Params]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load parameters from a text."""

    def load_text(text: str) -> Params:
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return load_params(path)

    return load_text


def changed(values: dict[str, object]) -> str:
    """Return the repository's parameters with some of them changed."""
    params = yaml.safe_load(TEXT)
    for name, value in values.items():
        *sections, key = name.split(".")
        functools.reduce(operator.getitem, sections, params)[key] = value
    return yaml.safe_dump(params)


def problem(load: Load, text: str) -> str:
    """Load what must be refused; return the message."""
    with pytest.raises(UserError) as raised:
        load(text)
    return str(raised.value).split("params.yaml: ", 1)[1]


def test_the_repository_s_own_parameters_are_read_as_written_and_cannot_be_changed() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert params.model_dump() == yaml.safe_load(TEXT)
    with pytest.raises(ValueError, match="frozen"):
        params.split.seed = 8


def test_the_section_of_the_model_in_use_is_found(load: Load) -> None:
    for model in MODELS:
        train = load(changed({"train.model": model})).train
        assert train.section is getattr(train, model)
        assert train.section.scores in get_args(Scores)


def test_choices_are_those_that_the_code_has() -> None:
    assert set(CHOICES["data.dataset"]) == {*RELEASES, "own"}
    assert set(CHOICES["split.method"]) == set(METHODS)
    assert set(CHOICES["train.early_stopping.metric"]) <= set(COLUMNS)


@pytest.mark.parametrize("name", TYPES)
def test_every_section_and_parameter_is_required_whatever_the_model(load: Load, name: str) -> None:
    params = yaml.safe_load(changed({"train.model": "softmax_mf" if name.startswith("train.mf") else "mf"}))
    *sections, key = name.split(".")
    del functools.reduce(operator.getitem, sections, params)[key]
    assert problem(load, yaml.safe_dump(params)) == f"{name} is missing"


@pytest.mark.parametrize("found", [None, [], "words", 3, True])
@pytest.mark.parametrize("name", ["data", "train", "train.mf"])
def test_a_section_that_is_not_a_mapping_is_shown_with_its_keys(load: Load, name: str, found: object) -> None:
    keys = functools.reduce(operator.getitem, name.split("."), yaml.safe_load(TEXT))
    found_keys = problem(load, changed({name: found})).removeprefix(f"{name} must be a section with the keys ")
    assert sorted(found_keys.removesuffix(f"; found {found!r}").split(", ")) == sorted(keys)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("train.mf.batchsize", "did you mean 'batch_size'?"),
        ("train.mf.batch-size", "did you mean 'batch_size'?"),
        ("data.sha265", "did you mean 'sha256'?"),
        ("train.early_stopping.patiance", "did you mean 'patience'?"),
        ("train.softmax_fm", "did you mean 'softmax_mf'?"),
        ("training", "did you mean 'train'?"),
        ("evaluate.zzz", "known: k, relevance_quantile, user_share"),
        ("zzz", f"known: {', '.join(Params.model_fields)}"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(load: Load, name: str, hint: str) -> None:
    assert problem(load, changed({name: 1})) == f"{name} is not a parameter; {hint}"


@pytest.mark.parametrize("name", FORMER)
def test_a_former_name_is_answered_with_the_new_one(load: Load, name: str) -> None:
    message = problem(load, changed({name: 1}))
    assert message.startswith(f"{name} is now ")
    new = re.findall(r"[a-z]+\.[\w.]+|ensemble_size", message.removeprefix(name))
    assert new
    assert {*new} <= {*TYPES, "ensemble_size"}
    assert name not in DEFAULTS


def test_a_name_that_is_not_text_is_refused(load: Load) -> None:
    assert problem(load, TEXT.replace("split:", "split:\n  3: 4")).startswith("split.3")


@pytest.mark.parametrize("found", [True, False])
def test_a_boolean_is_not_a_number(load: Load, found: bool) -> None:
    message = problem(load, changed(dict.fromkeys(INTEGERS + NUMBERS, found)))
    for name in INTEGERS + NUMBERS:
        assert f"{name}: must be a number, not true or false; found {found}" in message


@pytest.mark.parametrize(
    ("names", "found"),
    [(INTEGERS + NUMBERS, found) for found in ("abc", "", "1,5", [1], {"a": 1}, "0x10", "1e", None)]
    + [(INTEGERS + NUMBERS, found) for found in (float("nan"), float("inf"), float("-inf"), "nan", "-Infinity")]
    + [(INTEGERS, found) for found in (1.5, "1.5", 1e300)]
    + [(SWITCHES, found) for found in ("yes please", 1, 0, "true", [], None)]
    + [(["data.archive"], found) for found in ("", 7, True, ["a.zip"])],
)
def test_a_value_of_another_kind_is_shown(load: Load, names: list[str], found: object) -> None:
    message = problem(load, changed(dict.fromkeys(names, found)))
    assert message.count(f"; found {found!r}") == len(names)
    for name in names:
        assert re.search(rf"(^|; ){name}: (input|string|unable) ", message), name


def test_a_number_beyond_the_largest_float_is_refused(load: Load) -> None:
    for name in NUMBERS:
        assert problem(load, changed({name: 10**400})).startswith(f"{name}: input should be ")


@pytest.mark.parametrize("name", INTEGERS + NUMBERS)
def test_a_range_includes_its_ends_and_nothing_beyond(load: Load, name: str) -> None:
    too_low, low, high, too_high = RANGES[name.split(".")[-1]]
    others = BLOCKS if name == "engine.parts" else {}
    for value in (low, high):
        assert dict(flatten(load(changed({**others, name: value}))))[name] == value
    for value, bound, words in ((too_low, low, "greater"), (too_high, high, "less")):
        message = problem(load, changed({name: value}))
        limits = f"{value:.10g}|or equal to {bound:.10g}"
        assert re.fullmatch(rf"{name}: input should be {words} than ({limits}); found {value!r}", message)


@pytest.mark.parametrize("written", ["5e-4", "'5e-4'", "5.0e-4", "0.0005", "+5E-4"])
def test_scientific_notation_is_a_number_however_yaml_reads_it(load: Load, written: str) -> None:
    text = TEXT.replace("learning_rate: 5.0e-4 ", f"learning_rate: {written} ")
    assert load(text).train.mf.learning_rate == 0.0005


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("found", ["ML-1M", "", 2, None, ["ml-1m"]])
def test_a_choice_lists_its_values(load: Load, name: str, found: object) -> None:
    message = problem(load, changed({name: found}))
    assert message.startswith(f"{name}: ")
    shown = [str(choice).lower() if choice in (True, False) else repr(choice) for choice in CHOICES[name]]
    assert all(choice in message for choice in shown)
    assert message.endswith(f"; found {found!r}")


def test_early_stopping_has_a_metric_that_the_model_has(load: Load) -> None:
    for metric in CHOICES["train.early_stopping.metric"]:
        for model in MODELS:
            text = changed({"train.model": model, "train.early_stopping.metric": metric})
            if TYPES[f"train.{model}"].scores == "order" and metric in ERRORS:
                assert problem(load, text) == (
                    f"train.early_stopping.metric: {model} ranks and predicts no ratings: must be map, ndcg, "
                    f"precision, recall, mrr or hit_rate; found '{metric}'"
                )
            else:
                assert load(text).train.early_stopping.metric == metric


def test_a_sum_over_the_batch_is_of_one_model(load: Load) -> None:
    assert load(changed({"train.mf.interaction": "batch_sum"})).train.mf.ensemble_size == 1
    message = problem(load, changed({"train.mf.interaction": "batch_sum", "train.mf.ensemble_size": 2}))
    assert message == "train.mf.ensemble_size: must be 1 with train.mf.interaction: batch_sum; found 2"


@pytest.mark.parametrize("found", ["", "12", "g" * 64, "a" * 63, "a" * 65, "sha256:" + "a" * 64, 12, 10**63, True])
def test_a_checksum_has_64_hexadecimal_digits(load: Load, found: object) -> None:
    message = problem(load, changed({"data.sha256": found}))
    assert message.startswith("data.sha256: must be the 64 hexadecimal digits, as text, that `sha256sum ARCHIVE` ")


def test_a_checksum_may_have_capitals(load: Load) -> None:
    assert load(changed({"data.sha256": "0123456789ABCDEF" * 4})).data.sha256 == "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("line", "twice", "name"),
    [
        ("  epochs: 5 ", "  epochs: 5\n    epochs: 6 ", "epochs"),
        ("recommend:", "split: {test_size: 0.5, seed: 1}\nrecommend:", "split"),
        ("recommend:", "'split': {test_size: 0.5, seed: 1}\nrecommend:", "split"),
    ],
)
def test_a_parameter_given_twice_is_refused(load: Load, line: str, twice: str, name: str) -> None:
    message = problem(load, TEXT.replace(line, twice))
    assert re.fullmatch(rf"cannot be read as YAML: line \d+: '{name}' is given twice", message)


def test_a_value_may_be_repeated_by_reference(load: Load) -> None:
    params = load(TEXT.replace("  seed: 7 ", "  seed: &seed 9 ", 1).replace("  seed: 7 ", "  seed: *seed ", 1))
    assert (params.split.seed, params.train.seed) == (9, 9)


@pytest.mark.parametrize("long", ["x" * 10_000, ["x" * 1000] * 10, {"x" * 1000: 1}])
def test_a_long_value_or_name_is_shortened_in_the_message(load: Load, long: Any) -> None:  # noqa: ANN401 - YAML
    most = 200 + sum(map(len, DEFAULTS))  # a message may list the names of parameters; these texts have 10,000 letters
    names = ["data", "data.dataset", "data.archive", "data.sha256", "train.mf.l2", "train.mf.epochs", "train.final_fit"]
    for name in names[isinstance(long, str) and 3 :]:
        message = problem(load, changed({name: long}))
        assert message.startswith(name)
        assert len(message) < most
    assert len(problem(load, yaml.safe_dump(long))) < most
    assert len(problem(load, changed({f"train.{str(long)[:10_000]}": 1}))) < most


@pytest.mark.parametrize(
    "text", ["\ufeff" + TEXT, "---\n" + TEXT, TEXT.replace("\n", "\r\n")], ids=["byte order mark", "start", "Windows"]
)
def test_how_the_file_is_written_changes_nothing(load: Load, text: str) -> None:
    assert dict(flatten(load(text))) == DEFAULTS


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read as YAML: .*Is a directory"):
        load_params(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split.method": "random"}, "split.method must be hash; found random"),
        ({"data.min_ratings.user": 5}, "data.min_ratings.user must be 0; found 5"),
        ({"data.min_ratings.item": 2}, "data.min_ratings.item must be 0; found 2"),
        ({"train.model": "kernel"}, "train.model must be mf; found kernel"),
        ({"train.early_stopping.patience": 2}, "train.early_stopping.patience must be 0; found 2"),
        ({"train.mf.optimizer": "adam"}, "train.mf.optimizer must be lazy_adam; found adam"),
        ({"train.mf.interaction": "batch_sum"}, "train.mf.interaction must be dot; found batch_sum"),
        ({"train.mf.ensemble_size": 2}, "train.mf.ensemble_size must be 1; found 2"),
        ({"train.mf.batch_size": 1002}, "train.mf.batch_size must be a multiple of 4; found 1002"),
        (
            {"train.model": "kernel", "split.method": "temporal"},
            "split.method must be hash; found temporal; train.model must be mf; found kernel",
        ),
    ],
)
def test_what_has_no_block_form_is_refused_by_name(load: Load, changes: dict[str, Any], message: str) -> None:
    assert load(changed({**BLOCKS, **changes})).engine.parts == 1
    assert problem(load, changed({**BLOCKS, "engine.parts": 4, **changes})) == f"engine.parts: with 4 parts {message}"
