"""The cards: their metadata parse, their figures are those of the run, and they name no place and no time."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from recommender.evaluation.metrics import COLUMNS
from recommender.params_file import load_params
from recommender.paths import DATA_CARD, FACTORS, METRICS, MODEL_CARD, RATINGS, SPLIT_METRICS
from recommender.report.cards import data_card, model_card
from recommender.report.page import Run, best
from recommender.storage import read_json
from tests.conftest import sha256


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(trained)
    return Run(load_params())


def parse(text: str) -> tuple[dict[str, Any], str]:
    """Return the metadata and the text of a card, divided as `huggingface_hub.RepoCard` does it."""
    found = re.match(r"^\s*---[\r\n]+([\S\s]*?)[\r\n]+---(?:\r\n|\n\r|\n)", text)
    assert found
    metadata: dict[str, Any] = yaml.safe_load(found[1])
    return metadata, text[found.end() :]


def cells(text: str, first: str) -> list[str]:
    """Return the cells of a table's only row whose first cell is this."""
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in text.splitlines() if line.startswith(f"| {first} |")]
    assert len(rows) == 1
    return rows[0][1:]


def test_the_cards_of_a_run_are_what_the_stage_writes(run: Run) -> None:
    assert MODEL_CARD.read_text(encoding="utf-8") == model_card(run)
    assert DATA_CARD.read_text(encoding="utf-8") == data_card(run)


def test_the_model_card_has_the_metrics_with_intervals_and_the_best_in_bold(run: Run) -> None:
    metadata, text = parse(model_card(run))
    (index,) = metadata["model-index"]
    (result,) = index["results"]
    measured = read_json(METRICS)
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        column: measured[column] for column in COLUMNS if column in measured
    }
    assert set(result["task"]) == set(result["dataset"]) == {"type", "name"}
    assert (metadata["license"], metadata["library_name"], index["name"]) == ("mit", "keras", "mf")
    assert sha256(FACTORS) in text
    marked = best(run.metrics, run.statistics)
    for model, values in run.metrics.items():
        for column, cell in zip(COLUMNS, cells(text, model.replace("_", " ")), strict=True):
            assert cell.startswith("**") == (model in marked[column])
            assert f"{values[column]:.4f}" in cell if column in values else cell == "-"
            assert ("(" in cell) == (column in run.statistics.estimates[model])
    assert cells(text, "train.mf.epochs") == [str(run.params.train.mf.epochs)]
    assert "split.method" not in text


def test_the_data_card_has_counts_filters_split_and_licence(run: Run) -> None:
    metadata, text = parse(data_card(run))
    assert metadata["license"] == "other"
    assert metadata["pretty_name"] == "ml-1m"
    assert "grouplens.org" in metadata["license_link"]
    assert sha256(RATINGS) in text
    assert cells(text, "test ratings") == [f"{read_json(SPLIT_METRICS)['test_ratings']:,}"]
    assert cells(text, "split.method") == ["random"]
    assert cells(text, "data.min_ratings.user") == ["0"]
    assert "train." not in text.replace("without train", "")


def test_own_files_are_named_as_text_and_without_their_folder(run: Run) -> None:
    data = run.params.data
    own = data.own.model_copy(update={"ratings": "/home/me/a|b <i>.csv"})
    run.params = run.params.model_copy(update={"data": data.model_copy(update={"dataset": "own", "own": own})})
    for card in (model_card, data_card):
        metadata, text = parse(card(run))
        assert "# " in text.splitlines()[0]
        assert "a\\|b &lt;i>.csv" in text.splitlines()[0]
        assert "/home" not in text
        assert "/home" not in str(metadata)
    assert metadata["license"] == "unknown"
    assert "GroupLens" not in text


def test_a_model_that_was_not_measured_says_so(run: Run) -> None:
    run.measured = False
    metadata, text = parse(model_card(run))
    assert "model-index" not in metadata
    assert "Not measured: the model has learned all ratings, those held out too." in text


def test_no_card_has_a_clock_or_a_path(run: Run, trained: Path) -> None:
    for card in (model_card(run), data_card(run)):
        assert not re.search(r"\b20[2-9]\d\b|\d\d:\d\d", re.sub(r"\b[0-9a-f]{64}\b", "", card))
        assert str(trained) not in card
        assert run.params.data.archive not in card
