"""Matrix factorization of ratings where each item's vector is computed from the item's ratings."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.backend import ops
from recommender.models.core.batches import RowBatches
from recommender.models.core.steps import Dropout, RowModel
from recommender.models.core.training import Job, adam
from recommender.params import EncodedMf
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import RatingLoss

Tensor = Any  # TensorFlow ships no types
START: Final = 0.1  # expected initial length of a vector
USER_DAMPING: Final = 5  # ratings at 0 that the initial biases of users and items
ITEM_DAMPING: Final = 10  # are taken together with


def prepare(
    known: Interactions, held_out: Interactions, item_order: NDArray[np.int32], section: EncodedMf, seed: int
) -> Job:
    """Predict all ratings of `batch_size` items at a time from those ratings."""
    num_items = known.num_items
    mean = float(known.ratings.mean(dtype=np.float64))
    user_bias, item_bias = damped_biases(known, mean)
    ratings, held_out_ratings = (part.matrix().T.tocsr() for part in (known, held_out))
    residuals = ratings.copy()
    raters = np.diff(residuals.indptr)
    item = np.repeat(np.arange(num_items), raters)
    centred = residuals.data - mean - user_bias[residuals.indices] - item_bias[item]
    residuals.data = (centred / np.sqrt(raters[item])).astype(np.float32)
    batch = min(section.batch_size, num_items)
    steps = math.ceil(num_items / batch)
    model = EncodedFactorization(known.shape, section, len(known), steps, mean, seed)
    model.user_bias.assign(user_bias.astype(np.float32))
    model.item_bias.assign(item_bias.astype(np.float32))
    model.compile(optimizer=adam(section, steps), jit_compile=True)
    model.optimizer.build(model.trainable_variables)

    def factors() -> Factors:
        vectors, encoder, user, item = (np.asarray(weight) for weight in model.trainable_variables)
        encoded = (residuals @ encoder).astype(np.float32)
        return Factors(vectors, encoded, user, item, item_order, mean, scores=section.scores)

    loss = RatingLoss(len(known), section.l2, 1.0, section.dropout, ensemble_size=section.ensemble_size)
    batches = RowBatches((residuals, ratings), batch, seed), RowBatches((residuals, held_out_ratings), batch, None)
    return Job(model, *batches, factors, loss)


def damped_biases(ratings: Interactions, mean: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average what is left of the ratings without the mean, by user, and then what is left of that, by item."""
    rest = ratings.ratings.astype(np.float64) - mean
    user_counts = np.bincount(ratings.users, minlength=ratings.num_users)
    user = np.bincount(ratings.users, rest, ratings.num_users) / (user_counts + USER_DAMPING)
    rest -= user[ratings.users]
    item = np.bincount(ratings.items, rest, ratings.num_items) / (ratings.item_counts() + ITEM_DAMPING)
    return user, item


class EncodedFactorization(RowModel):
    """Rating = global mean + user bias + item bias + user vector · item vector, the last computed from ratings.

    An item's vector is the sum over its raters of (rating - mean - biases) / sqrt(raters) times the rater's second
    vector: the implicit factors of asymmetric SVD (Koren, Factorization meets the neighborhood, KDD 2008, section 4.1)
    with the roles of users and items exchanged, and as an autoencoder AutoRec with the identity for its activation
    (Sedhain et al., WWW 2015). The prediction stays a dot product of two vectors and needs no ratings once trained.

    In training, dropout acts on the item vector. The loss is the mean over the `ratings` that make `batches` batches,
    plus `l2` times the squared user vectors and `encoder_l2` times the squared second vectors.
    """

    def __init__(
        self, shape: tuple[int, int], section: EncodedMf, ratings: int, batches: int, global_mean: float, seed: int
    ) -> None:
        super().__init__()
        (num_users, num_items), size = shape, section.embedding_size
        self.ratings, self.batches, self.global_mean = ratings, batches, global_mean
        self.scale, self.l2, self.encoder_l2 = batches / ratings, section.l2, section.encoder_l2
        self.user_factors = self.add_vectors("user_factors", num_users, size, START, seed)
        self.encoder = self.add_vectors("encoder", num_users, size, START, seed + 1)
        self.user_bias = self.add_weight(shape=(num_users,), initializer="zeros", name="user_bias")
        self.item_bias = self.add_weight(shape=(num_items,), initializer="zeros", name="item_bias")
        self.dropout = Dropout(section.dropout, seed=seed + 2)
        self.built = True

    def call(self, inputs: tuple[Tensor, Tensor], training: bool = False) -> Tensor:
        """Predict every user's ratings of some items, (batch, num_users) float32.

        Args:
            inputs: (batch,) item indices, where -1 is padding; (batch, num_users) their scaled residuals.
            training: whether dropout and the L2 terms apply.
        """
        items, residuals = inputs
        vectors = self.dropout(ops.matmul(residuals, self.encoder), training=training)
        bias = ops.take(self.item_bias, ops.maximum(items, 0), axis=0)
        if training:
            # A bias is penalised as by one more rating at 0.
            known = ops.cast(items >= 0, "float32")
            self.add_loss(self.l2 * ops.sum(ops.square(self.user_factors)))
            self.add_loss(self.encoder_l2 * ops.sum(ops.square(self.encoder)))
            self.add_loss(ops.sum(ops.square(self.user_bias)) / self.ratings)
            self.add_loss(ops.sum(known * ops.square(bias)) * (self.batches / self.ratings))
        scores = ops.matmul(vectors, ops.transpose(self.user_factors))
        return self.global_mean + bias[:, None] + self.user_bias + scores

    def data_loss(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the squared errors over what has been rated: ratings are above 0, and what is not rated is 0."""
        errors = ops.sum(ops.square(ops.where(targets > 0, outputs - targets, 0.0)), axis=-1)
        return ops.sum(errors), ops.cast(ops.count_nonzero(targets), "float32")
