"""Item vectors computed from ratings: prediction, loss and gradients, against NumPy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.backend import tf
from recommender.models.core.training import prepare
from recommender.models.encoded_mf import EncodedFactorization, damped_biases
from recommender.ranking.fold_in import RatingLoss
from tests.models.helpers import make_parts, parameters

USERS, ITEMS, SIZE, RATINGS, BATCHES = 6, 5, 2, 11, 2
Batch = tuple[tuple[NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32]]


def make(dropout: float = 0.0) -> EncodedFactorization:
    section = {"embedding_size": SIZE, "dropout": dropout, "l2": 0.3, "encoder_l2": 0.2}
    params = parameters("encoded_mf", section).encoded_mf
    model = EncodedFactorization((USERS, ITEMS), params, RATINGS, BATCHES, 3.5, seed=1)
    random = np.random.default_rng(3)
    for weight in model.trainable_variables:
        weight.assign(random.normal(0, 0.5, weight.shape))
    model.compile()
    return model


def batch() -> Batch:
    """Return two items and one row of padding."""
    random = np.random.default_rng(4)
    ratings = random.integers(0, 6, (3, USERS)).astype(np.float32)
    ratings[2] = 0
    residuals = np.where(ratings > 0, random.normal(0, 1, ratings.shape), 0).astype(np.float32)
    return (np.array([3, 1, -1], dtype=np.int32), residuals), ratings


def predict(model: EncodedFactorization) -> NDArray[np.float64]:
    users, encoder, user_bias, item_bias = (np.asarray(part, dtype=np.float64) for part in model.trainable_variables)
    (items, residuals), _ = batch()
    return 3.5 + item_bias[items.clip(min=0)][:, None] + user_bias + residuals.astype(np.float64) @ encoder @ users.T


def test_predictions_are_those_of_numpy() -> None:
    model = make(dropout=0.9)
    assert_allclose(np.asarray(model(batch()[0])), predict(model), rtol=1e-5)


def test_loss_and_gradients_are_those_of_numpy() -> None:
    model = make()
    inputs, ratings = batch()
    with tf.GradientTape() as tape:
        loss = model.compute_loss(inputs, ratings, model(inputs, training=True))
    found = [np.asarray(tf.convert_to_tensor(part)) for part in tape.gradient(loss, model.trainable_variables)]

    users, encoder, user_bias, item_bias = (np.asarray(part, dtype=np.float64) for part in model.trainable_variables)
    residuals = inputs[1].astype(np.float64)
    error = np.where(ratings > 0, predict(model) - ratings, 0) * BATCHES / RATINGS
    assert_allclose(found[0], 2 * error.T @ (residuals @ encoder) + 2 * 0.3 * users, rtol=1e-4, atol=1e-5)
    assert_allclose(found[1], 2 * residuals.T @ (error @ users) + 2 * 0.2 * encoder, rtol=1e-4, atol=1e-5)
    assert_allclose(found[2], 2 * error.sum(axis=0) + 2 * user_bias / RATINGS, rtol=1e-4, atol=1e-5)
    expected = np.zeros(ITEMS)
    expected[[3, 1]] = 2 * error[:2].sum(axis=1) + 2 * item_bias[[3, 1]] * BATCHES / RATINGS
    assert_allclose(found[3], expected, rtol=1e-4, atol=1e-5)
    squares = (error**2).sum() * RATINGS / BATCHES
    penalty = 0.3 * (users**2).sum() + 0.2 * (encoder**2).sum()
    penalty += (user_bias**2).sum() / RATINGS + (item_bias[[3, 1]] ** 2).sum() * BATCHES / RATINGS
    assert float(loss) == pytest.approx(squares + penalty, rel=1e-5)


def test_the_held_out_loss_is_the_mean_squared_error_of_all_held_out_ratings() -> None:
    model = make()
    inputs, ratings = batch()
    parts = [(inputs, ratings), ((inputs[0][::-1].copy(), inputs[1][::-1].copy()), np.eye(3, USERS, dtype=np.float32))]
    model.reset_metrics()
    for part in parts:
        found = model.test_step(tf.nest.map_structure(tf.constant, part))
    # Mean of batches, each weighted by its ratings.
    error = [np.asarray(model(part[0]))[part[1] > 0] - part[1][part[1] > 0] for part in parts]
    assert float(found["loss"]) == pytest.approx(np.mean(np.concatenate(error) ** 2), rel=1e-5)


def test_the_exported_factors_predict_what_the_model_predicts() -> None:
    parts = make_parts()
    params = parameters("encoded_mf")
    job = prepare(parts.train, parts.test, parts.item_order, params)
    (items, residuals), ratings = job.data[0]
    factors = job.factors()
    predicted = np.asarray(job.model((items[0], residuals[0])))[items[0] >= 0]
    users = np.arange(len(factors.user_factors), dtype=np.int32)
    expected = [factors.pair_scores(users, np.full_like(users, item)) for item in items[0][items[0] >= 0]]
    assert_allclose(predicted, expected, rtol=0, atol=1e-5)
    assert_allclose(ratings[0], parts.train.matrix().toarray().T[items[0]])
    assert factors.global_mean == pytest.approx(parts.train.ratings.mean(), rel=1e-6)
    assert job.fold_in == RatingLoss(len(parts.train), params.encoded_mf.l2, 1.0, params.encoded_mf.dropout)


def test_biases_are_damped_means() -> None:
    stars = np.array([5, 4, 1], dtype=np.float32)
    ratings = Interactions(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32), stars, (2, 2))
    user, item = damped_biases(ratings, 3.0)
    assert_allclose(user, [3 / 7, -2 / 6])
    assert_allclose(item, [(2 - 3 / 7) / 11, ((1 - 3 / 7) + (-2 + 2 / 6)) / 12])
