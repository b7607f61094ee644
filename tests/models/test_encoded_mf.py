"""Item vectors computed from who rated the items: prediction, gradients, inputs and regression, against NumPy."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.algebra import TILE
from recommender.models.core.backend import tf
from recommender.models.core.batches import RatingBatches
from recommender.models.core.training import prepare
from recommender.models.encoded_mf import (
    ALTERNATIONS,
    DAMPING,
    FEATURES,
    RIDGE,
    EncodedFactorization,
    damped_biases,
    regressed,
    rotated_inputs,
)
from recommender.ranking.fold_in import EncodedLoss, fold_in
from tests.models.helpers import ITEMS as MANY_ITEMS
from tests.models.helpers import USERS as MANY_USERS
from tests.models.helpers import make_parts, parameters

USERS, ITEMS, SIZE, INPUTS, RATINGS, BATCHES = 6, 5, 2, 4, 11, 2
Batch = tuple[NDArray[np.int32], NDArray[np.float32]]
RANDOM = np.random.default_rng(3)
GIVEN = RANDOM.normal(0, 1, (ITEMS, INPUTS)).astype(np.float32)
USER_BIAS, ITEM_BIAS = (RANDOM.normal(0, 0.5, count).astype(np.float32) for count in (USERS, ITEMS))


def make(dropout: float = 0.0) -> EncodedFactorization:
    section = {"embedding_size": SIZE, "dropout": dropout, "l2": 0.3, "encoder_l2": 0.2}
    params = parameters("encoded_mf", section).encoded_mf
    model = EncodedFactorization((3.5, USER_BIAS, ITEM_BIAS), GIVEN, params, RATINGS, BATCHES, seed=1)
    random = np.random.default_rng(3)
    for weight in model.trainable_variables:
        weight.assign(random.normal(0, 0.5, weight.shape))
    model.compile()
    return model


def batch() -> Batch:
    """Return two items and one row of padding."""
    ratings = np.random.default_rng(4).integers(0, 6, (3, USERS)).astype(np.float32)
    ratings[2] = 0
    return np.array([3, 1, -1], dtype=np.int32), ratings


def predict(model: EncodedFactorization) -> NDArray[np.float64]:
    users, encoder = (np.asarray(part, dtype=np.float64) for part in model.trainable_variables)
    items = batch()[0].clip(min=0)
    return 3.5 + ITEM_BIAS[items][:, None] + USER_BIAS + GIVEN[items].astype(np.float64) @ encoder @ users.T


def test_predictions_are_those_of_numpy() -> None:
    model = make(dropout=0.9)
    assert_allclose(np.asarray(model(batch()[0])), predict(model), rtol=1e-5)


def test_loss_and_gradients_are_those_of_numpy() -> None:
    model = make()
    items, ratings = batch()
    with tf.GradientTape() as tape:
        loss = model.compute_loss(items, ratings, model(items, training=True))
    found = [np.asarray(tf.convert_to_tensor(part)) for part in tape.gradient(loss, model.trainable_variables)]

    users, encoder = (np.asarray(part, dtype=np.float64) for part in model.trainable_variables)
    inputs = GIVEN[items.clip(min=0)].astype(np.float64)
    error = np.where(ratings > 0, predict(model) - ratings, 0) * BATCHES / RATINGS
    assert_allclose(found[0], 2 * error.T @ (inputs @ encoder) + 2 * 0.3 * users, rtol=1e-4, atol=1e-5)
    assert_allclose(found[1], 2 * inputs.T @ (error @ users) + 2 * 0.2 * encoder, rtol=1e-4, atol=1e-5)
    assert len(found) == 2
    squares = (error**2).sum() * RATINGS / BATCHES
    assert float(loss) == pytest.approx(squares + 0.3 * (users**2).sum() + 0.2 * (encoder**2).sum(), rel=1e-5)


def test_the_held_out_loss_is_the_mean_squared_error_of_all_held_out_ratings() -> None:
    model, random = make(), np.random.default_rng(5)
    count = 11
    held_out = Interactions(
        random.integers(0, USERS, count).astype(np.int32),
        random.integers(0, ITEMS, count).astype(np.int32),
        random.integers(1, 6, count).astype(np.float32),
        (USERS, ITEMS),
    )
    batches = RatingBatches(held_out, 2, None, stack_rows=6)
    model.reset_metrics()
    for number in range(batches.num_batches):
        found = model.test_step(tf.nest.map_structure(tf.constant, batches[number]))
    users, encoder = (np.asarray(part, dtype=np.float64) for part in model.trainable_variables)
    scores = 3.5 + ITEM_BIAS[:, None] + USER_BIAS + GIVEN.astype(np.float64) @ encoder @ users.T
    errors = scores[held_out.items, held_out.users] - held_out.ratings
    assert float(found["loss"]) == pytest.approx(np.mean(errors**2), rel=1e-5)


def test_the_exported_factors_predict_what_the_model_predicts_and_the_regression_of_the_rest() -> None:
    parts = make_parts()
    params = parameters("encoded_mf")
    job = prepare(parts.train, parts.test, parts.item_order, params)
    items, ratings = job.data[0]
    factors = job.factors()
    size, users = params.encoded_mf.embedding_size, np.arange(MANY_USERS, dtype=np.int32)
    assert factors.user_factors.shape == (MANY_USERS, size + min(FEATURES, MANY_USERS))
    predicted = np.asarray(job.model(items[0]))[items[0] >= 0, :MANY_USERS]
    rest = factors.user_factors[:, size:] @ factors.item_factors[items[0][items[0] >= 0], size:].T
    expected = [factors.pair_scores(users, np.full_like(users, item)) for item in items[0][items[0] >= 0]]
    assert_allclose(predicted + rest.T, expected, rtol=0, atol=1e-5)
    assert np.abs(rest).max() > 0.05
    assert_allclose(ratings[0][:, :MANY_USERS], parts.train.matrix().toarray().T[items[0]])
    assert ratings.shape[2] % TILE == 0  # those added have no ratings
    assert not ratings[..., MANY_USERS:].any()
    assert factors.global_mean == pytest.approx(parts.train.ratings.mean(), rel=1e-6)


def test_who_was_trained_on_has_the_same_features_folded_in() -> None:
    parts = make_parts()
    job = prepare(parts.train, parts.test, parts.item_order, parameters("encoded_mf"))
    factors = job.factors()
    assert isinstance(job.fold_in, EncodedLoss)
    folded = fold_in(factors, job.fold_in, parts.train.matrix())
    size = parameters("encoded_mf").encoded_mf.embedding_size
    one, other = (part.user_factors[:, size:] @ factors.item_factors[:, size:].T for part in (folded, factors))
    assert_allclose(one, other, rtol=0, atol=0.02)
    rated = parts.train.matrix()
    of = parts.train.users == 7
    items, stars = parts.train.items[of], parts.train.ratings[of]
    scores = folded.pair_scores(np.full(len(items), 7, np.int32), items)
    assert np.square(scores - stars).mean() < np.square(stars - stars.mean()).mean()
    assert rated.shape == (MANY_USERS, MANY_ITEMS)


def test_biases_are_damped_means_in_turn() -> None:
    stars = np.array([5, 4, 1], dtype=np.float32)
    ratings = Interactions(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32), stars, (2, 2))
    user, item = [0.0, 0.0], [0.0, 0.0]
    for _ in range(ALTERNATIONS):
        item = [(2 - user[0]) / (1 + DAMPING), ((1 - user[0]) + (-2 - user[1])) / (2 + DAMPING)]
        user = [((2 - item[0]) + (1 - item[1])) / (2 + DAMPING), (-2 - item[1]) / (1 + DAMPING)]
    found = damped_biases(ratings, 3.0)
    assert_allclose(found[0], user, rtol=1e-6)
    assert_allclose(found[1], item, rtol=1e-6)


def sparse_residuals() -> sp.csr_array:
    """Return the residuals of 9 items by 20 users; the last item has none, and one residual is 0."""
    random = np.random.default_rng(6)
    known = random.random((9, 20)) < 0.4
    known[8] = False
    items, users = np.nonzero(known)
    values = random.normal(0, 1, len(items)).astype(np.float32)
    values[3] = 0
    return sp.csr_array((values, (items, users)), shape=known.shape)


def test_rotated_inputs_have_the_products_of_the_inputs() -> None:
    residuals = sparse_residuals()
    profiles = np.random.default_rng(7).random((20, 9)).astype(np.float32)
    profiles[:, 4] = 0
    inputs = np.zeros((9, 60))
    for item in range(9):
        row = slice(residuals.indptr[item], residuals.indptr[item + 1])
        users = residuals.indices[row]
        inputs[item, users] = residuals.data[row] / max(len(users), 1) ** 0.5
        inputs[item, 20 + users] = 1 / max(len(users), 1) ** 0.5
        inputs[item, 40:] = profiles[:, item] / (np.linalg.norm(profiles[:, item]) or 1)
    rotated = rotated_inputs(residuals, profiles)
    assert_allclose(rotated @ rotated.T, inputs @ inputs.T, rtol=0, atol=1e-4)


def test_the_regression_of_the_rest_is_the_ridge_of_each_item() -> None:
    residuals, random = sparse_residuals(), np.random.default_rng(8)
    features, users, encoded = (random.normal(0, 0.4, shape).astype(np.float32) for shape in ((20, 4), (20, 3), (9, 3)))
    found = regressed(features, residuals, users, encoded)
    for item in range(9):
        row = slice(residuals.indptr[item], residuals.indptr[item + 1])
        raters = residuals.indices[row]
        rest = residuals.data[row] - users[raters] @ encoded[item]
        rows = features[raters].astype(np.float64)
        expected = np.linalg.solve(rows.T @ rows + RIDGE * np.eye(4), rows.T @ rest)
        assert_allclose(found[item], expected, rtol=0, atol=1e-4)
