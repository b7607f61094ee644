"""Matrix factorization of ratings with biases, trained in stacks of batches: the default."""

import contextlib
import math

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.backend import keras, ops, tf
from recommender.models.core.batches import RatingBatches
from recommender.models.core.steps import Tensor, adam_rate, adam_step, lazy_adam_step
from recommender.models.core.training import Job, adam
from recommender.params import Mf
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import RatingLoss

Batch = tuple[Tensor, Tensor, Tensor]
State = tuple[Tensor, ...]


def prepare(known: Interactions, held_out: Interactions, item_order: NDArray[np.int32], section: Mf, seed: int) -> Job:
    """Minimise the mean squared error over the ratings, `batch_size` at a time."""
    with contextlib.suppress(RuntimeError):  # which says that TensorFlow has computed something before
        # Steps on a small batch are over before a second thread has started.
        tf.config.threading.set_intra_op_parallelism_threads(1)
    mean = float(known.ratings.mean(dtype=np.float64)) if section.global_mean else 0.0
    model = MatrixFactorization(known.shape, section, mean, seed)
    squares = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(adam(section, math.ceil(len(known) / section.batch_size)), squares, jit_compile=True)
    model.optimizer.build(model.trainable_variables)

    def factors() -> Factors:
        table, *biases = (np.asarray(weight) for weight in model.trainable_variables)
        user_bias, item_bias = (bias[:, 0] for bias in biases)
        users, items = np.split(table, [known.num_users])
        return Factors(users, items, user_bias, item_bias, item_order, mean, section.interaction, section.scores)

    lazy_batch = section.batch_size if model.lazy else 0
    loss = RatingLoss(len(known), section.l2, lazy_batch=lazy_batch, ensemble_size=section.ensemble_size)
    batches = (RatingBatches(known, section.batch_size, seed), RatingBatches(held_out, section.batch_size, None))
    return Job(model, *batches, factors, loss)


class MatrixFactorization(keras.Model):
    """Predicted rating = global mean + user bias + item bias + interaction of the user's vector and the item's.

    The interaction is ``dot``, the dot product of each pair (Koren, Bell and Volinsky, Matrix factorization techniques
    for recommender systems, 2009), or ``batch_sum``, where every pair of a batch gets the sum of the whole batch's dot
    products: a contraction over two axes in place of one, kept to reproduce results that were published with it.

    The loss of each step has `l2` times all squared vectors. A `lazy` step updates only the users and items in its
    batch: their weights, moments and L2 term. This is another algorithm than Adam, where all weights move as long as
    their moments are not 0.

    Besides ordinary batches, ``fit`` and ``evaluate`` take stacks: pairs (steps, batch, 2), ratings and weights
    (steps, batch, 1). Rows of weight 0 are padding and count for nothing, and so do steps without any other row.
    """

    def __init__(self, shape: tuple[int, int], section: Mf, global_mean: float, seed: int) -> None:
        super().__init__()
        (self.num_users, num_items), self.global_mean = shape, global_mean
        self.embedding_size, self.l2, self.interaction = section.embedding_size, section.l2, section.interaction
        self.lazy = section.optimizer == "lazy_adam"
        layer, uniform = keras.layers.Embedding, keras.initializers.RandomUniform
        # Users and items share one table, users first, so that he_normal scales by the sum of both.
        normal, l2 = keras.initializers.HeNormal(seed), keras.regularizers.L2(self.l2)
        self.embedding = layer(sum(shape), self.embedding_size, normal, l2)
        self.user_bias = layer(self.num_users, 1, uniform(seed=seed + 1))
        self.item_bias = layer(num_items, 1, uniform(seed=seed + 2))
        for part in (self.embedding, self.user_bias, self.item_bias):
            part.build()
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Predict the ratings of (batch, 2) integers, user index and item index: (batch, 1) float32."""
        return self._predict_pairs(inputs, None)

    def _predict_pairs(self, pairs: Tensor, weights: Tensor | None) -> Tensor:
        biases = ops.concatenate([self.user_bias(pairs[..., 0]), self.item_bias(pairs[..., 1])], axis=-1)
        return self._combine(self.embedding(self._table_rows(pairs)), biases, weights)

    def _table_rows(self, pairs: Tensor) -> Tensor:
        # Items follow users in the shared table, and so do the biases where they are put in a row.
        return ops.cast(pairs, "int32") + ops.array([0, self.num_users], dtype="int32")

    def _combine(self, vectors: Tensor, biases: Tensor, weights: Tensor | None) -> Tensor:
        """Predict (..., batch, 1) ratings from vectors (..., batch, 2, size) and biases (..., batch, 2)."""
        products = vectors[..., 0, :] * vectors[..., 1, :]
        if self.interaction == "dot":
            interaction = ops.sum(products, axis=-1, keepdims=True)
        else:
            products = products if weights is None else products * weights
            interaction = ops.sum(products, axis=(-2, -1), keepdims=True)
        predicted = interaction + ops.sum(biases, axis=-1, keepdims=True)
        return predicted + self.global_mean if self.global_mean else predicted

    def train_step(self, data: Batch) -> dict[str, Tensor]:
        """Take one step of Adam for an ordinary batch, or one for each batch of a stack.

        The loss that is reported for a stack is the mean squared error, without the L2 term that a step also minimises.
        """
        if data[0].shape.rank == 2:
            if not self.lazy:
                return super().train_step(data)
            data = tuple(part[None] for part in (*data, tf.ones_like(data[1])))
        pairs, ratings, weights = data[:3]
        rows = tf.reduce_sum(weights, axis=(1, 2))
        steps = tf.math.count_nonzero(rows, dtype=tf.int32)
        done = tf.cast(self.optimizer.iterations, tf.int32)
        take_step = self._lazy_step if self.lazy else self._dense_step

        def step(index: Tensor, total: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
            batch = pairs[index], ratings[index], weights[index]
            loss, state = take_step(batch, state, adam_rate(self.optimizer, done + index + 1))
            return index + 1, total + loss * rows[index], state

        state = self._lazy_state() if self.lazy else self._dense_state()
        _, total, state = tf.while_loop(lambda index, *_: index < steps, step, (0, 0.0, state))
        self._keep(state)
        self.optimizer.iterations.assign_add(tf.cast(steps, self.optimizer.iterations.dtype))
        self._loss_tracker.update_state(total / tf.reduce_sum(rows), sample_weight=tf.reduce_sum(rows))
        return {"loss": self._loss_tracker.result()}

    def _weights_and_moments(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        # Each of the three has the vectors, the user biases and the item biases.
        return self.trainable_variables, self.optimizer._momentums, self.optimizer._velocities

    def _dense_state(self) -> State:
        # Weights and moments travel through the loop as vectors: XLA compiles wide instructions for those only.
        groups = self._weights_and_moments()
        table = tuple(tf.reshape(group[0], [-1]) for group in groups)
        return table, tuple(tf.reshape(tf.concat(group[1:], axis=0), [-1]) for group in groups)

    def _keep(self, state: State) -> None:
        if self.lazy:
            state = tuple(zip(*((part[:, :-1], part[:, -1]) for part in state[0]), strict=True))
        for group, table, bias in zip(self._weights_and_moments(), *state, strict=True):
            group[0].assign(tf.reshape(table, group[0].shape))
            group[1].assign(bias[: self.num_users, None])
            group[2].assign(bias[self.num_users :, None])

    def _dense_step(self, batch: Batch, state: State, rate: Tensor) -> tuple[Tensor, State]:
        """Update all weights and moments, as Keras does."""
        pairs, ratings, weights = batch
        table, bias = state
        size, chosen = self.embedding_size, self._table_rows(pairs)
        vectors, biases = tf.gather(tf.reshape(table[0], (-1, size)), chosen), tf.gather(bias[0], chosen)
        with tf.GradientTape() as tape:
            tape.watch((vectors, biases))
            loss = self.loss(ratings, self._combine(vectors, biases, weights), weights)
        vector_gradients, bias_gradients = tape.gradient(loss, (vectors, biases))
        rows = tf.reshape(chosen, (-1, 1))
        numbers = tf.reshape(rows * size + tf.range(size), (-1, 1))
        gradient = tf.tensor_scatter_nd_add(2 * self.l2 * table[0], numbers, tf.reshape(vector_gradients, [-1]))
        table = adam_step(self.optimizer, table, gradient, tf.square(gradient), rate)
        # Where a batch contains a bias more than once, Keras adds up the squares of its gradients, as it does for any
        # embedding without a regularizer; for the vectors, which have one, it squares their sum.
        gradients, zeros = tf.reshape(bias_gradients, [-1]), tf.zeros_like(bias[0])
        gradient = tf.tensor_scatter_nd_add(zeros, rows, gradients)
        squares = tf.tensor_scatter_nd_add(zeros, rows, tf.square(gradients))
        return loss, (table, adam_step(self.optimizer, bias, gradient, squares, rate))

    def _lazy_state(self) -> State:
        # A row is a vector and its bias; the last entry has room for the place of each row in a batch.
        groups = self._weights_and_moments()
        parts = tuple(tf.concat([group[0], tf.concat(group[1:], axis=0)], axis=1) for group in groups)
        return parts, tf.zeros(self.embedding.input_dim, tf.int32)

    def _lazy_step(self, batch: Batch, state: State, rate: Tensor) -> tuple[Tensor, State]:
        """Update the weights and moments of the batch's users and items alone, however many there are in all."""
        pairs, ratings, weights = batch
        tables, places = state

        def batch_loss(values: Tensor) -> Tensor:
            vectors, biases = (
                tf.reshape(values[:, :-1], (-1, 2, self.embedding_size)),
                tf.reshape(values[:, -1], (-1, 2)),
            )
            return self.loss(ratings, self._combine(vectors, biases, weights), weights)

        rows = tf.reshape(self._table_rows(pairs), [-1])
        loss, tables, places = lazy_adam_step(self.optimizer, tables, places, rows, batch_loss, self.l2, rate)
        return loss, (tables, places)

    def test_step(self, data: Batch) -> dict[str, Tensor]:
        """Add the squared errors of an ordinary batch, or of a stack, to the mean."""
        pairs, ratings, weights = data if len(data) == 3 else (*data, tf.ones_like(data[1]))
        loss = self.loss(ratings, self._predict_pairs(pairs, weights), weights)
        self._loss_tracker.update_state(loss, sample_weight=tf.reduce_sum(weights))
        return {"loss": self._loss_tracker.result()}
