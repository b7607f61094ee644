"""The Keras model: matrix factorization with biases, trained in stacks of batches."""

from typing import Any, Final

from stages.lib.backend import keras, ops, tf

Tensor = Any  # TensorFlow ships no types
Batch = tuple[Tensor, Tensor, Tensor]

INTERACTIONS: Final = ("dot", "batch_sum")


@keras.saving.register_keras_serializable("movielens")
class MatrixFactorization(keras.Model):
    """Predicted rating = user bias + movie bias + interaction of the user's vector and the movie's.

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
            **kwargs: passed to `keras.Model`.
        """
        super().__init__(**kwargs)
        if interaction not in INTERACTIONS:
            raise ValueError(f"interaction must be one of {INTERACTIONS}, not {interaction!r}")
        self.users, self.movies, self.embedding_size = users, movies, embedding_size
        self.l2, self.interaction, self.seed = l2, interaction, seed

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
        names = ("users", "movies", "embedding_size", "l2", "interaction", "seed")
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
        users, movies = pairs[..., 0], pairs[..., 1]
        products = self.embedding(users) * self.embedding(movies + self.users)
        if self.interaction == "dot":
            interaction = ops.sum(products, axis=-1, keepdims=True)
        else:
            products = products if weights is None else products * weights
            interaction = ops.sum(products, axis=(-2, -1), keepdims=products.ndim == 3)
        return interaction + self.user_bias(users) + self.movie_bias(movies)

    def train_step(self, data: Batch) -> dict[str, Tensor]:
        """Take one step of the optimizer for an ordinary batch, or one for each batch of a stack."""
        if data[0].shape.rank == 2:
            return super().train_step(data)
        pairs, ratings, weights = data
        rows = tf.reduce_sum(weights, axis=(1, 2))

        def step(index: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            with tf.GradientTape() as tape:
                predicted = self._predict_pairs(pairs[index], weights[index])
                loss = self.compute_loss(
                    x=pairs[index], y=ratings[index], y_pred=predicted, sample_weight=weights[index], training=True
                )
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return index + 1, total + loss * rows[index]

        steps = tf.math.count_nonzero(rows, dtype=tf.int32)
        _, total = tf.while_loop(lambda index, _: index < steps, step, (0, 0.0))
        self._loss_tracker.update_state(total / tf.reduce_sum(rows), sample_weight=tf.reduce_sum(rows))
        return {"loss": self._loss_tracker.result()}

    def test_step(self, data: Batch) -> dict[str, Tensor]:
        """Add the loss of an ordinary batch, or of a stack, to the mean."""
        if data[0].shape.rank == 2:
            return super().test_step(data)
        pairs, ratings, weights = data
        predicted = self._predict_pairs(pairs, weights)
        loss = self.compute_loss(x=pairs, y=ratings, y_pred=predicted, sample_weight=weights, training=False)
        self._loss_tracker.update_state(loss, sample_weight=tf.reduce_sum(weights))
        return {"loss": self._loss_tracker.result()}
