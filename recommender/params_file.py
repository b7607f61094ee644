"""Read ``params.yaml`` and say what is wrong with it."""

import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from recommender.errors import UserError
from recommender.params import Data, Mf, Params, Section
from recommender.paths import PARAMS

# Parameters of earlier versions, with what took their place.
RENAMED: Final = {
    **{f"train.{name}": f"train.mf.{name}, or {name} in the section of train.model" for name in Mf.model_fields},
    "train.loss": "train.model (mf or softmax_mf)",
    "train.movie_vectors": "train.model (mf or encoded_mf)",
    "train.models": "ensemble_size in the section of train.model",
    "train.softmax": "train.softmax_mf",
    "train.encoded": "train.encoded_mf",
    "baselines.ease_max_movies": "baselines.ease_max_items",
}


class _Loader(yaml.SafeLoader):
    """Refuses names given twice in one mapping, of which PyYAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 - the stubs have it wrong
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r:.80} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def load_params(path: Path = PARAMS) -> Params:
    """Read and check the parameters; one `UserError` names every one that is missing, unknown or wrong."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise UserError(f"{path}: not found: run from the top folder of the repository") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        hint = "; indent with spaces, not with a tab" if "'\\t'" in str(error.problem) else ""
        raise UserError(f"{path}: cannot be read as YAML: {where}{error.problem}{hint}") from None
    except RecursionError:
        raise UserError(f"{path}: cannot be read as YAML: it is nested too deeply") from None
    # What PyYAML lets through for values such as 2024-99-99 or !!bool maybe.
    except (OSError, yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must contain the sections {', '.join(Params.model_fields)}; found {_shown(values)}")
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_explain(problem) for problem in error.errors())) from None
    if wrong := _without_blocks(params):
        raise UserError(f"{path}: engine.parts: with {params.engine.parts} parts {'; '.join(wrong)}")
    return params


def _without_blocks(params: Params) -> list[str]:
    """Return the parameters whose values cannot be cut into parts, each with what it must be."""
    parts, train, least = params.engine.parts, params.train, params.data.min_ratings
    needed = {
        "data.min_ratings.user": (least.user, 0),
        "data.min_ratings.item": (least.item, 0),
        "split.method": (params.split.method, "hash"),
        "train.model": (train.model, "mf"),
        "train.early_stopping.patience": (train.early_stopping.patience, 0),
        "train.mf.optimizer": (train.mf.optimizer, "lazy_adam"),
        "train.mf.interaction": (train.mf.interaction, "dot"),
        "train.mf.ensemble_size": (train.mf.ensemble_size, 1),
    }
    wrong = [f"{name} must be {right}; found {found}" for name, (found, right) in needed.items() if found != right]
    if train.mf.batch_size % parts:
        wrong.append(f"train.mf.batch_size must be a multiple of {parts}; found {train.mf.batch_size}")
    return wrong if parts > 1 else []


def flatten(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every parameter of a section, in its order."""
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def data_name(data: Data) -> str:
    """Return the name of the release, or of the file with the user's ratings."""
    return re.split(r"[/\\]", data.own.ratings)[-1] if data.dataset == "own" and data.own.ratings else data.dataset


def unknown_parameter(name: str, known: list[str]) -> str:
    """Return the message for a name that is no parameter: what replaced it, or the closest that there is."""
    from rapidfuzz import fuzz, process  # only after a mistake

    if name in RENAMED:
        return f"{name} is now {RENAMED[name]}"
    close = process.extractOne(name.split(".")[-1], known, scorer=fuzz.ratio, score_cutoff=60)
    return f"{name} is not a parameter; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")


def _explain(problem: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    key = ".".join(str(part) for part in problem["loc"])[:80]
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "extra_forbidden":
        return unknown_parameter(key, _known_keys(problem["loc"][:-1]))
    if problem["type"] == "conflict":
        return str(problem["msg"])
    found = f"found {_shown(problem['input'])}"
    if problem["type"] == "model_type":
        return f"{key} must be a section with the keys {', '.join(_known_keys(problem['loc']))}; {found}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message.replace("a valid boolean", "true or false").replace("False, True", "false, true")
    message = message.replace("a valid tuple", "a list of the lowest and the highest")
    return f"{key}: {message[0].lower() + message[1:]}; {found}"


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever YAML contained
    """Return the start of a value's repr; with references in YAML, a whole repr can fill the memory."""
    return f"{reprlib.repr(value):.80}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = Params
    for part in location:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
