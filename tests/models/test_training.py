"""Early stopping, the final fit, divergence, and the files of the train stage."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal, assert_equal

from recommender.data.interactions import Interactions
from recommender.errors import UserError
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.models.core.training import Parts, Trained, fit, prepare, train
from recommender.paths import TEST
from recommender.ranking import fold_in
from recommender.ranking.factors import Factors
from recommender.ranking.learned import DECIMALS
from recommender.storage import read_json, read_table, write_table
from stages import train as train_stage
from tests.conftest import IN_EPOCHS, files, stage
from tests.models.helpers import make_parts, parameters, stopping

each_model = pytest.mark.parametrize("model", IN_EPOCHS)
OUTPUTS = ("models/factors.npz", "models/fold_in.npz", "models/mf.keras", "metrics/train.json", "metrics/history.csv")


def test_the_stage_writes_the_same_bytes_again(finished: Path) -> None:
    before = files(finished)
    for name in OUTPUTS:
        (finished / name).unlink()
    assert stage(finished, "train").returncode == 0
    assert files(finished) == before


def test_the_stage_writes_the_losses_of_every_epoch_and_the_metrics_of_the_last(trained: Path) -> None:
    content = (trained / "metrics/history.csv").read_bytes()
    assert b"\r" not in content
    assert content.startswith(b"epoch,loss,val_loss\n")
    assert content.endswith(b"\n")
    for line in content.decode().splitlines()[1:]:
        assert all(len(number.split(".")[1]) == 6 for number in line.split(",")[1:]), line
    table = pd.read_csv(trained / "metrics/history.csv")
    assert table["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert table["loss"].is_monotonic_decreasing
    expected = {"epochs": 5, "weights": (60 + 80) * 11, "loss": table["loss"][4], "val_loss": table["val_loss"][4]}
    assert read_json(trained / "metrics/train.json") == expected
    item_ids = read_table(trained / "data/processed/items.parquet")["item_id"].to_numpy()
    order = Factors.load(trained / "models/factors.npz").item_order
    assert_array_equal(item_ids[np.argsort(order)], np.sort(item_ids))


def test_a_refused_training_changes_no_file(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    test = read_table(TEST)
    ratings = pa.array(np.full(len(test), 1e30, dtype=np.float32))
    write_table(TEST, test.set_column(test.column_names.index("rating"), "rating", ratings))
    before = files(finished)
    with pytest.raises(UserError, match="training diverged in epoch 5: val_loss is"):
        train_stage.main()
    assert files(finished) == before


@pytest.mark.parametrize(
    "values", [{"early_stopping": stopping(1)}, {"final_fit": True}], ids=["patience", "final_fit"]
)
def test_parameters_that_need_a_validation_part_are_refused_without_one(values: dict[str, object]) -> None:
    expected = rf"train\.{next(iter(values))}.*: needs a validation part; set split.validation_size above 0"
    with pytest.raises(UserError, match=expected):
        train(make_parts(), parameters("mf", **values))


def test_lists_longer_than_the_catalogue_are_refused() -> None:
    with pytest.raises(UserError, match=r"train\.early_stopping\.k: must be at most 80"):
        train(make_parts(0.2), parameters("mf", early_stopping=stopping(1, k=1000)))


def rated(part: Interactions, rating: float) -> Interactions:
    """Return the same pairs with that rating."""
    return dataclasses.replace(part, ratings=np.full(len(part), rating, dtype=np.float32))


@each_model
def test_diverging_is_refused(model: str) -> None:
    parts = make_parts()
    huge = dataclasses.replace(parts.train, ratings=parts.train.ratings * np.float32(1e25))
    expected = rf"training diverged in epoch 1: loss is .*; lower train\.{model}\.learning_rate \(now 1\) or raise its"
    with pytest.raises(UserError, match=expected):
        train(dataclasses.replace(parts, train=huge), parameters(model, {"learning_rate": 1.0}))


def test_the_largest_learning_rate_still_trains_to_finite_numbers() -> None:
    section = {"learning_rate": 1.0, "embedding_size": 64, "epochs": 2, "schedule": "constant"}
    factors = train(make_parts(), parameters("mf", section)).factors
    assert factors.user_factors.shape == (60, 64)
    assert np.isfinite(factors.user_factors).all()


def same(one: Trained, other: Trained) -> bool:
    return all(
        np.array_equal(getattr(one.factors, field.name), getattr(other.factors, field.name))
        for field in dataclasses.fields(Factors)
    )


def test_with_a_validation_part_test_ratings_influence_neither_training_nor_choice() -> None:
    parts, params = make_parts(0.2), parameters("softmax_mf", early_stopping=stopping(2))
    before, after = train(parts, params), train(dataclasses.replace(parts, test=rated(parts.test, 1.0)), params)
    assert same(before, after)
    assert before.metrics == after.metrics
    # Ratings of validation, in contrast, decide.
    other = train(dataclasses.replace(parts, validation=rated(parts.validation, 1.0)), params)
    assert not np.array_equal(other.history["val_map"], before.history["val_map"])


@pytest.mark.parametrize("model", ["mf", *(pytest.param(model, marks=pytest.mark.slow) for model in IN_EPOCHS[1:])])
def test_without_a_validation_part_test_ratings_are_only_reported(model: str) -> None:
    parts, params = make_parts(), parameters(model)
    before, after = train(parts, params), train(dataclasses.replace(parts, test=rated(parts.test, 1.0)), params)
    assert same(before, after)
    assert_array_equal(before.history["loss"], after.history["loss"])
    assert not np.array_equal(before.history["val_loss"], after.history["val_loss"])


def val_map(parts: Parts, factors: Factors) -> float:
    return float(evaluate(factors, HeldOut.of(parts.validation, parts.train, 0.85), 25)[0].at("map"))


def test_early_stopping_keeps_the_best_epoch() -> None:
    # A rate far too high, so that later epochs are worse.
    section = {"learning_rate": 0.3, "schedule": "constant", "epochs": 60}
    parts = make_parts(0.2)
    found = train(parts, parameters("softmax_mf", section, early_stopping=stopping(3)))
    maps = found.history["val_map"]
    best = int(maps.argmax())
    assert len(maps) == best + 1 + 3 < 60
    assert found.metrics["epochs"] == best + 1
    assert found.metrics["val_map"] == maps[best] == val_map(parts, found.factors)


def test_without_patience_validation_is_measured_once_and_training_goes_on() -> None:
    parts = make_parts(0.2)
    found = train(parts, parameters("softmax_mf", early_stopping=stopping(0)))
    assert set(found.history) == {"epoch", "loss", "val_loss"}
    assert found.metrics["epochs"] == 6
    assert found.metrics["val_map"] == val_map(parts, found.factors)


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_early_stopping_by_an_error_looks_for_the_lowest(metric: str) -> None:
    section = {"epochs": 40, "learning_rate": 0.02, "global_mean": True, "schedule": "constant"}
    found = train(make_parts(0.2), parameters("mf", section, early_stopping=stopping(2, metric, 5)))
    best = int(found.history[f"val_{metric}"].argmin())
    assert len(found.history["loss"]) == best + 1 + 2
    assert found.metrics["epochs"] == best + 1 > 1


def test_the_final_fit_learns_from_all_but_test_for_the_best_number_of_epochs() -> None:
    parts = make_parts(0.2)
    found = train(parts, parameters("encoded_mf", early_stopping=stopping(2), final_fit=True))
    params, known = parameters("encoded_mf"), parts.train.joined(parts.validation)
    job = prepare(known, parts.test, parts.item_order, params)
    fit(job, params, found.metrics["epochs"])
    assert_array_equal(job.factors().user_factors, found.factors.user_factors)
    assert_array_equal(job.factors().item_factors, found.factors.item_factors)
    assert_equal(dataclasses.asdict(job.fold_in), dataclasses.asdict(found.fold_in))
    assert found.fold_in.trained_on == len(known)  # type: ignore[union-attr]


def test_a_final_fit_on_all_ratings_learns_from_test_too() -> None:
    parts, params = make_parts(), parameters("mf", final_fit="all")
    found, known = train(parts, params), parts.train.joined(parts.validation, parts.test)
    job = prepare(known, parts.test, parts.item_order, params)
    fit(job, params, params.mf.epochs)
    assert_array_equal(job.factors().user_factors, found.factors.user_factors)
    # The loss on test is that of the model before, which had not learned from it.
    assert found.metrics["val_loss"] == train(parts, parameters("mf")).metrics["val_loss"]


def user_fold(parts: Parts) -> Parts:
    """Hold out the first ten users for test and the next ten for validation, with the rest of their ratings given."""
    train = parts.train.users
    held_out = {"test": parts.test.of(parts.test.users < 10), "train": parts.train.of(train >= 20)}
    known = (parts.validation.users >= 10) & (parts.validation.users < 20)
    return dataclasses.replace(
        parts, validation=parts.validation.of(known), given=parts.train.of(train < 20), **held_out
    )


@pytest.mark.parametrize(
    ("model", "final_fit", "first"),
    [
        ("mf", True, 10),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("mf", False, 20), ("mf", "all", 0)]),
        *(pytest.param(model, True, 10, marks=pytest.mark.slow) for model in IN_EPOCHS[1:]),
    ],
)
def test_users_held_out_whole_are_folded_in(model: str, final_fit: object, first: int) -> None:
    parts = user_fold(make_parts(0.2))
    found = train(
        parts,
        parameters(model, {"ensemble_size": 2, "epochs": 2}, final_fit=final_fit, early_stopping=stopping(1, k=5)),
    )
    assert "val_loss" not in found.history  # their vectors are not trained
    assert found.history["val_map"].max() > 0
    given = parts.given.of(parts.given.users < first)
    people = np.unique(given.users)
    assert people.tolist() == list(range(first))
    expected = fold_in.fold_in(found.factors, found.fold_in, given.matrix()[people])
    assert_array_equal(found.factors.user_factors[people], np.round(expected.user_factors, DECIMALS))
    assert_array_equal(found.factors.user_bias[people], np.round(expected.user_bias, DECIMALS))


def test_what_is_given_of_others_changes_nothing_that_is_learned() -> None:
    parts = user_fold(make_parts(0.2))
    nothing = dataclasses.replace(parts, given=parts.given.of(np.zeros(len(parts.given), dtype=bool)))
    found, other = (train(each, parameters("mf", {"epochs": 2})).factors for each in (parts, nothing))
    assert_array_equal(other.item_factors, found.item_factors)
    assert_array_equal(other.item_bias, found.item_bias)
    assert_array_equal(other.user_factors[20:], found.user_factors[20:])
    assert_array_equal(other.user_bias[20:], found.user_bias[20:])
    # Nothing is known of the others.
    assert not other.user_factors[:20].any()
    assert not other.user_bias[:20].any()
