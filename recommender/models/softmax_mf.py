"""Matrix factorization under a softmax over all items: trained to rank."""

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.algebra import inner_products
from recommender.models.core.backend import ops, tf
from recommender.models.core.batches import RowBatches
from recommender.models.core.steps import Dropout, RowModel
from recommender.models.core.training import Job, adam
from recommender.params import SoftmaxMf
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import SoftmaxLoss

if TYPE_CHECKING:
    import scipy.sparse as sp

Tensor = Any  # TensorFlow ships no types
START: Final = 0.3  # expected initial length of a vector


def prepare(
    known: Interactions, held_out: Interactions, item_order: NDArray[np.int32], section: SoftmaxMf, seed: int
) -> Job:
    """Rank all items for `batch_size` users at a time."""
    weights, held_out_weights = (rating_weights(part, section.rating_base) for part in (known, held_out))
    batch = min(section.batch_size, known.num_users)
    model = SoftmaxFactorization(known.shape, section, batch, seed)
    model.item_bias.assign(log_shares(weights))
    model.compile(optimizer=adam(section, math.ceil(known.num_users / batch)), jit_compile=True)
    model.optimizer.build(model.trainable_variables)

    def factors() -> Factors:
        user_factors, item_factors, bias = (np.asarray(weight) for weight in model.trainable_variables)
        no_bias = np.zeros(known.num_users, np.float32)
        return Factors(user_factors, item_factors, no_bias, bias, item_order, scores=section.scores)

    penalty = batch * section.user_l2
    loss = SoftmaxLoss(section.rating_base, penalty, section.dropout, section.ensemble_size, *known.scale)
    batches = RowBatches((weights,), batch, seed), RowBatches((held_out_weights,), batch, None)
    return Job(model, *batches, factors, loss)


def rating_weights(ratings: Interactions, base: float) -> "sp.csr_array":
    """Return base ** (stars - 4) as a sparse users x items matrix, float32."""
    weights = ratings.as_stars().matrix()
    weights.data = np.power(base, weights.data.astype(np.float64) - 4).astype(np.float32)
    return weights


def log_shares(weights: "sp.csr_array") -> NDArray[np.float32]:
    """Return the logarithm of each item's share of all weights, raised by half of the least: (num_items,) float32."""
    total = np.bincount(weights.indices, weights=weights.data, minlength=weights.shape[1])
    shares: NDArray[np.float64] = (total + total[total > 0].min() / 2) / total.sum()
    return np.log(shares).astype(np.float32)


def weighted_softmax(weights: Tensor, scores: Tensor) -> Tensor:
    """Return each user's weighted multinomial negative log-likelihood: (users,), 0 where all weights are.

    -sum_i w_i log softmax_i(scores): Liang et al., Variational autoencoders for collaborative filtering (WWW 2018),
    section 2, with a weight in place of each count, which is 0 for an item that the user has not rated.
    """
    return ops.logsumexp(scores, axis=-1) * ops.sum(weights, axis=-1) - ops.sum(weights * scores, axis=-1)


class SoftmaxFactorization(RowModel):
    """Score = item bias + user vector · item vector, for all items at once.

    In training, dropout acts on the user vector. The loss is the mean over the `batch_size` users, plus `item_l2` times
    the squared vectors of all items, plus `user_l2` times the squared vectors, after dropout, of the batch's users.
    """

    def __init__(self, shape: tuple[int, int], section: SoftmaxMf, batch_size: int, seed: int) -> None:
        super().__init__()
        (num_users, num_items), size = shape, section.embedding_size
        self.scale, self.item_l2, self.user_l2 = 1 / batch_size, section.item_l2, section.user_l2
        self.user_factors = self.add_vectors("user_factors", num_users, size, START, seed)
        self.item_factors = self.add_vectors("item_factors", num_items, size, START, seed + 1)
        self.item_bias = self.add_weight(shape=(num_items,), initializer="zeros", name="item_bias")
        self.dropout = Dropout(section.dropout, seed=seed + 2)
        self.built = True

    def call(self, users: Tensor, training: bool = False) -> Tensor:
        """Score all items for (batch,) user indices, where -1 is padding: (batch, num_items) float32.

        In training, dropout and the L2 terms apply; padding adds nothing to them.
        """
        vectors = self.dropout(ops.take(self.user_factors, ops.maximum(users, 0), axis=0), training=training)
        if training:
            known = ops.cast(users >= 0, "float32")[:, None]
            self.add_loss(self.item_l2 * ops.sum(ops.square(self.item_factors)))
            self.add_loss(self.user_l2 * ops.sum(known * ops.square(vectors)))
        return inner_products(vectors, tf.convert_to_tensor(self.item_factors)) + self.item_bias

    def data_loss(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Sum `weighted_softmax` over the users; the terms are the ratings, each counted by its weight."""
        return ops.sum(weighted_softmax(targets, outputs)), ops.sum(targets)
