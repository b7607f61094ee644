"""The ranking loss, its weights and its gradients, against NumPy."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.models.core import batches
from recommender.models.core.backend import keras, tf
from recommender.models.core.batches import RowBatches
from recommender.models.core.training import fit, prepare
from recommender.models.softmax_mf import SoftmaxFactorization, log_shares, rating_weights, weighted_softmax
from recommender.ranking.fold_in import SoftmaxLoss
from recommender.ranking.topk import top_k_of_all
from tests.models.helpers import make_parts, parameters

USERS, ITEMS, SIZE = 5, 7, 3


def slow_loss(weights: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the loss one user and one item at a time."""
    losses = []
    for row, score in zip(weights, scores, strict=True):
        top = max(score)
        partition = top + np.log(sum(np.exp(value - top) for value in score))
        losses.append(-sum(weight * (value - partition) for weight, value in zip(row, score, strict=True)))
    return np.array(losses)


@given(
    arrays(np.float32, (3, 6), elements=st.floats(0, 8, width=32)),
    arrays(np.float32, (3, 6), elements=st.floats(-30, 30, width=32)),
)
@settings(deadline=None, max_examples=60)
def test_the_loss_is_the_weighted_log_likelihood(weights: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
    found = np.asarray(weighted_softmax(weights, scores))
    assert_allclose(found, slow_loss(weights.astype(np.float64), scores.astype(np.float64)), rtol=1e-4, atol=2e-3)


def test_the_loss_of_a_user_without_ratings_is_0() -> None:
    scores = np.array([[1e3, -1e3, 0.0]], dtype=np.float32)
    assert np.asarray(weighted_softmax(np.zeros_like(scores), scores)).tolist() == [0.0]


def make(dropout: float = 0.0) -> SoftmaxFactorization:
    section = {"embedding_size": SIZE, "dropout": dropout, "item_l2": 0.3, "user_l2": 0.2}
    model = SoftmaxFactorization((USERS, ITEMS), parameters("softmax_mf", section).softmax_mf, batch_size=4, seed=1)
    model.item_bias.assign(np.linspace(-1, 1, ITEMS, dtype=np.float32))
    return model


def rows() -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return three users and one row of padding."""
    weights = np.random.default_rng(2).integers(0, 3, (4, ITEMS)).astype(np.float32)
    weights[3] = 0
    return np.array([4, 0, 2, -1], dtype=np.int32), weights


def test_gradients_and_l2_are_those_of_numpy() -> None:
    model = make()
    users, weights = rows()
    model.compile()
    with tf.GradientTape() as tape:
        loss = model.compute_loss(users, weights, model(users, training=True))
    found = [np.asarray(tf.convert_to_tensor(part)) for part in tape.gradient(loss, model.trainable_variables)]

    vectors, items, bias = (np.asarray(part, dtype=np.float64) for part in model.trainable_variables)
    batch = vectors[users[:3]]
    scores = batch @ items.T + bias
    share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    slope = (share * weights[:3].sum(axis=1, keepdims=True) - weights[:3]) / 4
    expected = np.zeros_like(vectors)
    expected[users[:3]] = slope @ items + 2 * 0.2 * batch
    assert_allclose(found[0], expected, atol=1e-6)
    assert_allclose(found[1], slope.T @ batch + 2 * 0.3 * items, atol=1e-6)
    assert_allclose(found[2], slope.sum(axis=0), atol=1e-6)
    penalty = 0.3 * (items**2).sum() + 0.2 * (batch**2).sum()
    assert float(loss) == pytest.approx(slow_loss(weights[:3], scores).sum() / 4 + penalty, rel=1e-5)


def test_outside_training_there_is_no_penalty_and_no_dropout() -> None:
    model = make(dropout=0.9)
    users, _ = rows()
    vectors, items, bias = (np.asarray(part) for part in model.trainable_variables)
    assert_allclose(np.asarray(model(users))[:3], vectors[users[:3]] @ items.T + bias, rtol=1e-5, atol=1e-6)
    assert model.losses == []
    assert not np.allclose(np.asarray(model(users, training=True)), np.asarray(model(users)))


def test_dropout_keeps_the_expected_score() -> None:
    model = make(dropout=0.5)
    users = np.zeros(20_000, dtype=np.int32)
    mean = np.asarray(model(users, training=True)).mean(axis=0)
    assert_allclose(mean, np.asarray(model(users[:1]))[0], atol=0.005)


def some_ratings() -> Interactions:
    stars = np.array([4, 5, 2.5, 1], dtype=np.float32)
    return Interactions(np.array([0, 0, 1, 2], np.int32), np.array([1, 2, 1, 0], np.int32), stars, (4, 3))


def test_weights_are_powers_of_the_base_and_biases_start_at_the_log_of_the_shares() -> None:
    weights = rating_weights(some_ratings(), 2.0)
    assert_allclose(weights.toarray(), [[0, 1, 2], [0, 2**-1.5, 0], [0.125, 0, 0], [0, 0, 0]], rtol=1e-6)
    assert rating_weights(some_ratings(), 1.0).data.tolist() == [1, 1, 1, 1]
    total = np.array([0.125, 1 + 2**-1.5, 2])
    assert_allclose(log_shares(weights), np.log((total + 0.0625) / total.sum()), rtol=1e-6)


@pytest.mark.parametrize(("cells", "stacks"), [(1, 2), (2**24, 1)])
def test_row_batches_contain_every_user_once_in_a_new_order_each_epoch(
    cells: int, stacks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "STACK_CELLS", cells)
    weights = rating_weights(some_ratings(), 2.0)
    data = RowBatches((weights,), 3, seed=5)
    orders = []
    for _ in range(3):
        parts = [data[index] for index in range(data.num_batches)]
        assert [part.shape for part in parts[0]] == [(2 // stacks, 3), (2 // stacks, 3, 3)]
        numbers = np.concatenate([numbers.ravel() for numbers, _ in parts])
        targets = np.concatenate([targets.reshape(-1, 3) for _, targets in parts])
        assert sorted(numbers.tolist()) == [-1, -1, 0, 1, 2, 3]
        assert_allclose(targets, np.where(numbers[:, None] >= 0, weights.toarray()[numbers], 0))
        orders.append(numbers.tolist())
        data.on_epoch_end()
    assert orders[0] != orders[1] or orders[1] != orders[2]
    kept = RowBatches((weights,), 3, seed=None)
    assert kept[0][0][0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("cells", [1, 10_000, 100_000, 10**7])
def test_no_more_cells_are_dense_at_a_time_than_a_stack_may_have(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "STACK_CELLS", cells)
    matrix = sp.random_array((2000, 70), density=0.1, rng=np.random.default_rng(1), format="csr", dtype=np.float32)
    data = RowBatches((matrix,), 16, None)
    assert data[0][1].size <= max(cells, 16 * 70)
    numbers = np.concatenate([data[index][0].ravel() for index in range(data.num_batches)])
    assert sorted(numbers[numbers >= 0].tolist()) == list(range(2000))


def test_a_stack_takes_the_steps_that_keras_takes_one_by_one() -> None:
    users, weights = rows()
    more = np.array([1, 3, -1, -1], dtype=np.int32), np.roll(weights, 1, axis=0) * (np.arange(4) < 2)[:, None]
    parts = [(users, weights), (more[0], more[1].astype(np.float32)), (users[::-1].copy(), weights[::-1].copy())]
    padding = np.full(4, -1, np.int32), np.zeros_like(weights)
    trained = []
    for stacked in (False, True):
        model = make(dropout=0.5)
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 6)))
        model.optimizer.build(model.trainable_variables)
        stack = tuple(np.stack(columns) for columns in zip(*parts, padding, strict=True))
        for _ in range(2):
            model.reset_metrics()
            for part in [stack] if stacked else parts:
                model.train_step(tf.nest.map_structure(tf.constant, part))
        trained.append([np.asarray(part) for part in model.variables])
        assert int(model.optimizer.iterations) == 6
    for one, other in zip(*trained, strict=True):
        assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_it_ranks_better_than_popularity_where_taste_is_planted_and_exports_what_it_scores() -> None:
    parts = make_parts(users=400, items=200, ratings=20_000)
    params = parameters("softmax_mf", {"embedding_size": 32, "learning_rate": 0.02, "batch_size": 25, "epochs": 30})
    job = prepare(parts.train, parts.test, parts.item_order, params)
    fit(job, params, 30)
    held_out, factors = HeldOut.of(parts.test, parts.train, 0.85), job.factors()
    popular = top_k_of_all(held_out.users, held_out.seen, 25, parts.train.item_counts())
    assert evaluate(factors, held_out, 25)[0].at("map") > 1.2 * held_out.measure(popular).at("map")
    users, items = (part.ravel().astype(np.int32) for part in np.indices((400, 200)))
    scores = np.asarray(job.model(np.arange(400, dtype=np.int32)))
    assert_allclose(factors.pair_scores(users, items), scores.ravel(), rtol=0, atol=1e-4)
    assert job.fold_in == SoftmaxLoss(2.0, 25 * params.softmax_mf.user_l2, params.softmax_mf.dropout)
