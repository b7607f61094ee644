"""Typed, checked view of ``params.yaml``."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from stages.lib.errors import UserError

PATH = Path("params.yaml")


def _refuse_boolean(value: Any) -> Any:  # noqa: ANN401 - whatever YAML held
    if isinstance(value, bool):
        raise ValueError("must be a number, not a yes/no value")
    return value


def _lower_checksum(value: Any) -> Any:  # noqa: ANN401 - whatever YAML held
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError("must be the 64 hexadecimal digits, as text, that `sha256sum ARCHIVE` prints")
    return value.lower()


Integer = Annotated[int, BeforeValidator(_refuse_boolean)]
# YAML 1.1 reads 5e-4 as a string, and DVC writes such numbers: pydantic turns numeric strings into floats.
Number = Annotated[float, BeforeValidator(_refuse_boolean), Field(allow_inf_nan=False)]
Seed = Annotated[Integer, Field(ge=0, le=2**32 - 1)]
ListLength = Annotated[Integer, Field(ge=1, le=1000)]
Dropout = Annotated[Number, Field(ge=0, le=0.99)]
L2 = Annotated[Number, Field(ge=0, le=1)]


class Section(BaseModel):
    """A section of ``params.yaml``: immutable, and no key beyond those declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    """Which ratings to use and where to get them."""

    dataset: Literal["ml-100k", "ml-latest-small", "ml-1m"]
    archive: Annotated[str, Field(min_length=1)] | None
    sha256: Annotated[str | None, BeforeValidator(_lower_checksum)]


class Split(Section):
    """How the ratings are divided into train and test."""

    test_size: Annotated[Number, Field(gt=0, lt=1)]
    validation_size: Annotated[Number, Field(ge=0, lt=1)]
    seed: Seed


class Softmax(Section):
    """What training to rank needs besides."""

    rating_base: Annotated[Number, Field(gt=0, le=100)]
    dropout: Dropout
    user_l2: L2


class Encoded(Section):
    """What training with movie vectors made from ratings needs besides."""

    dropout: Dropout
    encoder_l2: L2


class EarlyStopping(Section):
    """When to stop, by top-K metrics on the validation part."""

    patience: Annotated[Integer, Field(ge=0, le=10_000)]
    metric: Literal["map", "ndcg", "precision", "recall", "mrr", "hit_rate", "rmse", "mae"]
    k: ListLength
    relevance_quantile: Annotated[Number, Field(ge=0, le=1)]


class Train(Section):
    """The model and its training."""

    loss: Literal["mse", "softmax"]
    movie_vectors: Literal["free", "encoded"]
    interaction: Literal["dot", "batch_sum"]
    global_mean: StrictBool
    optimizer: Literal["adam", "lazy_adam"]
    schedule: Literal["constant", "cosine"]
    embedding_size: Annotated[Integer, Field(ge=1, le=4096)]
    learning_rate: Annotated[Number, Field(gt=0, le=1)]
    batch_size: Annotated[Integer, Field(ge=1, le=2**20)]
    epochs: Annotated[Integer, Field(ge=1, le=10_000)]
    l2: L2
    softmax: Softmax
    encoded: Encoded
    models: Annotated[Integer, Field(ge=1, le=16)]
    early_stopping: EarlyStopping
    final_fit: StrictBool
    seed: Seed

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse settings that the chosen kind of training would pass over."""
        found = self.model_dump()
        kind = {name: found[name] for name in ("loss", "movie_vectors")}
        needed: dict[str, Any] = {}
        if found["loss"] == "softmax":
            kind = {"loss": "softmax"}
            needed = {"movie_vectors": "free", "interaction": "dot", "global_mean": False, "optimizer": "adam"}
        elif found["movie_vectors"] == "encoded":
            needed = {"interaction": "dot", "global_mean": True, "optimizer": "adam"}
        elif found["models"] > 1:
            kind = {"models": found["models"]}
            needed = {"interaction": "dot"}
        because = " and ".join(f"train.{key}: {chosen}" for key, chosen in kind.items())
        wrong = [
            f"train.{name}: must be {value!r} with {because}; found {found[name]!r}"
            for name, value in needed.items()
            if found[name] != value
        ]
        if wrong:
            raise PydanticCustomError("conflict", "{wrong}", {"wrong": "; ".join(wrong)})
        return self


class Evaluate(Section):
    """How ranking is measured."""

    k: ListLength
    relevance_quantile: Annotated[Number, Field(ge=0, le=1)]


class Baselines(Section):
    """The models that any model must beat."""

    item_mean_damping: Annotated[Number, Field(ge=0, le=1e6)]
    ease_lambda: Annotated[Number, Field(gt=0, le=1e6)]
    ease_min_rating: Annotated[Number, Field(ge=0, le=5)]
    ease_max_movies: Annotated[Integer, Field(ge=0, le=100_000)]


class Recommend(Section):
    """The recommendations written for every user."""

    k: ListLength


class Params(Section):
    """All of ``params.yaml``."""

    data: Data
    split: Split
    train: Train
    evaluate: Evaluate
    baselines: Baselines
    recommend: Recommend


class Loader(yaml.SafeLoader):
    """Refuses what PyYAML would take silently: names given twice, and references, which can grow without bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Let a reference repeat a single value only."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(self.anchors.get(event.anchor), yaml.CollectionNode):
                raise yaml.MarkedYAMLError(
                    problem="only a single value may be repeated by reference", problem_mark=event.start_mark
                )
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 - the stubs have it wrong
        """Refuse a name that was given before in the same mapping."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r:.80} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def flat(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the dotted name and the value of every parameter of a section, in its order."""
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_params(path: Path = PATH) -> Params:
    """Read and check the parameters.

    Args:
        path: the YAML file.

    Returns:
        The parameters, every value of its declared type and inside its range.

    Raises:
        UserError: naming every missing, unknown or wrong parameter, the value found and what is allowed.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise UserError(f"{path}: not found: run from the top folder of the repository") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        hint = "; indent with spaces, not with a tab" if "'\\t'" in str(error.problem) else ""
        raise UserError(f"{path}: cannot be read as YAML: {where}{error.problem}{hint}") from None
    except RecursionError:
        raise UserError(f"{path}: cannot be read as YAML: it is nested too deeply") from None
    # What PyYAML lets through over values such as 2024-99-99 or !!bool maybe.
    except (OSError, yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold the sections {', '.join(Params.model_fields)}; found {values!r:.80}")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    """Say in plain words what is wrong with one parameter."""
    key = ".".join(str(part) for part in problem["loc"])[:80]
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{key} is not a parameter; {hint}"
    if problem["type"] == "model_type":
        keys = ", ".join(_known_keys(problem["loc"]))
        return f"{key} must be a section with the keys {keys}; found {problem['input']!r:.80}"
    if problem["type"] == "conflict":
        return str(problem["msg"])
    message = problem["msg"].removeprefix("Value error, ").replace("a valid boolean", "true or false")
    return f"{key}: {message[0].lower() + message[1:]}; found {problem['input']!r:.80}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = Params
    for part in location:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
