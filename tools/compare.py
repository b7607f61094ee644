"""Compare every metric in the workspace with those of a revision, and fail where one is worse.

Where both have results by user, a metric is worse if other users could hardly show the difference the other way round
(its interval) and it matters (its tolerance); elsewhere by its tolerance alone. `dvc metrics diff` would round to five
digits and end with status 0 where it cannot read a file.
"""

import argparse
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import dvc.api
import numpy as np
import pandas as pd
import yaml
from dvc.exceptions import DvcException
from dvc.scm import RevError
from dvc.utils.flatten import flatten
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from recommender.errors import UserError, run
from recommender.evaluation.metrics import CURVES
from recommender.evaluation.results import BY_USER, UserResults
from recommender.evaluation.statistics import Difference, statistics
from recommender.paths import AT_K, BASELINES, BASELINES_USERS, METRICS, PARAMS, USER_METRICS
from tools.console import markdown_table, show_table
from tools.results import other_data

PIPELINE: Final = Path("dvc.yaml")
TOLERANCES: Final = Path("tolerances.yaml")
USERS: Final = {METRICS: USER_METRICS, BASELINES: BASELINES_USERS}  # files of metrics, and of the same by user
HEADER: Final = ("file", "metric", "before", "now", "change", "95 % interval", "relative", "judged by", "")


class Rule(BaseModel):
    """Which way a metric is better, and by how much it may be worse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    better: Literal["higher", "lower", "same", "neither"]
    tolerance: float = Field(default=0, ge=0, allow_inf_nan=False)

    def verdict(self, before: float | None, now: float | None, difference: Difference | None = None) -> str:
        """Return ``worse`` or ``changed`` by more than the tolerance and chance would have it, ``gone``, or nothing."""
        if self.better == "neither" or before is None:
            return ""
        if now is None:
            return "gone"
        change = round(now - before, 9)  # metrics are written with six decimals
        if {"higher": -change, "lower": change, "same": abs(change)}[self.better] <= self.tolerance:
            return ""
        if difference and difference.low <= 0 <= difference.high:
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
    rows = [
        row for path in metric_files() for row in compare(path, arguments.rev, rules, by_users(path, arguments.rev))
    ]
    changed = [row for row in rows if row[2] != row[3]]
    title = f"{len(changed)} of {len(rows)} metrics differ from {arguments.rev}"
    left = (0, 1, 7, 8)
    if arguments.markdown:
        print(f"**{title}**\n")
        print(markdown_table(HEADER, changed, left) if changed else "", end="")
        print(parameters(before, now, arguments.rev), curves(arguments.rev), sep="", end="")
    elif changed:
        show_table(title, HEADER, [[Path(file).stem, *rest] for file, *rest in changed], left)
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


def by_users(path: str, rev: str) -> dict[str, Difference]:
    """Return how the metrics of a file differ from a revision's, by their names there, for the same users.

    There are none where either has no results by user, in the workspace or in DVC's cache or remote, or other users.
    """
    users = USERS.get(Path(path))
    try:
        before, now = (read(users, each, UserResults.of_bytes) for each in (rev, None)) if users else (None, None)
    except UserError:
        return {}
    same = ("user", "test_ratings")
    if not (before and now and all(np.array_equal(getattr(before, name), getattr(now, name)) for name in same)):
        return {}
    pairs = {f"{model}.": (model, model) for model in before.metrics if model in now.metrics}
    if Path(path) == METRICS:  # one model, whatever its name
        pairs = {"": (next(iter(before.metrics)), next(iter(now.metrics)))}
    found: dict[str, Difference] = {}
    for prefix, (old, new) in pairs.items():
        then, here = before.metrics[old], now.metrics[new]
        both = [name for name in BY_USER if name in then and name in here]  # a metric may be new
        changed = [name for name in both if not np.array_equal(then[name], here[name], equal_nan=True)]
        if changed:
            compared = statistics({"now": here, "before": then}, changed, now.test_ratings).differences
            found |= {f"{prefix}{name}": each for name, each in compared.get(("now", "before"), {}).items()}
    return found


def parameters(before: dict[str, Any], now: dict[str, Any], rev: str) -> str:
    """Return the parameters that differ as a table in Markdown, or nothing."""
    then, here = flatten(before), flatten(now)
    names = [name for name in {**then, **here} if then.get(name) != here.get(name) and name != "data.archive"]
    pairs = {name: (then.get(name), here.get(name)) for name in names}
    # YAML has no quotes around text, and PyYAML takes 5e-05 for text.
    rows = [[name, *(v if isinstance(v, str) else json.dumps(v) for v in pair)] for name, pair in pairs.items()]
    return f"\n**Parameters that differ from {rev}**\n\n{markdown_table(['', 'before', 'now'], rows)}" if rows else ""


def curves(rev: str) -> str:
    """Return pictures in Markdown, which GitHub draws with Mermaid, of the curves that differ from a revision's."""
    now, before = (read(AT_K, each, lambda data: pd.read_csv(io.BytesIO(data))) for each in (None, rev))
    if not now.columns.isin(before.columns).all() or len(now) != len(before):
        return ""
    drawn = [name for name in CURVES if not now[name].equals(before[name])]
    return "".join(
        f'\n```mermaid\nxychart-beta\n  title "{name} by list length: now the line, {rev} the bars"\n'
        f'  x-axis "k" {now["k"].tolist()}\n  y-axis 0 --> {max(now[name].max(), before[name].max()):.6f}\n'
        f"  bar {before[name].tolist()}\n  line {now[name].tolist()}\n```\n"
        for name in drawn
    )


def compare(path: str, rev: str, rules: dict[str, Rule], differences: Mapping[str, Difference]) -> list[list[str]]:
    """Return the row, as in `HEADER`, of each metric that a file has now or had in a revision."""
    before, now = (flatten(read(Path(path), revision, json.loads)) for revision in (rev, None))
    names = {name: name.split(".")[-1] for name in [*before, *now]}
    unknown = [name for name, last in names.items() if last not in rules]
    if unknown:
        raise UserError(f"{TOLERANCES}: has no line for {', '.join(unknown)} in {path}; add one for each")
    pairs = {name: (before.get(name), now.get(name)) for name in names}
    rows = []
    for name, pair in pairs.items():
        rule, difference = rules[names[name]], differences.get(name)
        judged = "-" if rule.better == "neither" else "interval and tolerance" if difference else "tolerance"
        rows.append([path, name, *_cells(*pair, difference), judged, rule.verdict(*pair, difference)])
    return rows


def _cells(before: float | None, now: float | None, difference: Difference | None) -> list[str]:
    texts = ["-" if value is None else f"{value:.6f}".rstrip("0").rstrip(".") for value in (before, now)]
    if before is None or now is None:
        return [*texts, "-", "-", "-"]
    interval = f"{difference.low:+.4f} to {difference.high:+.4f}" if difference else "-"
    return [*texts, f"{now - before:+.6f}", interval, f"{(now - before) / before:+.2%}" if before else "-"]


def read(path: Path, rev: str | None, parse: Callable[[bytes], Any]) -> Any:  # noqa: ANN401 - whatever it parses to
    """Return the parsed content of a file of a revision, or of the workspace."""
    try:
        return parse(dvc.api.read(str(path), rev=rev, mode="rb") if rev else path.read_bytes())
    except (DvcException, OSError, ValueError, yaml.YAMLError) as error:
        reason = error.__cause__ or error
        if isinstance(reason, RevError):
            raise UserError(f"REV={rev}: {reason}; give a commit, branch, tag or experiment") from None
        raise UserError(f"{path}: cannot be read in {rev or 'the workspace'}: {reason}; run `dvc repro`") from None


if __name__ == "__main__":
    run(main)
