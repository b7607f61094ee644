"""Compare every metric in the workspace with those of a revision, and fail where one is worse.

`dvc metrics diff` would round to five digits and end with status 0 where it cannot read a file.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import dvc.api
import yaml
from dvc.exceptions import DvcException
from dvc.scm import RevError
from dvc.utils.flatten import flatten
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from recommender.errors import UserError, run
from recommender.paths import PARAMS
from tools.console import show_table
from tools.results import other_data

PIPELINE: Final = Path("dvc.yaml")
TOLERANCES: Final = Path("tolerances.yaml")
HEADER: Final = ("file", "metric", "before", "now", "change", "relative", "")


class Rule(BaseModel):
    """Which way a metric is better, and by how much it may be worse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    better: Literal["higher", "lower", "same", "neither"]
    tolerance: float = Field(default=0, ge=0, allow_inf_nan=False)

    def verdict(self, before: float | None, now: float | None) -> str:
        """Return ``worse`` or ``changed`` by more than the tolerance, ``gone``, or nothing."""
        if self.better == "neither" or before is None:
            return ""
        if now is None:
            return "gone"
        change = round(now - before, 9)  # metrics are written with six decimals
        if {"higher": -change, "lower": change, "same": abs(change)}[self.better] <= self.tolerance:
            return ""
        return "changed" if self.better == "same" else "worse"


def main() -> None:
    """Print the metrics that differ, and exit with status 1 where one is worse or the data are not the same."""
    parser = argparse.ArgumentParser(prog="make compare", description=__doc__)
    parser.add_argument("rev", help="a commit, branch, tag or experiment")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")
    arguments = parser.parse_args()
    rules = read_rules()
    before, now = (read(PARAMS, rev, yaml.safe_load) for rev in (arguments.rev, None))
    differences = other_data(before, now)
    if differences:
        other = f"REV={arguments.rev}: was measured on other data, with {', '.join(differences)}"
        raise UserError(f"{other}; compare with a revision that has the data and the split of {PARAMS}")
    # Another model, or one that has learned the test part, lacks some metrics.
    lacks_some = any(before["train"].get(name) != now["train"][name] for name in ("model", "final_fit"))
    accepted = ("", "gone") if lacks_some else ("",)
    rows = [row for path in metric_files() for row in compare(path, arguments.rev, rules)]
    changed = [row for row in rows if row[2] != row[3]]
    title = f"{len(changed)} of {len(rows)} metrics differ from {arguments.rev}"
    if arguments.markdown:
        print(f"**{title}**\n")
        for cells in [HEADER, ("---", "---", *["---:"] * 4, "---"), *changed] if changed else []:
            print(f"| {' | '.join(cells)} |")
    elif changed:
        show_table(title, HEADER, changed, left=(0, 1, 6))
    else:
        print(title)
    worse = [f"{file}: {metric}" for file, metric, *_, verdict in changed if verdict not in accepted]
    if worse:
        raise UserError(
            f"worse than {arguments.rev}, changed or gone, and {TOLERANCES} allows less: {', '.join(worse)}; fix that "
            "or, if it is intended, change the tolerance and give the reason in the pull request"
        )


def read_rules() -> dict[str, Rule]:
    """Read the tolerances; the rule of a metric is also that of its value in training, named with ``val_``."""
    try:
        rules = TypeAdapter(dict[str, Rule]).validate_python(yaml.safe_load(TOLERANCES.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{TOLERANCES}: cannot be read: {error}") from None
    return rules | {f"val_{name}": rule for name, rule in rules.items()}


def metric_files() -> list[str]:
    """Return the metric files that the pipeline declares."""
    stages = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))["stages"]
    return [path for stage in stages.values() for entry in stage.get("metrics", []) for path in entry]


def compare(path: str, rev: str, rules: dict[str, Rule]) -> list[list[str]]:
    """Return the row, as in `HEADER`, of each metric that a file has now or had in a revision."""
    before, now = (flatten(read(Path(path), revision, json.loads)) for revision in (rev, None))
    names = {name: name.split(".")[-1] for name in [*before, *now]}
    unknown = [name for name, last in names.items() if last not in rules]
    if unknown:
        raise UserError(f"{TOLERANCES}: has no line for {', '.join(unknown)} in {path}; add one for each")
    pairs = {name: (before.get(name), now.get(name)) for name in names}
    return [[path, name, *_cells(*pair), rules[names[name]].verdict(*pair)] for name, pair in pairs.items()]


def _cells(before: float | None, now: float | None) -> list[str]:
    texts = ["-" if value is None else f"{value:.6f}".rstrip("0").rstrip(".") for value in (before, now)]
    if before is None or now is None:
        return [*texts, "-", "-"]
    return [*texts, f"{now - before:+.6f}", f"{(now - before) / before:+.2%}" if before else "-"]


def read(path: Path, rev: str | None, parse: Callable[[str], Any]) -> Any:  # noqa: ANN401 - JSON or YAML
    """Return the parsed content of a file of a revision, or of the workspace."""
    try:
        return parse(dvc.api.read(str(path), rev=rev) if rev else path.read_text(encoding="utf-8"))
    except (DvcException, OSError, ValueError, yaml.YAMLError) as error:
        reason = error.__cause__ or error
        if isinstance(reason, RevError):
            raise UserError(f"REV={rev}: {reason}; give a commit, branch, tag or experiment") from None
        raise UserError(f"{path}: cannot be read in {rev or 'the workspace'}: {reason}; run `dvc repro`") from None


if __name__ == "__main__":
    run(main)
