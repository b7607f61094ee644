"""The Keras model: matrix factorization with biases, trained in stacks of batches."""

from typing import Any

from stages.lib.adam import adam_rate, adam_step
from stages.lib.backend import keras, ops, tf
from stages.lib.factors import INTERACTIONS

Tensor = Any  # TensorFlow ships no types
Batch = tuple[Tensor, Tensor, Tensor]
State = tuple[Tensor, ...]


@keras.saving.register_keras_serializable("movielens")
class MatrixFactorization(keras.Model):
    """Predicted rating = global mean + user bias + movie bias + interaction of the user's vector and the movie's.

    The interaction is ``dot``, the dot product of each pair (Koren, Bell and Volinsky, Matrix factorization techniques
    for recommender systems, 2009), or ``batch_sum``, where every pair of a batch gets the sum of the whole batch's dot
    products: a contraction over two axes in place of one, kept to reproduce results that were published with it.

    Besides ordinary batches, ``fit`` and ``evaluate`` take stacks: pairs (steps, batch, 2), ratings and weights
    (steps, batch, 1). A stack does in one compiled program what as many ordinary batches do one by one. Rows of
    weight 0 are padding and count for nothing, and so do steps without any other row.
    """

    def __init__(
        self,
        users: int,
        movies: int,
        embedding_size: int,
        l2: float = 0.0,
        interaction: str = "dot",
        seed: int | None = None,
        lazy: bool = False,
        global_mean: float = 0.0,
        **kwargs: Any,  # noqa: ANN401 - Keras' own
    ) -> None:
        """Make the layers.

        Args:
            users: how many users there are.
            movies: how many movies there are.
            embedding_size: the length of their vectors.
            l2: weight of the sum of all squared vectors in the loss of each step.
            interaction: ``dot`` or ``batch_sum``.
            seed: of the initial weights.
            lazy: whether a step updates only the users and movies in its batch: their weights, moments and L2 term.
                This is another algorithm than Adam, where all weights move as long as their moments are not 0.
            global_mean: in stars, where predictions start.
            **kwargs: passed to `keras.Model`.
        """
        super().__init__(**kwargs)
        if interaction not in INTERACTIONS:
            raise ValueError(f"interaction must be one of {INTERACTIONS}, not {interaction!r}")
        self.users, self.movies, self.embedding_size = users, movies, embedding_size
        self.l2, self.interaction, self.seed, self.lazy, self.global_mean = l2, interaction, seed, lazy, global_mean

        def seeded(offset: int) -> int | None:
            return None if seed is None else seed + offset

        # Users and movies share one table, users first, so that he_normal scales by the sum of both.
        self.embedding = keras.layers.Embedding(
            users + movies,
            embedding_size,
            embeddings_initializer=keras.initializers.HeNormal(seeded(0)),
            embeddings_regularizer=keras.regularizers.L2(l2),
            name="embedding",
        )
        self.user_bias = keras.layers.Embedding(
            users, 1, embeddings_initializer=keras.initializers.RandomUniform(seed=seeded(1)), name="user_bias"
        )
        self.movie_bias = keras.layers.Embedding(
            movies, 1, embeddings_initializer=keras.initializers.RandomUniform(seed=seeded(2)), name="movie_bias"
        )

    def get_config(self) -> dict[str, Any]:
        """Give the arguments that make this model again."""
        names = ["users", "movies", "embedding_size", "l2", "interaction", "seed", "lazy"]
        if self.global_mean:
            names.append("global_mean")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def build(self, _input_shape: Any = None) -> None:  # noqa: ANN401 - Keras' own
        """Make the weights."""
        for layer in (self.embedding, self.user_bias, self.movie_bias):
            layer.build()
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Predict ratings.

        Args:
            inputs: (batch, 2) integers: user index, movie index.

        Returns:
            (batch, 1) float32, in stars.
        """
        return self._predict_pairs(inputs, None)

    def _predict_pairs(self, pairs: Tensor, weights: Tensor | None) -> Tensor:
        biases = ops.concatenate([self.user_bias(pairs[..., 0]), self.movie_bias(pairs[..., 1])], axis=-1)
        return self._combine(self.embedding(self._table_rows(pairs)), biases, weights)

    def _table_rows(self, pairs: Tensor) -> Tensor:
        """Give the rows of the shared table, where movies follow users; the biases in a row are numbered alike."""
        return ops.cast(pairs, "int32") + ops.array([0, self.users], dtype="int32")

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

        The reported loss is the mean over the steps; of the L2 term, which changes slowly, it is the mean of its values
        before and after the stack.
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

        before = self._penalty()
        state = self._lazy_state() if self.lazy else self._dense_state()
        _, total, state = tf.while_loop(lambda index, *_: index < steps, step, (0, 0.0, state))
        if self.lazy:
            self._keep_lazy_state(state)
        else:
            self._keep_dense_state(state)
        self.optimizer.iterations.assign_add(tf.cast(steps, self.optimizer.iterations.dtype))
        loss = total / tf.reduce_sum(rows) + (before + self._penalty()) / 2
        self._loss_tracker.update_state(loss, sample_weight=tf.reduce_sum(rows))
        return {"loss": self._loss_tracker.result()}

    def _penalty(self) -> Tensor:
        return self.l2 * tf.reduce_sum(tf.square(self.embedding.embeddings))

    def _weights_and_moments(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Give Adam's three kinds of variables; each holds the vectors, the user biases and the movie biases."""
        return self.trainable_variables, self.optimizer._momentums, self.optimizer._velocities

    def _dense_state(self) -> State:
        # Weights and moments travel through the loop as vectors: XLA compiles wide instructions for those only.
        groups = self._weights_and_moments()
        table = tuple(tf.reshape(group[0], [-1]) for group in groups)
        return table, tuple(tf.reshape(tf.concat(group[1:], axis=0), [-1]) for group in groups)

    def _keep_dense_state(self, state: State) -> None:
        for group, table, bias in zip(self._weights_and_moments(), *state, strict=True):
            group[0].assign(tf.reshape(table, group[0].shape))
            group[1].assign(bias[: self.users, None])
            group[2].assign(bias[self.users :, None])

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
        # Where a batch holds a bias more than once, Keras adds up the squares of its gradients, as it does for any
        # embedding without a regularizer; for the vectors, which have one, it squares their sum.
        gradients, zeros = tf.reshape(bias_gradients, [-1]), tf.zeros_like(bias[0])
        gradient = tf.tensor_scatter_nd_add(zeros, rows, gradients)
        bias = adam_step(
            self.optimizer, bias, gradient, tf.tensor_scatter_nd_add(zeros, rows, tf.square(gradients)), rate
        )
        return loss, (table, bias)

    def _lazy_state(self) -> State:
        # A row holds a vector and its bias; the last entry has room for the place of each row in a batch.
        parts = tuple(
            tf.concat([group[0], tf.concat(group[1:], axis=0)], axis=1) for group in self._weights_and_moments()
        )
        return parts, tf.zeros(self.users + self.movies, tf.int32)

    def _keep_lazy_state(self, state: State) -> None:
        for group, part in zip(self._weights_and_moments(), state[0], strict=True):
            group[0].assign(part[:, :-1])
            group[1].assign(part[: self.users, -1:])
            group[2].assign(part[self.users :, -1:])

    def _lazy_step(self, batch: Batch, state: State, rate: Tensor) -> tuple[Tensor, State]:
        """Update the weights and moments of the batch's users and movies alone, however many there are in all."""
        pairs, ratings, weights = batch
        parts, places = state
        size, rows = self.embedding_size, tf.reshape(self._table_rows(pairs), [-1])
        values, momentum, velocity = (tf.gather(part, rows) for part in parts)
        with tf.GradientTape() as tape:
            tape.watch(values)
            vectors, biases = tf.reshape(values[:, :size], (-1, 2, size)), tf.reshape(values[:, size], (-1, 2))
            loss = self.loss(ratings, self._combine(vectors, biases, weights), weights)
        # All occurrences of a row point to one place, where their gradients are added up.
        places = tf.tensor_scatter_nd_update(places, rows[:, None], tf.range(tf.shape(rows)[0]))
        place = tf.gather(places, rows)
        gradients = tape.gradient(loss, values)
        gradient = tf.gather(tf.tensor_scatter_nd_add(tf.zeros_like(gradients), place[:, None], gradients), place)
        gradient += 2 * self.l2 * tf.concat([values[:, :size], tf.zeros_like(values[:, size:])], axis=1)
        updated = adam_step(self.optimizer, (values, momentum, velocity), gradient, tf.square(gradient), rate)
        return loss, (
            tuple(
                tf.tensor_scatter_nd_update(part, rows[:, None], new) for part, new in zip(parts, updated, strict=True)
            ),
            places,
        )

    def test_step(self, data: Batch) -> dict[str, Tensor]:
        """Add the loss of an ordinary batch, or of a stack, to the mean."""
        if data[0].shape.rank == 2:
            return super().test_step(data)
        pairs, ratings, weights = data
        predicted = self._predict_pairs(pairs, weights)
        loss = self.compute_loss(x=pairs, y=ratings, y_pred=predicted, sample_weight=weights, training=False)
        self._loss_tracker.update_state(loss, sample_weight=tf.reduce_sum(weights))
        return {"loss": self._loss_tracker.result()}
