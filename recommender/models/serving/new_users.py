"""Folding in new users inside the graph: `recommender.ranking.fold_in` where it is a linear solve or a kernel row."""

from typing import TYPE_CHECKING, Any

import numpy as np

from recommender.data.interactions import stars
from recommender.models.core.backend import tf
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import FoldIn, RatingLoss, check_kernel
from recommender.ranking.user_kernel import UserKernel

if TYPE_CHECKING:
    import scipy.sparse as sp

Tensor = Any  # TensorFlow ships no types


class NewUsers(tf.Module):
    """Vectors of new users: a kernel row, a ridge system, or one after the other."""

    def __init__(self, factors: Factors, loss: FoldIn, rated: "sp.csr_array") -> None:
        super().__init__("new_users")
        check_kernel(factors, loss)
        self.mean, (self.num_items, self.size) = factors.global_mean, factors.item_factors.shape
        self.bounds = float(rated.data.min()), float(rated.data.max())
        self.ridge = loss if isinstance(loss, RatingLoss) else None
        self.models = self.ridge.ensemble_size if self.ridge else 1
        self.kernel = Kernel(loss) if isinstance(loss, UserKernel) else None
        self.features = self.kernel.width if self.kernel else 0

    def given(self, item: Tensor, rating: Tensor) -> tuple[Tensor, Tensor]:
        """Return who rated what, (pairs, 2) int64 by user and item, and the (pairs,) ratings, from (n, m) of each.

        Ratings beyond those in the data count as the nearest there, of several of one item the highest.
        """
        here = tf.where((item < self.num_items) & tf.math.is_finite(rating))
        values = tf.clip_by_value(tf.gather_nd(rating, here), *self.bounds)
        pairs = tf.stack([here[:, 0], tf.cast(tf.gather_nd(item, here), tf.int64)], 1)
        nothing = tf.fill([tf.shape(item)[0], self.num_items], float("-inf"))
        dense = tf.tensor_scatter_nd_max(nothing, pairs, values)
        pairs = tf.where(dense > float("-inf"))
        return pairs, tf.gather_nd(dense, pairs)

    def fold_in(
        self, pairs: Tensor, ratings: Tensor, count: Tensor, item_factors: Tensor, item_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the (count, size) vectors and the (count,) biases of who gave these ratings, float32."""
        features = self.kernel.vectors(pairs, ratings, count) if self.kernel else tf.zeros([count, 0])
        if not self.ridge:
            return features, tf.zeros([count])

        def by_user(values: Tensor) -> Tensor:
            rows = tf.cast(count, tf.int64)
            return tf.RaggedTensor.from_value_rowids(values, pairs[:, 0], rows, validate=False).to_tensor()

        own = tf.cast(features, tf.float64)
        here = by_user(tf.ones_like(ratings, tf.float64))
        rated, bias = tf.gather(item_factors, pairs[:, 1]), tf.gather(item_bias, pairs[:, 1])
        targets = by_user(tf.cast(ratings, tf.float64) - self.mean - tf.cast(bias, tf.float64))
        rated = by_user(tf.cast(rated, tf.float64)) * self.models**0.5
        vectors, biases = [], []
        for block in tf.split(rated, self.models, axis=2):
            split = self.size // self.models - self.features
            left = targets - tf.linalg.matvec(block[:, :, split:], own)
            found = _solved(self.ridge, block[:, :, :split], left, here)
            vectors += [found[:, :-1], own]
            biases.append(found[:, -1])
        vectors = tf.concat(vectors, 1) / self.models**0.5
        return tf.cast(vectors, tf.float32), tf.cast(tf.add_n(biases) / self.models, tf.float32)


class Kernel(tf.Module):
    """`UserKernel` with its arrays in variables."""

    def __init__(self, kernel: UserKernel) -> None:
        super().__init__("kernel")
        self.kernel, self.width = kernel, kernel.mapping.shape[1]
        place = np.full(len(kernel.item_scale), -1, np.int64)
        place[kernel.landmarks] = np.arange(len(kernel.landmarks))
        for name, array in {
            "place": place,  # of an item among the landmarks
            "item_weights": kernel.item_weights.astype(np.float32),
            "anchors": kernel.anchors.astype(np.float32),
            "item_scale": kernel.item_scale,
            "anchor_scale": kernel.anchor_scale,
            "mapping": kernel.mapping,
        }.items():
            setattr(self, name, tf.Variable(array, trainable=False, name=name))
        # Stars are a linear function of ratings: its values at 0 and 1.
        self.zero, one = stars(np.array([0.0, 1.0]), (kernel.lowest, kernel.highest)).tolist()
        self.star = one - self.zero

    def vectors(self, pairs: Tensor, ratings: Tensor, count: Tensor) -> Tensor:
        """Return `UserKernel.vectors` of who rated what, (pairs, 2) by user and item: (count, width) float32."""
        kernel, items = self.kernel, len(self.kernel.item_scale)
        in_stars = self.zero + self.star * tf.cast(ratings, tf.float64)
        inputs = tf.cast(tf.pow(tf.constant(kernel.rating_base, tf.float64), in_stars - 4), tf.float32)
        place = tf.gather(self.place, pairs[:, 1])
        known = place >= 0
        rows = tf.boolean_mask(tf.stack([pairs[:, 0], place], 1), known)
        shape = [tf.cast(count, tf.int64), len(kernel.landmarks)]
        sparse = tf.SparseTensor(rows, tf.boolean_mask(inputs, known), shape)
        found = tf.sqrt(tf.nn.relu(tf.sparse.sparse_dense_matmul(sparse, self.item_weights)))
        found *= tf.sqrt(found) * kernel.profile_weight
        found = tf.tensor_scatter_nd_add(tf.reshape(found, [-1, items]), pairs, inputs) * self.item_scale
        lengths = tf.sqrt(tf.reduce_sum(tf.square(tf.cast(found, tf.float64)), axis=1, keepdims=True))
        found /= tf.cast(tf.where(lengths > 0, lengths, 1), tf.float32)
        cosines = tf.matmul(found, self.anchors, transpose_b=True)
        similar = tf.exp(kernel.gamma * (cosines - 1)) * self.anchor_scale
        rated = tf.math.unsorted_segment_sum(tf.ones_like(ratings, tf.float64), pairs[:, 0], count)
        scale = tf.pow(tf.maximum(rated, 1) / kernel.mean_count, kernel.user_scale)
        return tf.cast(scale, tf.float32)[:, None] * tf.matmul(similar, self.mapping)


def _solved(loss: RatingLoss, rated: Tensor, targets: Tensor, here: Tensor) -> Tensor:
    """Return `RatingLoss.ridge` of (n, m, width) vectors and (n, m) targets, zeros where (n, m) `here` is 0."""
    penalty = tf.fill(tf.shape(here)[:1], tf.constant(loss.l2 * loss.trained_on, tf.float64))
    if loss.lazy_batch:
        left = tf.maximum(loss.trained_on - tf.range(tf.shape(here)[1]), 1)
        others = tf.maximum(1 - loss.lazy_batch / left, 0)
        penalty *= 1 - tf.reduce_prod(tf.where(here > 0, others, 1), axis=1)
    noise = loss.dropout / (1 - loss.dropout) * tf.reduce_sum(tf.square(rated), axis=1)
    rest = tf.fill(tf.shape(penalty[:, None]), tf.constant(loss.bias_penalty, tf.float64))
    diagonal = tf.concat([penalty[:, None] + noise, rest], 1)
    system = tf.concat([tf.concat([rated, here[:, :, None]], 2), tf.linalg.diag(tf.sqrt(diagonal))], 1)
    right = tf.concat([targets, tf.zeros_like(diagonal)], 1)
    return tf.linalg.lstsq(system, right[:, :, None], fast=False)[:, :, 0]
