"""What every model of `recommender.params.MODELS` must do, whatever it learns."""

import dataclasses
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from numpy.typing import NDArray
from scipy.special import logsumexp

from recommender.errors import UserError
from recommender.models.core.backend import keras
from recommender.models.core.saving import Factorization, save_model
from recommender.models.core.training import SEED_STEP, Trained, fit, prepare, train
from recommender.params import MODELS, Train
from recommender.ranking import fold_in
from recommender.ranking.factors import Factors
from tests.conftest import IN_EPOCHS
from tests.models.helpers import ITEMS, USERS, make_parts, parameters

EPOCHS = {name: parameters(name) for name in IN_EPOCHS} | {
    "mf, batch_sum": parameters("mf", {"interaction": "batch_sum"}),
    "mf, lazy_adam": parameters("mf", {"optimizer": "lazy_adam", "global_mean": True}),
}
CASES = {name: parameters(name) for name in MODELS} | EPOCHS
in_epochs = pytest.mark.parametrize("case", EPOCHS.values(), ids=EPOCHS, indirect=True)
LIKED = np.array([3, 14, 27, 60], dtype=np.int32)
STARS = np.array([5, 4, 5, 2], dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """A model that has been trained and saved."""

    params: Train
    trained: Trained
    folder: Path


def save(trained: Trained, folder: Path) -> None:
    """Write what the train stage writes of a model."""
    save_model(trained.model, folder / "mf.keras")
    trained.factors.save(folder / "factors.npz")
    fold_in.save(trained.fold_in, folder / "fold_in.npz")


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Train each of `CASES` once."""
    made = Case(request.param, train(make_parts(), request.param), tmp_path_factory.mktemp("model"))
    save(made.trained, made.folder)
    return made


@in_epochs
def test_training_lowers_the_loss(case: Case) -> None:
    history = case.trained.history
    assert history["loss"][-1] < history["loss"][0]
    assert set(history) == {"epoch", "loss", "val_loss"}
    assert case.trained.metrics["val_loss"] == history["val_loss"][-1]


@pytest.mark.parametrize("model", IN_EPOCHS)
def test_losses_of_train_and_test_are_means_over_ratings_without_penalties(model: str) -> None:
    parts = make_parts()
    section = {"dropout": 0.0} if "dropout" in type(parameters(model).section).model_fields else {}
    params = parameters(model, {"learning_rate": 1e-6, "epochs": 1, **section})  # the loss changes little on the way
    known, job = parts.train, prepare(parts.train, parts.train, parts.item_order, params)
    if type(job.model).test_step is keras.Model.test_step:
        pytest.skip("Keras' own steps weigh batches alike, whatever they hold, and add penalties")
    logs = fit(job, params, 1, [])
    factors, size = (
        job.factors(),
        params.section.embedding_size,
    )  # what is regressed after training follows these numbers
    factors = dataclasses.replace(
        factors, user_factors=factors.user_factors[:, :size], item_factors=factors.item_factors[:, :size]
    )
    scores = factors.pair_scores(*(part.ravel().astype(np.int32) for part in np.indices(known.shape)))
    scores = scores.reshape(known.shape)
    weights, terms = np.ones(len(known)), np.square(scores[known.users, known.items] - known.ratings)
    if params.section.scores == "order":
        weights = params.section.rating_base ** (known.ratings - 4.0)
        terms = logsumexp(scores, axis=1)[known.users] - scores[known.users, known.items]
    expected = np.average(terms, weights=weights)
    assert logs["val_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-3)


@in_epochs
def test_every_batch_is_a_step(case: Case) -> None:
    # Keras' own train_step would make one step of a stack of batches: batches are of ratings, or of users or items.
    parts, section = make_parts(), case.params.section
    job = prepare(parts.train, parts.test, parts.item_order, case.params)
    fit(job, case.params, epochs=2)
    steps = {2 * math.ceil(rows / section.batch_size) for rows in (len(parts.train), USERS, ITEMS)}
    assert int(job.model.optimizer.iterations) in steps


def test_training_again_writes_the_same_bytes(case: Case, tmp_path: Path) -> None:
    save(train(make_parts(), case.params), tmp_path)
    for path in case.folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_saved_files_score_as_the_trained_model(case: Case) -> None:
    factors, model = Factors.load(case.folder / "factors.npz"), keras.models.load_model(case.folder / "mf.keras")
    assert isinstance(model, Factorization)
    users, items = (part.ravel().astype(np.int32) for part in np.indices((USERS, ITEMS)))
    expected = case.trained.factors.predict(users, items)
    assert expected.std() > 0.01
    assert_allclose(factors.predict(users, items), expected, rtol=0, atol=1e-6)  # the mean is saved as float32
    predicted = model.predict(np.stack([users, items], axis=1), batch_size=32, verbose=0)[:, 0]
    assert_allclose(predicted, expected, rtol=0, atol=1e-4)
    assert_equal(vars(fold_in.load(case.folder / "fold_in.npz")), dataclasses.asdict(case.trained.fold_in))
    assert factors.scores == case.params.section.scores
    assert_array_equal(factors.item_order, make_parts().item_order)


def test_the_saved_model_has_no_date_and_sorted_members(case: Case) -> None:
    with zipfile.ZipFile(case.folder / "mf.keras") as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert "date_saved" not in json.loads(archive.read("metadata.json"))


def data_loss(loss: fold_in.FoldIn, factors: Factors) -> float:
    """Return the training loss of the only user, without penalties: these are 0 for a vector of zeros."""
    scores: NDArray[np.float64] = factors.pair_scores(np.zeros(ITEMS, np.int32), np.arange(ITEMS, dtype=np.int32))
    if isinstance(loss, fold_in.RatingLoss):
        return float(np.square(STARS - scores[LIKED]).sum())
    weights = loss.rating_base ** (STARS - 4.0)
    return float(weights @ (logsumexp(scores) - scores[LIKED]))


def test_a_new_user_is_folded_in_or_refused_with_a_reason(case: Case) -> None:
    factors, loss = case.trained.factors, case.trained.fold_in
    ratings = sp.csr_array((STARS, LIKED, np.array([0, len(LIKED)])), shape=(1, ITEMS))
    if factors.interaction == "batch_sum":
        with pytest.raises(UserError, match=r"interaction: with batch_sum .* set it to dot"):
            fold_in.fold_in(factors, loss, ratings)
        return
    folded = fold_in.fold_in(factors, loss, ratings)
    zeros = dataclasses.replace(
        folded, user_factors=np.zeros_like(folded.user_factors), user_bias=np.zeros_like(folded.user_bias)
    )
    assert data_loss(loss, folded) < 0.99 * data_loss(loss, zeros)  # false for NaN


@pytest.mark.parametrize(
    "case",
    [pytest.param(CASES[name], id=name, marks=[pytest.mark.slow] if name != "mf" else []) for name in IN_EPOCHS],
    indirect=True,
)
def test_an_ensemble_scores_as_the_mean_of_models_of_different_seeds(case: Case) -> None:
    params, first = case.params, case.trained.factors
    second = train(make_parts(), params.model_copy(update={"seed": params.seed + SEED_STEP})).factors
    both = train(make_parts(), parameters(params.model, {"ensemble_size": 2}))
    users, items = (part.ravel().astype(np.int32) for part in np.indices((USERS, ITEMS)))
    one, other = first.pair_scores(users, items), second.pair_scores(users, items)
    assert np.abs(one - other).max() > 0.01
    assert_allclose(both.factors.pair_scores(users, items), (one + other) / 2, rtol=0, atol=1e-5)
    assert isinstance(both.fold_in, (fold_in.RatingLoss, fold_in.SoftmaxLoss))
    assert both.fold_in.ensemble_size == 2
    assert both.factors.scores == first.scores
