"""Compare every metric in the workspace with those of a revision, and fail where one has become worse.

Besides, `dvc metrics diff` rounds to five digits and ends with status 0 where it cannot read a file.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import dvc.api
import yaml
from dvc.exceptions import DvcException
from dvc.scm import RevError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from stages.lib.errors import UserError, run

PIPELINE: Final = Path("dvc.yaml")
TOLERANCES: Final = Path("tolerances.yaml")
HEADER: Final = ("file", "metric", "before", "now", "change", "relative", "")


class Rule(BaseModel):
    """What counts as worse for one metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    better: Literal["higher", "lower", "same"]
    tolerance: float = Field(ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class Difference:
    """One metric before and now; None where it is missing or the model has none."""

    file: str
    metric: str
    before: float | None
    now: float | None
    rule: Rule

    @property
    def worse(self) -> bool:
        """Whether this is a regression: worse by more than the tolerance, or gone."""
        if self.before is None or self.now is None:
            return self.before is not None
        # What was written has six decimals; the last bits of a difference mean nothing.
        change = round(self.now - self.before, 9)
        if self.rule.better == "same":
            return abs(change) > self.rule.tolerance
        return (-change if self.rule.better == "higher" else change) > self.rule.tolerance

    @property
    def verdict(self) -> str:
        """What to say of it: ``worse``, ``changed`` where neither way is better, or nothing."""
        if not self.worse:
            return ""
        return "changed" if self.rule.better == "same" and self.now is not None else "worse"

    def row(self) -> list[str]:
        """Lay it out."""
        cells = ["-" if value is None else f"{value:.6f}".rstrip("0").rstrip(".") for value in (self.before, self.now)]
        change = relative = "-"
        if self.before is not None and self.now is not None:
            change = f"{self.now - self.before:+.6f}"
            relative = f"{(self.now - self.before) / self.before:+.2%}" if self.before else "-"
        return [self.file, self.metric, *cells, change, relative, self.verdict]


def main() -> None:
    """Print the metrics that differ, and end with status 1 where one is worse."""
    parser = argparse.ArgumentParser(prog="make compare", description=__doc__)
    parser.add_argument("rev", help="a commit, branch, tag or experiment")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")
    arguments = parser.parse_args()
    rules = read_rules()
    found = [difference for path in metric_files() for difference in compare(path, arguments.rev, rules)]
    changed = [difference for difference in found if difference.before != difference.now]
    title = f"{len(changed)} of {len(found)} metrics differ from {arguments.rev}"
    show(title, changed, markdown=arguments.markdown)
    worse = [f"{difference.file}: {difference.metric}" for difference in changed if difference.worse]
    if worse:
        raise UserError(
            f"worse than {arguments.rev}, or changed, by more than {TOLERANCES} allows: {', '.join(worse)}; mend that "
            "or, if it is meant, say so in the pull request and change the tolerance"
        )


def read_rules() -> dict[str, Rule]:
    """Read the tolerances.

    Raises:
        UserError: the file is missing or not as it should be.
    """
    try:
        return TypeAdapter(dict[str, Rule]).validate_python(yaml.safe_load(TOLERANCES.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{TOLERANCES}: cannot be read: {error}") from None


def metric_files() -> list[str]:
    """List the metric files that the pipeline declares."""
    stages = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))["stages"]
    return [next(iter(entry)) for stage in stages.values() for entry in stage.get("metrics", [])]


def compare(path: str, rev: str, rules: dict[str, Rule]) -> list[Difference]:
    """Compare one file of metrics.

    Args:
        path: the file.
        rev: the revision to compare with.
        rules: by name of the metric.

    Returns:
        Every metric that either of the two has.

    Raises:
        UserError: one of the two cannot be read, or a metric has no rule.
    """
    # The workspace first: DVC reads it too where it is asked for a revision, and its message would not say which.
    now, before = (dict(flat(read(path, where))) for where in (None, rev))
    names = list(dict.fromkeys([*before, *now]))
    unknown = sorted({name for name in names if name.split(".")[-1] not in rules})
    if unknown:
        raise UserError(f"{TOLERANCES}: says nothing of {', '.join(unknown)} in {path}; add a line for each")
    return [Difference(path, name, before.get(name), now.get(name), rules[name.split(".")[-1]]) for name in names]


def read(path: str, rev: str | None) -> Any:  # noqa: ANN401 - metrics
    """Read one file of metrics of a revision, or of the workspace."""
    try:
        found = dvc.api.metrics_show(path, rev=rev)
    except (DvcException, OSError, ValueError) as error:
        reason = error.__cause__ or error
        if isinstance(reason, RevError):
            raise UserError(f"REV={rev}: {reason}; give a commit, branch, tag or experiment") from None
        raise UserError(f"{path}: cannot be read in {rev or 'the workspace'}: {reason}; run `dvc repro`") from None
    if not found:
        raise UserError(f"{path}: holds no metrics in {rev or 'the workspace'}; run `dvc repro`")
    return found


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Give every metric by its dotted name."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def show(title: str, differences: list[Difference], *, markdown: bool) -> None:
    """Print the table.

    Args:
        title: above it.
        differences: one line each.
        markdown: whether as Markdown.
    """
    rows = [difference.row() for difference in differences]
    if markdown:
        print(f"**{title}**\n")
        if rows:
            lines = [HEADER, ("---", "---", "---:", "---:", "---:", "---:", "---"), *rows]
            print("\n".join("| " + " | ".join(line) + " |" for line in lines))
        return
    table = Table(title=title, title_justify="left")
    for position, name in enumerate(HEADER):
        table.add_column(name, justify="left" if position in (0, 1, 6) else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=None if console.is_terminal else 120).print(table if rows else title)


if __name__ == "__main__":
    run(main)
