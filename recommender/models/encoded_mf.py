"""Matrix factorization of ratings where each item's vector is computed from who rated the item, and how."""

import dataclasses
import math
from typing import Any, Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.algebra import gram, inner_products, product, whole_tiles
from recommender.models.core.backend import ops, tf
from recommender.models.core.batches import RatingBatches, RowBatches
from recommender.models.core.kernels import BLOCK, dense_rows, equal_slices, leading, sparse_gram, user_features
from recommender.models.core.steps import Dropout, RowModel
from recommender.models.core.training import Job, adam
from recommender.params import EncodedMf, Kernel
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import EncodedLoss

Tensor = Any  # TensorFlow ships no types
START: Final = 0.1  # expected initial length of a vector
DAMPING: Final = 5.0  # ratings at 0 that a bias is taken together with
ALTERNATIONS: Final = 10  # of the biases of users and items
INPUTS: Final = 512  # numbers that the inputs of an item are rotated to
ROUNDS: Final = 3  # of subspace iteration to them
FEATURES: Final = 240  # of the kernel between users, on which the rest is regressed for each item
FEATURE_SCALE: Final = 0.1  # of that kernel
PROFILED: Final = 3  # the profiles of every third user are inputs
MEASURED: Final = 4096  # held-out ratings predicted at a time
BASIS_SEED: Final = 0  # one for all models of an ensemble, whose new users have the same features
RIDGE: Final = 0.7  # of that regression
STEPS: Final = 4  # of conjugate gradients to its solution
# Those that rank best on ml-1m, but that all users count the same.
PROFILES: Final = Kernel(
    embedding_size=FEATURES,
    rating_base=1.5,
    user_discount=0.26,
    item_gamma=1.9,
    item_scale=0.385,
    item_ridge=0.72,
    profile_weight=4.6,
    item_discount=0.213,
    user_gamma=3.0,
    user_scale=0.0,
    ridge=5.33,
    max_users=2048,
    max_items=2048,
)


def prepare(
    known: Interactions, held_out: Interactions, item_order: NDArray[np.int32], section: EncodedMf, seed: int
) -> Job:
    """Predict all ratings of `batch_size` items at a time from who rated them, and regress the rest on features."""
    mean = float(known.ratings.mean(dtype=np.float64))
    user_bias, item_bias = damped_biases(known, mean)
    features, kernel = user_features(known, PROFILES, FEATURES, BASIS_SEED)
    features *= np.float32(FEATURE_SCALE**0.5)
    residuals = known.matrix().T.tocsr()
    item = np.repeat(np.arange(known.num_items), np.diff(residuals.indptr))
    # Users without ratings fill the last tile once for all products: to do it in each takes a third of an epoch.
    users = whole_tiles(known.num_users)
    rated = residuals.data.copy(), residuals.indices, residuals.indptr
    ratings = sp.csr_array(rated, (known.num_items, users))
    residuals.data -= np.float32(mean) + user_bias[residuals.indices] + item_bias[item]
    profiles = dense_rows(kernel.profiles, kernel.inputs(known.matrix())[::PROFILED])
    batch = min(section.batch_size, known.num_items)
    steps = math.ceil(known.num_items / batch)
    inputs = rotated_inputs(residuals, profiles)
    biases = mean, np.pad(user_bias, (0, users - known.num_users)), item_bias
    model = EncodedFactorization(biases, inputs, section, len(known), steps, seed)
    model.compile(optimizer=adam(section, steps), jit_compile=True)
    model.optimizer.build(model.trainable_variables)

    def factors() -> Factors:
        vectors, encoder = (np.asarray(weight) for weight in model.trainable_variables)
        vectors = vectors[: known.num_users]
        encoded = np.array(product(np.ascontiguousarray(inputs.T), encoder))
        both = np.hstack([vectors, features]), np.hstack([encoded, regressed(features, residuals, vectors, encoded)])
        return Factors(*both, user_bias, item_bias, item_order, mean, scores=section.scores)

    parts = {field.name: getattr(kernel, field.name) for field in dataclasses.fields(kernel)}
    parts["mapping"] = kernel.mapping * np.float32(FEATURE_SCALE**0.5)
    loss = EncodedLoss(len(known), section.l2, DAMPING, section.dropout, ensemble_size=section.ensemble_size, **parts)
    measured = RatingBatches(held_out, min(MEASURED, len(held_out)), None, stack_rows=len(held_out))
    return Job(model, RowBatches((ratings,), batch, seed), measured, factors, loss)


def damped_biases(ratings: Interactions, mean: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the biases of users and items: damped means of what the others leave, items first, in turn."""
    rest, user = ratings.ratings.astype(np.float64) - mean, np.zeros(ratings.num_users)
    of_items, of_users = ratings.item_counts() + DAMPING, np.bincount(ratings.users, minlength=len(user)) + DAMPING
    for _ in range(ALTERNATIONS):
        item = np.bincount(ratings.items, rest - user[ratings.users], ratings.num_items) / of_items
        user = np.bincount(ratings.users, rest - item[ratings.items], ratings.num_users) / of_users
    return user.astype(np.float32), item.astype(np.float32)


def rotated_inputs(residuals: sp.csr_array, profiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the inputs of items in the coordinates where they differ most: (num_items, `INPUTS`) or fewer numbers.

    An item's inputs are, for every user, the residual and whether there is one, both divided by the root of the number
    of raters, and the item's column of some users' profiles at unit length. A linear layer on what has been rotated is
    one on the inputs, with the same penalty, and takes a sixth of the time.
    """
    raters = np.maximum(np.diff(residuals.indptr), 1)
    scale = np.repeat(1 / np.sqrt(raters), np.diff(residuals.indptr))
    both = sp.hstack([with_data(residuals, residuals.data * scale), with_data(residuals, scale)], format="csr")
    lengths = np.sqrt(np.square(profiles, dtype=np.float64).sum(axis=0))
    columns = profiles / np.where(lengths > 0, lengths, 1).astype(np.float32)
    similar = sparse_gram(both) + gram(columns)
    return leading(similar, min(INPUTS, len(similar)), BASIS_SEED, ROUNDS)[1]


def with_data(matrix: sp.csr_array, data: NDArray[np.floating]) -> sp.csr_array:
    """Return a matrix with other numbers in the same places."""
    return sp.csr_array((data, matrix.indices, matrix.indptr), matrix.shape)


def regressed(
    features: NDArray[np.float32], residuals: sp.csr_array, users: NDArray[np.float32], encoded: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return for each item the ridge regression, on its raters' features, of what their vectors leave of residuals."""
    rows, columns = np.ascontiguousarray(features.T), np.ascontiguousarray(users.T)
    known, found = with_data(residuals, np.ones_like(residuals.data)), np.empty((len(encoded), len(rows)), np.float32)
    for block in equal_slices(len(encoded), BLOCK):
        mask = np.ascontiguousarray(known[block].toarray().T)
        scores = product(columns, np.ascontiguousarray(encoded[block].T))
        targets = mask * (np.ascontiguousarray(residuals[block].toarray().T) - scores)
        found[block] = np.transpose(conjugate_gradients(features, rows, mask, targets))
    return found


@tf.function(jit_compile=True, autograph=False)
def conjugate_gradients(features: Tensor, rows: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Return (size, items) weights that regress each column of (users, items) targets on features, where masked.

    Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems (1952), for all items at once.
    """

    def step(count: Tensor, weights: Tensor, rest: Tensor, direction: Tensor, square: Tensor) -> tuple[Tensor, ...]:
        image = product(features, mask * product(rows, direction)) + RIDGE * direction
        length = tf.math.divide_no_nan(square, tf.reduce_sum(direction * image, axis=0))
        weights, rest = weights + length * direction, rest - length * image
        left = tf.reduce_sum(rest * rest, axis=0)
        return count + 1, weights, rest, rest + tf.math.divide_no_nan(left, square) * direction, left

    right = product(features, targets)
    start = (0, tf.zeros_like(right), right, right, tf.reduce_sum(right * right, axis=0))
    return tf.while_loop(lambda count, *_: count < STEPS, step, start)[1]


class EncodedFactorization(RowModel):
    """Rating = global mean + user bias + item bias + user vector · item vector, the last computed from who rated it.

    Biases are fixed. An item's vector is a linear function of its inputs: the implicit factors of asymmetric SVD and
    SVD++ (Koren, Factorization meets the neighborhood, KDD 2008, section 4) with the roles of users and items
    exchanged, and as an autoencoder AutoRec with the identity for its activation (Sedhain et al., WWW 2015).

    In training, dropout acts on the item vector. The loss is the mean over the `ratings` that make `batches` batches,
    plus `l2` times the squared user vectors and `encoder_l2` times the squared weights of the encoder.
    """

    def __init__(
        self,
        biases: tuple[float, NDArray[np.float32], NDArray[np.float32]],
        inputs: NDArray[np.float32],
        section: EncodedMf,
        ratings: int,
        batches: int,
        seed: int,
    ) -> None:
        super().__init__()
        (self.global_mean, user_bias, item_bias), size = biases, section.embedding_size
        self.scale, self.l2, self.encoder_l2 = batches / ratings, section.l2, section.encoder_l2
        self.user_factors = self.add_vectors("user_factors", len(user_bias), size, START, seed)
        self.encoder = self.add_vectors("encoder", inputs.shape[1], size, START, seed + 1)
        self.user_bias, self.item_bias, self.inputs = (tf.constant(part) for part in (user_bias, item_bias, inputs))
        self.dropout = Dropout(section.dropout, seed=seed + 2)
        self.built = True

    def call(self, items: Tensor, training: bool = False) -> Tensor:
        """Predict every user's ratings of (batch,) item indices, where -1 is padding: (batch, num_users) float32.

        In training, dropout and the L2 terms apply.
        """
        chosen = ops.maximum(items, 0)
        encoded = inner_products(ops.take(self.inputs, chosen, axis=0), ops.transpose(self.encoder))
        vectors = self.dropout(encoded, training=training)
        if training:
            self.add_loss(self.l2 * ops.sum(ops.square(self.user_factors)))
            self.add_loss(self.encoder_l2 * ops.sum(ops.square(self.encoder)))
        residuals = inner_products(vectors, tf.convert_to_tensor(self.user_factors))
        return self.global_mean + ops.take(self.item_bias, chosen)[:, None] + self.user_bias + residuals

    def data_loss(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the squared errors over what has been rated: ratings are above 0, and what is not rated is 0."""
        errors = ops.sum(ops.square(ops.where(targets > 0, outputs - targets, 0.0)), axis=-1)
        return ops.sum(errors), ops.cast(ops.count_nonzero(targets), "float32")

    def test_step(self, data: tuple[Any, ...]) -> dict[str, Tensor]:
        """Add the squared errors of a stack of held-out ratings to the mean, scoring no other users and items."""
        encoded = inner_products(self.inputs, ops.transpose(self.encoder))

        def step(index: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            pairs, ratings, weights = (part[index] for part in data)
            user, item = pairs[:, 0], pairs[:, 1]
            residuals = ops.sum(ops.take(self.user_factors, user, axis=0) * ops.take(encoded, item, axis=0), axis=1)
            biases = ops.take(self.item_bias, item) + ops.take(self.user_bias, user)
            errors = self.global_mean + biases + residuals - ratings[:, 0]
            return index + 1, total + ops.sum(weights[:, 0] * ops.square(errors))

        count = ops.sum(data[2])
        _, total = tf.while_loop(lambda index, _: index < tf.shape(data[2])[0], step, (0, 0.0))
        self._loss_tracker.update_state(total / count, sample_weight=count)
        return {"loss": self._loss_tracker.result()}
