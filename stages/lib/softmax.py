"""The Keras model trained to rank: matrix factorization under a softmax over all movies."""

from typing import Any, Final

from stages.lib.backend import keras, ops
from stages.lib.dropout import Dropout
from stages.lib.rows import RowModel

Tensor = Any  # TensorFlow ships no types
START: Final = 0.3  # initial length of a vector, in expectation


@keras.saving.register_keras_serializable("movielens")
def weighted_softmax(weights: Tensor, scores: Tensor) -> Tensor:
    """Give each user's weighted multinomial negative log-likelihood.

    -sum_i w_i log softmax_i(scores): Liang et al., Variational autoencoders for collaborative filtering (WWW 2018),
    section 2, with a weight in place of each count.

    Args:
        weights: (users, movies) at least 0; 0 for a movie that the user has not rated.
        scores: (users, movies).

    Returns:
        (users,) at least 0; 0 where all weights are.
    """
    return ops.logsumexp(scores, axis=-1) * ops.sum(weights, axis=-1) - ops.sum(weights * scores, axis=-1)


@keras.saving.register_keras_serializable("movielens")
class SoftmaxFactorization(RowModel):
    """Score = movie bias + user vector · movie vector, for all movies at once.

    In training, dropout acts on the user vector, and the squared vectors of all movies and of the batch's users are
    added to the loss.
    """

    def __init__(
        self,
        users: int,
        movies: int,
        embedding_size: int,
        batch_size: int = 1,
        dropout: float = 0.0,
        l2: float = 0.0,
        user_l2: float = 0.0,
        seed: int = 0,
        **kwargs: Any,  # noqa: ANN401 - Keras' own
    ) -> None:
        """Make the weights.

        Args:
            users: how many users there are.
            movies: how many movies there are.
            embedding_size: the length of their vectors.
            batch_size: users in a batch: the loss is a mean over them.
            dropout: share of a user's vector set to 0 in a training step; the rest is scaled up to make up for it.
            l2: weight of the sum of all movies' squared vectors in the loss.
            user_l2: weight of the sum of the batch's users' squared vectors, after dropout, in the loss.
            seed: of the initial vectors and of dropout.
            **kwargs: passed to `keras.Model`.
        """
        super().__init__(**kwargs)
        self.users, self.movies, self.embedding_size = users, movies, embedding_size
        self.batch_size, self.scale = batch_size, 1 / batch_size
        self.rate, self.l2, self.user_l2, self.seed = dropout, l2, user_l2, seed

        def vectors(count: int, offset: int, name: str) -> Tensor:
            initializer = keras.initializers.RandomNormal(stddev=START / embedding_size**0.5, seed=seed + offset)
            return self.add_weight(shape=(count, embedding_size), initializer=initializer, name=name)

        self.user_vectors = vectors(users, 0, "user_vectors")
        self.movie_vectors = vectors(movies, 1, "movie_vectors")
        self.movie_bias = self.add_weight(shape=(movies,), initializer="zeros", name="movie_bias")
        self.dropout = Dropout(dropout, seed=seed + 2)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Give the arguments that make this model again."""
        names = ("users", "movies", "embedding_size", "batch_size", "l2", "user_l2", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "dropout": self.rate}

    def call(self, users: Tensor, training: bool = False) -> Tensor:
        """Score all movies.

        Args:
            users: (batch,) user indices; -1 is padding, which adds nothing to the L2 term.
            training: whether dropout and the L2 term apply.

        Returns:
            (batch, movies) float32.
        """
        vectors = self.dropout(ops.take(self.user_vectors, ops.maximum(users, 0), axis=0), training=training)
        if training:
            known = ops.cast(users >= 0, "float32")[:, None]
            self.add_loss(self.l2 * ops.sum(ops.square(self.movie_vectors)))
            self.add_loss(self.user_l2 * ops.sum(known * ops.square(vectors)))
        return ops.matmul(vectors, ops.transpose(self.movie_vectors)) + self.movie_bias

    def data_loss(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Sum `weighted_softmax` over the users that have weights."""
        users = ops.count_nonzero(ops.any(targets > 0, axis=-1))
        return ops.sum(weighted_softmax(targets, outputs)), ops.cast(users, "float32")
