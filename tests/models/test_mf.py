"""Matrix factorization: training in stacks against Keras' own `fit` and against slow NumPy."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core import batches
from recommender.models.core.backend import keras, ops, tf
from recommender.models.core.batches import RatingBatches
from recommender.models.core.training import Job, fit, prepare
from recommender.models.mf import MatrixFactorization
from recommender.params import Train
from recommender.ranking.fold_in import RatingLoss
from tests.models.helpers import parameters

USERS, ITEMS, SIZE, BATCH = 23, 31, 5, 16
CLOSE = {"rtol": 0, "atol": 1e-5}
ORDER = np.arange(ITEMS, dtype=np.int32)


def make_ratings(count: int, seed: int) -> Interactions:
    random = np.random.default_rng(seed)
    pairs = random.permutation(USERS * ITEMS)[:count]
    ratings = random.integers(1, 6, count).astype(np.float32)
    return Interactions((pairs // ITEMS).astype(np.int32), (pairs % ITEMS).astype(np.int32), ratings, (USERS, ITEMS))


# 397 = 24 batches of 16 and one of 13: 12 epochs are 300 steps; 83 test ratings end in a short batch too.
KNOWN, TEST = make_ratings(397, 1), make_ratings(83, 2)


def make_params(**section: Any) -> Train:  # noqa: ANN401 - any parameter
    values = {"schedule": "constant", "embedding_size": SIZE, "learning_rate": 0.005, "batch_size": BATCH}
    return parameters("mf", {**values, "epochs": 12, "l2": 1e-3, **section})


def trained(params: Train, known: Interactions = KNOWN) -> tuple[Job, dict[str, list[float]]]:
    """Return the trained job and its logs."""
    job = prepare(known, TEST, ORDER, params)
    return job, fit(job, params, params.section.epochs, [])


def weights_of(model: Any) -> list[NDArray[np.float32]]:  # noqa: ANN401 - either model
    return [np.asarray(layer.embeddings).copy() for layer in (model.embedding, model.user_bias, model.item_bias)]


def initial_weights(params: Train) -> list[NDArray[np.float32]]:
    return weights_of(prepare(KNOWN, TEST, ORDER, params).model)


class Plain(keras.Model):
    """The model as one would write it first, with layers of Keras alone."""

    def __init__(self, interaction: str, l2: float) -> None:
        """Make the layers."""
        super().__init__()
        self.axes = 2 if interaction == "batch_sum" else None
        self.embedding = keras.layers.Embedding(
            USERS + ITEMS, SIZE, embeddings_regularizer=keras.regularizers.L2(l2), name="embedding"
        )
        self.user_bias = keras.layers.Embedding(USERS, 1)
        self.item_bias = keras.layers.Embedding(ITEMS, 1)

    def call(self, inputs: Any) -> Any:  # noqa: ANN401 - tensors
        """Predict ratings, (batch, 1)."""
        user, item = self.embedding(inputs[:, 0]), self.embedding(inputs[:, 1] + USERS)
        if self.axes:
            product = tf.tensordot(user, item, axes=self.axes)
        else:
            product = tf.reduce_sum(user * item, axis=1, keepdims=True)
        return product + self.user_bias(inputs[:, 0]) + self.item_bias(inputs[:, 1])


class PlainBatches(keras.utils.PyDataset):
    """Ordinary batches in the order of `RatingBatches`: a new seeded one each epoch, or the ratings' own."""

    def __init__(self, ratings: Interactions, seed: int | None) -> None:
        """Start at the first epoch."""
        super().__init__()
        self.ratings, self.seed, self.epoch = ratings, seed, 0

    def __len__(self) -> int:
        """Count the batches, a short last one included."""
        return -(-len(self.ratings) // BATCH)

    def on_epoch_end(self) -> None:
        """Move on to the next order."""
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return one batch."""
        order = np.arange(len(self.ratings))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        rows = order[index * BATCH : (index + 1) * BATCH]
        pairs = np.stack([self.ratings.users[rows], self.ratings.items[rows]], axis=1)
        return pairs, self.ratings.ratings[rows, None]


@pytest.mark.parametrize(("interaction", "l2"), [("dot", 1e-3), ("dot", 1e-6), ("batch_sum", 1e-3)])
def test_stacks_train_as_plain_keras_does_batch_by_batch(interaction: str, l2: float) -> None:
    params = make_params(interaction=interaction, l2=l2)
    job, logs = trained(params)
    before = initial_weights(params)
    plain = Plain(interaction, l2)
    plain(np.zeros((1, 2), dtype=np.int32))
    for layer, weights in zip((plain.embedding, plain.user_bias, plain.item_bias), before, strict=True):
        layer.embeddings.assign(weights)
    plain.compile(keras.optimizers.Adam(0.005), loss="mse", metrics=["mse"], jit_compile=False)
    history = plain.fit(
        PlainBatches(KNOWN, 7), validation_data=PlainBatches(TEST, None), epochs=12, shuffle=False, verbose=0
    ).history
    for found, expected, start in zip(weights_of(job.model), weights_of(plain), before, strict=True):
        assert_allclose(found, expected, **CLOSE)
        assert np.abs(found - start).mean() > 0.01, "training moved nothing"
    # Ours are without the L2 term, in training and after it.
    assert_allclose(logs["val_loss"], history["val_mse"], **CLOSE)
    assert_allclose(logs["loss"], history["mse"], **CLOSE)
    assert np.abs(np.subtract(history["val_loss"], history["val_mse"])).min() > l2
    assert logs["loss"][-1] < logs["loss"][0] - 1


def train_lazily(params: Train) -> list[NDArray[np.float64]]:
    """Return the weights that lazy Adam reaches: batch by batch, row by row, in float64."""
    table, user_bias, item_bias = (weights.astype(np.float64) for weights in initial_weights(params))
    weights = np.concatenate([table, np.concatenate([user_bias, item_bias])], axis=1)
    moments, squares, step = np.zeros_like(weights), np.zeros_like(weights), 0
    data = PlainBatches(KNOWN, params.seed)
    data.on_epoch_end()  # as Keras does after a first look at the data
    for _ in range(params.mf.epochs):
        for index in range(len(data)):
            pairs, ratings = data[index]
            step += 1
            gradient = np.zeros_like(weights)
            for (user, item), rating in zip(pairs.tolist(), ratings[:, 0].tolist(), strict=True):
                left, right = weights[user], weights[USERS + item]
                slope = 2 * (left[:SIZE] @ right[:SIZE] + left[SIZE] + right[SIZE] - rating) / len(ratings)
                gradient[user] += slope * np.append(right[:SIZE], 1)
                gradient[USERS + item] += slope * np.append(left[:SIZE], 1)
            rate = params.mf.learning_rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            for row in {*pairs[:, 0].tolist(), *(USERS + pairs[:, 1]).tolist()}:
                total = gradient[row] + 2 * params.mf.l2 * np.append(weights[row, :SIZE], 0)
                moments[row] += (total - moments[row]) * (1 - 0.9)
                squares[row] += (total**2 - squares[row]) * (1 - 0.999)
                weights[row] -= rate * moments[row] / (np.sqrt(squares[row]) + 1e-7)
        data.on_epoch_end()
    return [weights[:, :SIZE], weights[:USERS, SIZE:], weights[USERS:, SIZE:]]


def test_lazy_adam_moves_only_the_users_and_items_of_a_batch() -> None:
    params = make_params(optimizer="lazy_adam")
    job, _ = trained(params)
    for found, expected in zip(weights_of(job.model), train_lazily(params), strict=True):
        assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert job.fold_in == RatingLoss(len(KNOWN), 1e-3, lazy_batch=BATCH)
    one = Interactions(KNOWN.users[:1], KNOWN.items[:1], KNOWN.ratings[:1], KNOWN.shape)
    model = trained(params, one)[0].model
    for found, before in zip(weights_of(model), initial_weights(params), strict=True):
        assert 1 <= (found != before).any(axis=1).sum() <= 2


def test_training_in_several_stacks_and_in_ordinary_batches_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_params(epochs=4)
    job, logs = trained(params)
    monkeypatch.setattr(batches, "STACK_ROWS", 48)
    parts, same = trained(params)
    assert_allclose([same["loss"], same["val_loss"]], [logs["loss"], logs["val_loss"]], **CLOSE)
    plain = prepare(KNOWN, TEST, ORDER, params).model
    plain.compile(keras.optimizers.Adam(0.005), loss="mse", jit_compile=False)
    plain.fit(PlainBatches(KNOWN, 7), epochs=4, shuffle=False, verbose=0)
    for found, other, expected in zip(*map(weights_of, (job.model, parts.model, plain)), strict=True):
        assert_allclose(found, expected, **CLOSE)
        assert_allclose(other, expected, **CLOSE)


@pytest.mark.parametrize(
    ("count", "batch", "stack_rows"),
    [(397, 16, 2**16), (397, 16, 100), (396, 1, 7), (5, 16, 2**16), (200, 40, 65), (200, 200, 10), (64, 16, 32)],
)
def test_stacks_contain_every_rating_once_and_no_stack_is_empty(
    count: int, batch: int, stack_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "STACK_ROWS", stack_rows)
    known = make_ratings(count, 3)
    data = RatingBatches(known, batch, 9)
    orders = []
    for _ in range(2):
        parts = [data[index] for index in range(data.num_batches)]
        assert len({part[0].shape for part in parts}) == 1
        assert all(part[2].sum() > 0 for part in parts), [float(part[2].sum()) for part in parts]
        assert all(part[0].shape[1:] == (batch, 2) and part[2].shape[1:] == (batch, 1) for part in parts)
        weights = np.concatenate([part[2].ravel() for part in parts])
        assert_array_equal(weights, np.arange(len(weights)) < count)
        pairs = np.concatenate([part[0].reshape(-1, 2) for part in parts])[:count]
        ratings = np.concatenate([part[1].ravel() for part in parts])[:count]
        orders.append(list(zip(*pairs.T.tolist(), ratings.tolist(), strict=True)))
        data.on_epoch_end()
    everything = list(zip(known.users.tolist(), known.items.tolist(), known.ratings.tolist(), strict=True))
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(everything)
    assert orders[0] != orders[1]
    kept = RatingBatches(known, batch, None)
    kept.on_epoch_end()
    first = np.concatenate([kept[index][1].ravel() for index in range(kept.num_batches)])[:count]
    assert_array_equal(first, known.ratings)


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
def test_the_exported_factors_predict_what_the_trained_model_predicts(interaction: str) -> None:
    job, logs = trained(make_params(interaction=interaction, global_mean=True, epochs=2))
    pairs = np.stack([TEST.users, TEST.items], axis=1)
    predicted = job.factors().predict(TEST.users, TEST.items)
    assert predicted.std() > 0.1
    assert_allclose(job.model.predict(pairs, batch_size=32, verbose=0)[:, 0], predicted, **CLOSE)
    assert job.fold_in == RatingLoss(len(KNOWN), 1e-3)
    if interaction == "dot":  # with batch_sum the loss is that of batches of 16
        assert logs["val_loss"][-1] == pytest.approx(np.mean((predicted - TEST.ratings) ** 2), abs=2e-5)


def test_the_initial_vectors_are_he_normal_over_users_and_items_and_the_biases_small() -> None:
    model = MatrixFactorization((4000, 1000), make_params(embedding_size=8).mf, 0.0, seed=1)
    table, *biases = weights_of(model)
    assert table.std() == pytest.approx(np.sqrt(2 / 5000), rel=0.02)
    for bias in biases:
        assert np.abs(bias).max() <= 0.05
        assert bias.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.05)
    assert float(ops.sum(model(np.array([[0, 0]], dtype=np.int32)))) == pytest.approx(
        float(table[0] @ table[4000] + biases[0][0, 0] + biases[1][0, 0]), abs=1e-6
    )
