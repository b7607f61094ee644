"""A model card and a data card: Markdown behind a block of metadata, as on the Hugging Face Hub."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import yaml

from recommender import paths
from recommender.errors import one_line
from recommender.evaluation.metrics import COLUMNS
from recommender.evaluation.statistics import as_text
from recommender.params_file import data_name
from recommender.report.page import THIS, Run, best, parameters
from recommender.storage import checksum

OF_DATA: Final = ("data.", "split.")  # parameters that the data card has, and the model card has not
GROUPLENS: Final = {
    "license": "other",
    "license_name": "movielens",
    "license_link": "https://grouplens.org/datasets/movielens/",
}


def model_card(run: Run) -> str:
    """Return what the model is, how it was measured, and what it is not for."""
    model, name = run.params.train.model, data_name(run.params.data)
    metadata: dict[str, Any] = {"license": "mit", "library_name": "keras", "tags": ["recommender-system", "dvc"]}
    if run.measured:
        metrics = [
            {"type": column, "name": column, "value": run.metrics[THIS][column]}
            for column in COLUMNS
            if column in run.metrics[THIS]
        ]
        task = {"type": "recommendation", "name": f"lists of {run.params.evaluate.k} items"}
        results = [{"task": task, "dataset": {"type": name, "name": name}, "metrics": metrics}]
        metadata |= {"model_name": model, "model-index": [{"name": model, "results": results}]}
    return _card(
        "model_card.md",
        metadata,
        run,
        model=model,
        metrics=_metrics(run),
        predicts_ratings=run.factors.predicts_ratings,
        factors_digest=checksum(paths.FACTORS),
        parameters=_parameters(run, of_data=False),
    )


def data_card(run: Run) -> str:
    """Return what the ratings are, and how they were filtered and divided."""
    own = run.params.data.dataset == "own"
    metadata = {"license": "unknown"} if own else GROUPLENS
    counts = [(name.replace("_", " "), f"{value:,}") for name, value in run.split.items() if isinstance(value, int)]
    return _card(
        "data_card.md",
        {**metadata, "pretty_name": data_name(run.params.data), "tags": ["recommender-system", "ratings"]},
        run,
        counts=_table(("count", ""), counts),
        ratings_digest=checksum(paths.RATINGS),
        parameters=_parameters(run, of_data=True),
    )


def _card(template: str, metadata: dict[str, Any], run: Run, **values: Any) -> str:  # noqa: ANN401 - a template's
    environment = jinja2.Environment(  # noqa: S701 - of Markdown; `_table` escapes cells
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = environment.from_string(Path(__file__).with_name(template).read_text(encoding="utf-8")).render(
        run=run, split=run.split, name=_cell(data_name(run.params.data)), **values
    )
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{text}"


def _metrics(run: Run) -> str:
    """Return the table of accuracy: every model's metrics, their intervals, and which are among the best."""
    marked, rows = best(run.metrics, run.statistics), []
    for model, values in run.metrics.items():
        row = [model.replace("_", " ")]
        for column in COLUMNS:
            sure = run.statistics.estimates.get(model, {}).get(column)
            value = f"{values[column]:.4f}" if column in values else "-"
            value = f"**{value}**" if model in marked[column] else value
            row.append(f"{value} ({as_text(sure)})" if sure else value)
        rows.append(row)
    return _table(("model", *COLUMNS), rows)


def _parameters(run: Run, *, of_data: bool) -> str:
    rows = parameters(run.params).items()
    return _table(("parameter", "value"), [row for row in rows if row[0].startswith(OF_DATA) == of_data])


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = (columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Any) -> str:  # noqa: ANN401 - any parameter
    """Return a value as text that Markdown shows as it is."""
    text = one_line("none" if value is None else str(value))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
