"""Stacked training against Keras' own `fit`, and the model as a Keras citizen."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from stages import train as train_stage
from stages.lib.backend import keras, ops, tf
from stages.lib.model import MatrixFactorization
from stages.lib.params import Train, load_params
from stages.lib.ratings import Ratings
from stages.lib.storage import write_csv
from stages.train import Parts, Stacks, export_factors, save_model

USERS, MOVIES, SIZE = 23, 31, 5
BATCH, EPOCHS = 16, 12
CLOSE = {"rtol": 0, "atol": 1e-5}


def make_ratings(count: int, seed: int) -> Ratings:
    random = np.random.default_rng(seed)
    pairs = random.permutation(USERS * MOVIES)[:count]
    values = random.integers(1, 6, count).astype(np.float32)
    return Ratings((pairs // MOVIES).astype(np.int32), (pairs % MOVIES).astype(np.int32), values, (USERS, MOVIES))


def make_params(**others: Any) -> Train:  # noqa: ANN401 - any parameter
    values = {"embedding_size": SIZE, "learning_rate": 0.005, "batch_size": BATCH, "epochs": EPOCHS, "l2": 1e-3}
    defaults = load_params(REPOSITORY / "params.yaml").train.model_dump()
    return Train(**{**defaults, **values, **others})


def fit(train: Ratings, test: Ratings, params: Train, history: Path) -> tuple[MatrixFactorization, dict[str, float]]:
    """Train as the train stage does."""
    parts = Parts(train, make_ratings(0, 0), test)
    model, _, losses, epochs = train_stage.train(parts, np.arange(MOVIES, dtype=np.int32), params)
    write_csv(history, epochs)
    return model, losses


class Notebook(keras.Model):
    """The model as one would write it first, with layers of Keras alone."""

    def __init__(self, interaction: str, l2: float) -> None:
        """Make the layers."""
        super().__init__()
        self.axes = 2 if interaction == "batch_sum" else None
        self.embedding = keras.layers.Embedding(
            USERS + MOVIES, SIZE, embeddings_regularizer=keras.regularizers.L2(l2), name="embedding"
        )
        self.user_bias = keras.layers.Embedding(USERS, 1)
        self.movie_bias = keras.layers.Embedding(MOVIES, 1)

    def call(self, inputs: Any) -> Any:  # noqa: ANN401 - tensors
        """Predict ratings, (batch, 1)."""
        user, movie = self.embedding(inputs[:, 0]), self.embedding(inputs[:, 1] + USERS)
        if self.axes:
            product = tf.tensordot(user, movie, axes=self.axes)
        else:
            product = tf.reduce_sum(user * movie, axis=1, keepdims=True)
        return product + self.user_bias(inputs[:, 0]) + self.movie_bias(inputs[:, 1])


class Batches(keras.utils.PyDataset):
    """Ordinary batches in the order that `Stacks` documents: a new seeded one each epoch, or the given one."""

    def __init__(self, ratings: Ratings, seed: int | None) -> None:
        """Keep the ratings; a seed of None keeps their order."""
        super().__init__()
        self.ratings, self.seed, self.epoch = ratings, seed, 0

    def __len__(self) -> int:
        """Count the batches, a short last one included."""
        return -(-len(self.ratings.values) // BATCH)

    def on_epoch_end(self) -> None:
        """Go on to the next order."""
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Give one batch."""
        count = len(self.ratings.values)
        order = np.arange(count)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(count)
        rows = order[index * BATCH : (index + 1) * BATCH]
        pairs = np.stack([self.ratings.users[rows], self.ratings.movies[rows]], axis=1)
        return pairs, self.ratings.values[rows, None]


def initial_weights(interaction: str, l2: float) -> list[NDArray[np.float32]]:
    keras.utils.set_random_seed(7)
    model = MatrixFactorization(USERS, MOVIES, SIZE, l2, interaction, 7)
    model.build()
    return [np.array(weights) for weights in weights_of(model)]


def weights_of(model: Any) -> list[NDArray[np.float32]]:  # noqa: ANN401 - either model
    return [np.asarray(layer.embeddings) for layer in (model.embedding, model.user_bias, model.movie_bias)]


def train_plainly(
    train: Ratings, test: Ratings, params: Train
) -> tuple[list[NDArray[np.float32]], dict[str, list[float]]]:
    """Give the weights and the history that Keras reaches batch by batch, compiled without XLA."""
    model = Notebook(params.interaction, params.l2)
    model(np.zeros((1, 2), dtype=np.int32))
    for layer, weights in zip(
        (model.embedding, model.user_bias, model.movie_bias),
        initial_weights(params.interaction, params.l2),
        strict=True,
    ):
        layer.embeddings.assign(weights)
    model.compile(
        optimizer=keras.optimizers.Adam(params.learning_rate), loss="mse", jit_compile=False, run_eagerly=False
    )
    history = model.fit(
        Batches(train, params.seed),
        validation_data=Batches(test, None),
        epochs=params.epochs,
        shuffle=False,
        verbose=0,
    ).history
    return weights_of(model), history


# 397 = 24 batches of 16 and one of 13: 12 epochs are 300 steps; 83 test ratings end in a short batch too. The loss of
# an epoch holds the L2 term only nearly (see `train_step`): 1e-6 is small enough for that not to show.
@pytest.mark.parametrize("l2", [1e-3, 1e-6])
@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
def test_stacks_train_as_plain_keras_does(interaction: str, l2: float, tmp_path: Path) -> None:
    train, test, params = make_ratings(397, 1), make_ratings(83, 2), make_params(interaction=interaction, l2=l2)
    model, losses = fit(train, test, params, tmp_path / "history.csv")
    weights, history = train_plainly(train, test, params)
    for found, expected, before in zip(weights_of(model), weights, initial_weights(interaction, l2), strict=True):
        assert_allclose(found, expected, **CLOSE)
        assert np.abs(found - before).mean() > 0.01, "training moved nothing"
    written = pd.read_csv(tmp_path / "history.csv")
    assert_allclose(written["val_loss"], history["val_loss"], **CLOSE)
    assert_allclose(written["loss"], history["loss"], rtol=0, atol=1e-5 if l2 < 1e-5 else l2)
    for name in ("loss", "val_loss"):
        assert losses[name] == pytest.approx(written[name].iloc[-1], abs=1e-6, rel=0)
    assert written["loss"].iloc[-1] < written["loss"].iloc[0] - 1


def train_lazily(train: Ratings, params: Train) -> list[NDArray[np.float64]]:
    """Give the weights that lazy Adam reaches: batch by batch, row by row, in float64."""
    table, user_bias, movie_bias = (weights.astype(np.float64) for weights in initial_weights("dot", params.l2))
    weights = np.concatenate([table, np.concatenate([user_bias, movie_bias])], axis=1)
    moments, squares, step = np.zeros_like(weights), np.zeros_like(weights), 0
    batches = Batches(train, params.seed)
    batches.on_epoch_end()  # as Keras does after a first look at the data
    for _ in range(params.epochs):
        for index in range(len(batches)):
            pairs, values = batches[index]
            step += 1
            gradient = np.zeros_like(weights)
            for (user, movie), value in zip(pairs.tolist(), values[:, 0].tolist(), strict=True):
                left, right = weights[user], weights[USERS + movie]
                slope = 2 * (left[:SIZE] @ right[:SIZE] + left[SIZE] + right[SIZE] - value) / len(values)
                gradient[user] += slope * np.append(right[:SIZE], 1)
                gradient[USERS + movie] += slope * np.append(left[:SIZE], 1)
            rate = params.learning_rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            for row in {*pairs[:, 0].tolist(), *(USERS + pairs[:, 1]).tolist()}:
                total = gradient[row] + 2 * params.l2 * np.append(weights[row, :SIZE], 0)
                moments[row] += (total - moments[row]) * (1 - 0.9)
                squares[row] += (total**2 - squares[row]) * (1 - 0.999)
                weights[row] -= rate * moments[row] / (np.sqrt(squares[row]) + 1e-7)
        batches.on_epoch_end()
    return [weights[:, :SIZE], weights[:USERS, SIZE:], weights[USERS:, SIZE:]]


def test_lazy_adam_moves_only_the_users_and_movies_of_a_batch(tmp_path: Path) -> None:
    train, params = make_ratings(397, 1), make_params(optimizer="lazy_adam")
    model, _ = fit(train, make_ratings(83, 2), params, tmp_path / "history.csv")
    for found, expected in zip(weights_of(model), train_lazily(train, params), strict=True):
        assert_allclose(found, expected, rtol=0, atol=1e-4)
    few = Ratings(train.users[:1], train.movies[:1], train.values[:1], train.shape)
    model, _ = fit(few, few, params, tmp_path / "history.csv")
    for found, before in zip(weights_of(model), initial_weights("dot", params.l2), strict=True):
        assert 1 <= (found != before).any(axis=1).sum() <= 2


def test_training_in_several_stacks_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test, params = make_ratings(397, 1), make_ratings(83, 2), make_params(epochs=4)
    whole, losses = fit(train, test, params, tmp_path / "history.csv")
    monkeypatch.setattr(train_stage, "STACK_ROWS", 48)
    parts, same = fit(train, test, params, tmp_path / "history.csv")
    for found, expected in zip(weights_of(parts), weights_of(whole), strict=True):
        assert_allclose(found, expected, **CLOSE)
    # The reported L2 term is averaged over the ends of each stack, so that it depends on where the stacks end.
    assert same == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize(
    ("count", "batch", "stack_rows"),
    [(397, 16, 2**16), (397, 16, 100), (396, 1, 7), (5, 16, 2**16), (200, 40, 65), (200, 200, 10), (64, 16, 32)],
)
def test_stacks_hold_every_rating_once_and_no_stack_is_empty(
    count: int, batch: int, stack_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_stage, "STACK_ROWS", stack_rows)
    ratings = make_ratings(count, 3)
    stacks = Stacks(ratings, batch, 9)
    orders = []
    for _ in range(2):
        parts = [stacks[index] for index in range(stacks.num_batches)]
        assert len({part[0].shape for part in parts}) == 1
        assert all(part[2].sum() > 0 for part in parts), [float(part[2].sum()) for part in parts]
        assert all(part[0].shape[1:] == (batch, 2) and part[2].shape[1:] == (batch, 1) for part in parts)
        weights = np.concatenate([part[2].ravel() for part in parts])
        assert_array_equal(weights, np.arange(len(weights)) < count)
        pairs = np.concatenate([part[0].reshape(-1, 2) for part in parts])[:count]
        values = np.concatenate([part[1].ravel() for part in parts])[:count]
        orders.append(list(zip(*pairs.T.tolist(), values.tolist(), strict=True)))
        stacks.on_epoch_end()
    everything = list(zip(ratings.users.tolist(), ratings.movies.tolist(), ratings.values.tolist(), strict=True))
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(everything)
    assert orders[0] != orders[1]
    kept = Stacks(ratings, batch, None)
    kept.on_epoch_end()
    first = np.concatenate([kept[index][1].ravel() for index in range(kept.num_batches)])[:count]
    assert_array_equal(first, ratings.values)


def test_ordinary_batches_train_the_model_too(tmp_path: Path) -> None:
    train, params = make_ratings(397, 1), make_params(epochs=2)
    stacked, _ = fit(train, make_ratings(83, 2), params, tmp_path / "history.csv")
    keras.utils.set_random_seed(7)
    model = MatrixFactorization(USERS, MOVIES, SIZE, 1e-3, "dot", 7)
    model.build()
    model.compile(optimizer=keras.optimizers.Adam(0.005), loss="mse", jit_compile=False)
    model.fit(Batches(train, 7), epochs=2, shuffle=False, verbose=0)
    for found, expected in zip(weights_of(model), weights_of(stacked), strict=True):
        assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
def test_the_configuration_makes_the_same_model_again(interaction: str) -> None:
    model = MatrixFactorization(USERS, MOVIES, SIZE, 0.25, interaction, 3, name="again")
    again = MatrixFactorization.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert (again.users, again.movies, again.embedding_size, again.l2) == (USERS, MOVIES, SIZE, 0.25)
    assert (again.interaction, again.seed, again.name) == (interaction, 3, "again")
    for each in (model, again):
        each.build()
    for first, second in zip(weights_of(model), weights_of(again), strict=True):
        assert_array_equal(first, second)


def test_an_unknown_interaction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"interaction must be one of .*dot.*batch_sum.*not 'cosine'"):
        MatrixFactorization(2, 3, 4, interaction="cosine")


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
def test_a_saved_model_predicts_what_its_factors_predict(interaction: str, tmp_path: Path) -> None:
    model = MatrixFactorization(USERS, MOVIES, SIZE, 0.0, interaction, 3)
    model.build()
    random = np.random.default_rng(6)
    model.user_bias.embeddings.assign(random.normal(0, 1, (USERS, 1)))
    save_model(model, tmp_path / "mf.keras")
    save_model(model, tmp_path / "again.keras")
    assert (tmp_path / "mf.keras").read_bytes() == (tmp_path / "again.keras").read_bytes()
    loaded = keras.models.load_model(tmp_path / "mf.keras")
    assert isinstance(loaded, MatrixFactorization)
    pairs = np.stack([random.integers(0, USERS, 77), random.integers(0, MOVIES, 77)], axis=1).astype(np.int32)
    expected = export_factors(model, np.arange(MOVIES, dtype=np.int32)).predict(pairs[:, 0], pairs[:, 1])
    assert expected.std() > 0.5
    assert_allclose(loaded.predict(pairs, batch_size=32, verbose=0)[:, 0], expected, **CLOSE)


def test_the_initial_vectors_are_he_normal_over_both_and_biases_small() -> None:
    model = MatrixFactorization(4000, 1000, 8, seed=1)
    model.build()
    table, *biases = weights_of(model)
    assert table.std() == pytest.approx(np.sqrt(2 / 5000), rel=0.02)
    for bias in biases:
        assert np.abs(bias).max() <= 0.05
        assert bias.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.05)
    assert float(ops.sum(model(np.array([[0, 0]], dtype=np.int32)))) == pytest.approx(
        float(table[0] @ table[4000] + biases[0][0, 0] + biases[1][0, 0]), abs=1e-6
    )
