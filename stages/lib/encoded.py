"""The Keras model that makes each movie's vector from the movie's ratings."""

from typing import Any, Final

from stages.lib.backend import keras, ops
from stages.lib.dropout import Dropout
from stages.lib.rows import RowModel

Tensor = Any  # TensorFlow ships no types
START: Final = 0.1  # initial length of a vector, in expectation


@keras.saving.register_keras_serializable("movielens")
def squared_error_of_rated(ratings: Tensor, predicted: Tensor) -> Tensor:
    """Give each movie's sum of squared errors over the users who rated it.

    Args:
        ratings: (movies, users) in stars; 0 where the user has not rated the movie.
        predicted: (movies, users) in stars.

    Returns:
        (movies,)
    """
    return ops.sum(ops.square(ops.where(ratings > 0, predicted - ratings, 0.0)), axis=-1)


@keras.saving.register_keras_serializable("movielens")
class EncodedFactorization(RowModel):
    """Rating = global mean + user bias + movie bias + user vector · movie vector, the last made from ratings.

    A movie's vector is the sum over its raters of (rating - mean - biases) / sqrt(raters) times the rater's second
    vector: the implicit factors of asymmetric SVD (Koren, Factorization meets the neighborhood, KDD 2008, section 4.1)
    with the roles of users and movies exchanged, and as an autoencoder AutoRec with the identity for its activation
    (Sedhain et al., WWW 2015). The prediction stays a dot product of two vectors and needs no ratings once trained.
    """

    def __init__(
        self,
        users: int,
        movies: int,
        embedding_size: int,
        ratings: int,
        batches: int,
        global_mean: float = 0.0,
        dropout: float = 0.0,
        l2: float = 0.0,
        encoder_l2: float = 0.0,
        seed: int = 0,
        **kwargs: Any,  # noqa: ANN401 - Keras' own
    ) -> None:
        """Make the weights.

        Args:
            users: how many users there are.
            movies: how many movies there are.
            embedding_size: the length of their vectors.
            ratings: how many ratings are trained on: the loss is a mean over them.
            batches: how many batches of movies make an epoch.
            global_mean: the mean rating, in stars.
            dropout: share of a movie's vector set to 0 in a training step; the rest is scaled up to make up for it.
            l2: weight of the sum of the users' squared vectors in the loss.
            encoder_l2: weight of the sum of the users' second squared vectors, those of the encoder.
            seed: of the initial vectors and of dropout.
            **kwargs: passed to `keras.Model`.
        """
        super().__init__(**kwargs)
        self.users, self.movies, self.embedding_size, self.ratings = users, movies, embedding_size, ratings
        self.batches, self.global_mean, self.rate = batches, global_mean, dropout
        self.scale = batches / ratings
        self.l2, self.encoder_l2, self.seed = l2, encoder_l2, seed

        def vectors(offset: int, name: str) -> Tensor:
            initializer = keras.initializers.RandomNormal(stddev=START / embedding_size**0.5, seed=seed + offset)
            return self.add_weight(shape=(users, embedding_size), initializer=initializer, name=name)

        self.user_vectors, self.encoder = vectors(0, "user_vectors"), vectors(1, "encoder")
        self.user_bias = self.add_weight(shape=(users,), initializer="zeros", name="user_bias")
        self.movie_bias = self.add_weight(shape=(movies,), initializer="zeros", name="movie_bias")
        self.dropout = Dropout(dropout, seed=seed + 2)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Give the arguments that make this model again."""
        names = ("users", "movies", "embedding_size", "ratings", "batches", "global_mean", "l2", "encoder_l2", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "dropout": self.rate}

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        """Predict every user's ratings of some movies.

        Args:
            inputs: (batch,) movie indices, where -1 is padding; (batch, users) the scaled residuals of their ratings.
            training: whether dropout and the L2 terms apply.

        Returns:
            (batch, users) float32, in stars.
        """
        movies, residuals = inputs
        vectors = self.dropout(ops.matmul(residuals, self.encoder), training=training)
        bias = ops.take(self.movie_bias, ops.maximum(movies, 0), axis=0)
        if training:
            # A bias is held back as by one more rating at 0.
            known = ops.cast(movies >= 0, "float32")
            self.add_loss(self.l2 * ops.sum(ops.square(self.user_vectors)))
            self.add_loss(self.encoder_l2 * ops.sum(ops.square(self.encoder)))
            self.add_loss(ops.sum(ops.square(self.user_bias)) / self.ratings)
            self.add_loss(ops.sum(known * ops.square(bias)) * (self.batches / self.ratings))
        scores = ops.matmul(vectors, ops.transpose(self.user_vectors))
        return self.global_mean + bias[:, None] + self.user_bias + scores

    def data_loss(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the squared errors of what has been rated."""
        rated = ops.cast(ops.count_nonzero(targets), "float32")
        return ops.sum(squared_error_of_rated(targets, outputs)), rated
