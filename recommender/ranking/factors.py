"""Trained factors as plain arrays: saved, loaded and scored without TensorFlow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from recommender.errors import RERUN, UserError
from recommender.paths import FACTORS
from recommender.ranking.topk import Items, Lists, Users, stored_entries, top_k
from recommender.storage import read_arrays, write_arrays

if TYPE_CHECKING:  # the default training does without SciPy, which is slow to import
    import scipy.sparse as sp

PREDICT_BATCH: Final = 32  # pairs in a batch of Keras' `predict`, over which batch_sum adds
LARGEST: Final = float(np.finfo(np.float32).max) / 8  # score, with room for the bound on its rounding error
INTERACTIONS: Final = ("dot", "batch_sum")
SCORES: Final = ("ratings", "order")
VECTORS: Final = ("user_factors", "item_factors", "user_bias", "item_bias")
SIMILAR_MIN_RATINGS: Final = 20  # of an item before it counts as similar to another
SIMILAR_DECIMALS: Final = 9  # of cosines, so that the last bits do not decide the order


@dataclass(frozen=True)
class Factors:
    """A trained model: score = global mean + user bias + item bias + interaction of the two vectors."""

    user_factors: NDArray[np.float32]  # (num_users, size)
    item_factors: NDArray[np.float32]  # (num_items, size)
    user_bias: NDArray[np.float32]  # (num_users,)
    item_bias: NDArray[np.float32]  # (num_items,)
    item_order: NDArray[np.int32]  # (num_items,) the rank of each item's id, which decides the batches of `batch_sum`
    global_mean: float = 0.0  # 0 where the model has none
    interaction: str = "dot"  # a dot product for each pair; "batch_sum": the sum of them over a batch of pairs
    scores: str = "ratings"  # scores predict ratings; "order": they only order items

    def save(self, path: Path = FACTORS) -> None:
        """Write the factors."""
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        write_arrays(path, arrays | {"global_mean": np.array(self.global_mean, dtype=np.float32)})

    @classmethod
    def load(cls, path: Path = FACTORS, users: slice | None = None, shape: tuple[int, int] | None = None) -> Self:
        """Read the factors; a `UserError` where arrays do not fit together, are not finite or too large.

        Of `users`, where they are given, no others' are read; `shape` is then checked as in `check_shape`.
        """
        arrays, none = read_arrays(path, () if users is None else VECTORS[::2]), np.empty(0)
        user_factors, item_factors, user_bias, item_bias = vectors = [arrays.get(name, none) for name in VECTORS]
        order, mean = arrays.get("item_order", none), arrays.get("global_mean", none)
        interaction, scores = str(arrays.get("interaction")), str(arrays.get("scores"))
        fits = (
            user_factors.ndim == item_factors.ndim == 2
            and user_factors.shape[1] == item_factors.shape[1]
            and user_bias.shape == user_factors.shape[:1]
            and item_bias.shape == order.shape == item_factors.shape[:1]
            and mean.shape == ()
            and all(vector.dtype == np.float32 for vector in (*vectors, mean))
            and order.dtype == np.int32
            and interaction in INTERACTIONS
            and scores in SCORES
        )
        if not fits:
            raise UserError(f"{path}: is not a file of factors: arrays are missing or do not fit together; {RERUN}")
        if users is not None and shape is not None:
            _check_shape((len(user_factors), len(item_factors)), shape)
            vectors[::2] = user_factors, user_bias = np.array(user_factors[users]), np.array(user_bias[users])
        if not all(np.isfinite(vector).all() for vector in (*vectors, mean)):
            raise UserError(f"{path}: contains NaN or infinite numbers: training diverged; lower the learning rate")
        longest = [np.linalg.norm(part.astype(np.float64), axis=1).max(initial=0) for part in vectors[:2]]
        if math.prod(longest) + np.abs(item_bias).max(initial=0) > LARGEST:
            raise UserError(f"{path}: contains numbers so large that scores overflow; lower the learning rate")
        return cls(user_factors, item_factors, user_bias, item_bias, order, float(mean), interaction, scores)

    @classmethod
    def mean(cls, models: "Sequence[Factors]") -> "Factors":
        """Return one model whose scores are the mean of the scores of several with the ``dot`` interaction.

        Their vectors are put side by side, each divided by the root of the number of models; biases are averaged.
        """
        if len(models) == 1:
            return models[0]
        parts = {name: [getattr(model, name) for model in models] for name in VECTORS}
        root = np.float32(len(models) ** 0.5)
        mean: dict[str, Any] = {name: np.concatenate(parts[name], axis=1) / root for name in VECTORS[:2]}
        mean |= {name: np.mean(parts[name], axis=0, dtype=np.float64) for name in VECTORS[2:]}
        return replace(models[0], **{name: part.astype(np.float32) for name, part in mean.items()})

    @property
    def predicts_ratings(self) -> bool:
        """Whether scores are ratings."""
        return self.scores == "ratings"

    def check_shape(self, shape: tuple[int, int]) -> None:
        """Refuse a split with other numbers of users and items than the one trained on."""
        _check_shape((len(self.user_factors), len(self.item_factors)), shape)

    @cached_property
    def _wide(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Vectors as float64, one row a dimension: the product of two float32 numbers is exact in float64."""
        return (
            np.ascontiguousarray(self.user_factors.T, dtype=np.float64),
            np.ascontiguousarray(self.item_factors.T, dtype=np.float64),
        )

    def _biases(self, users: Users, items: Items) -> NDArray[np.float64]:
        return self.global_mean + self.user_bias[users].astype(np.float64) + self.item_bias[items].astype(np.float64)

    def _dots(self, users: Users, items: Items) -> NDArray[np.float64]:
        """Dot products of pairs, added dimension by dimension: the same bits on every machine."""
        dots = np.zeros(np.broadcast_shapes(users.shape, items.shape))
        for user_row, item_row in zip(*self._wide, strict=True):
            dots += user_row[users] * item_row[items]
        return dots

    def pair_scores(self, users: Users, items: Items) -> NDArray[np.float64]:
        """Return the scores of (n,) pairs with a dot product each, in the same bits on every machine."""
        return self._dots(users, items) + self._biases(users, items)

    def predict(self, users: Users, items: Items) -> NDArray[np.float64]:
        """Return what the Keras model's `predict` returns for (n,) pairs.

        With ``batch_sum`` every 32 pairs in succession share the sum of their dot products.
        """
        dots = self._dots(users, items)
        if self.interaction == "batch_sum":
            starts = np.arange(0, len(dots), PREDICT_BATCH)
            dots = np.repeat(np.add.reduceat(dots, starts), PREDICT_BATCH)[: len(dots)]
        return dots + self._biases(users, items)

    def cosines(self, item: int) -> NDArray[np.float64]:
        """Return the cosine between an item's vector and every item's: (num_items,), 0 where a vector is 0."""
        wide = self.item_factors.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1)
        scale = lengths * lengths[item]
        found: NDArray[np.float64] = np.divide(wide @ wide[item], scale, out=np.zeros(len(wide)), where=scale > 0)
        return found.clip(-1, 1)

    def top_k(self, users: Users, seen: "sp.csr_array", k: int, candidates: NDArray[np.bool_] | None = None) -> Lists:
        """List each user's k best unseen items, the same on every machine: see `recommender.ranking.topk.top_k`.

        With ``batch_sum`` items that may not be listed are in the batches all the same, as in the notebook.
        """
        if self.interaction == "batch_sum":
            return top_k(users, seen, k, lambda batch: self._batch_sum_scores(batch, seen), candidates=candidates)
        return top_k(users, seen, k, self._fast_scores, self._tolerance, self.pair_scores, candidates)

    def _fast_scores(self, users: Users) -> NDArray[np.float32]:
        # A user's bias and the global mean move all of the user's scores alike; the exact scores add them.
        ones = np.ones((len(users), 1), dtype=np.float32)
        table: NDArray[np.float32] = np.hstack([self.user_factors[users], ones]) @ self._items_with_bias
        return table

    @cached_property
    def _items_with_bias(self) -> NDArray[np.float32]:
        """Item vectors as columns, with the biases as the last row: with few dimensions, twice as fast to multiply."""
        return np.ascontiguousarray(np.vstack([self.item_factors.T, self.item_bias]))

    def _tolerance(self, users: Users) -> NDArray[np.float32]:
        """Return `rounding_bound` for the vectors of users, rounded up."""
        slope, rest = self.rounding_bound
        bound = slope * np.linalg.norm(self.user_factors[users].astype(np.float64), axis=1) + rest
        rounded_up: NDArray[np.float32] = np.nextafter((bound * 1.001).astype(np.float32), np.float32(np.inf))
        return rounded_up

    @cached_property
    def rounding_bound(self) -> tuple[float, float]:
        """What a score in single precision, whatever the order of its additions, is off by at most.

        The first number times the length of the user's vector, plus the second.

        Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1: n operations in a row are off by
        at most n u / (1 - n u) times the sum of the absolute terms, u = 2^-24 here; Cauchy and Schwarz bound that sum.
        Products below 2^-126, the least normal number, may also be rounded to 0.
        """
        steps = self.item_factors.shape[1] + 2
        relative = steps * 2.0**-24 / (1 - steps * 2.0**-24)
        longest = float(np.linalg.norm(self.item_factors.astype(np.float64), axis=1).max())
        return relative * longest, relative * float(np.abs(self.item_bias).max()) + steps * 2.0**-126

    def _batch_sum_scores(self, users: Users, seen: "sp.csr_array") -> NDArray[np.float64]:
        """Score candidates as the notebook's `predict` does: in ascending item id, 32 to a batch."""
        order = np.argsort(self.item_order).astype(np.int32)
        table = self._dots(users[:, None], order[None, :])
        candidate = np.ones(table.shape, dtype=bool)
        candidate[stored_entries(seen, users)] = False
        candidate = candidate[:, order]
        before = np.cumsum(candidate, axis=1)[candidate] - 1
        starts = np.flatnonzero(before % PREDICT_BATCH == 0)
        table[candidate] = np.repeat(np.add.reduceat(table[candidate], starts), np.diff(starts, append=len(before)))
        scores = np.empty_like(table)
        scores[:, order] = table + self._biases(users[:, None], order[None, :])
        return scores


def _check_shape(trained: tuple[int, int], shape: tuple[int, int]) -> None:
    if trained != shape:
        raise UserError(
            f"{FACTORS}: was trained on {trained[0]} users and {trained[1]} items, but data/processed has "
            f"{shape[0]} and {shape[1]}; {RERUN}"
        )


def similar_items(
    factors: Factors, item_counts: NDArray[np.int64], item: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the n items most similar to one, best first, with their cosines: fewer where there are no more.

    Items with fewer than `SIMILAR_MIN_RATINGS` ratings are left out: in ranking models the vectors of rarely rated
    items point by chance in the direction of some popular one. On ml-100k the nearest of Contact (1997) all had one to
    seven ratings. With this minimum, neighbours on ml-100k and ml-1m share as many genres as without it or more, and
    with 50 not more. Scaling cosines by count / (count + c) is no alternative: where all cosines are nearly equal, as
    in the default model, all items would have the same few popular neighbours.

    `item_counts` are (num_items,) numbers of ratings.
    """
    cosines = np.round(factors.cosines(item), SIMILAR_DECIMALS)
    candidates = np.flatnonzero((item_counts >= SIMILAR_MIN_RATINGS) & (np.arange(len(item_counts)) != item))
    best = candidates[np.argsort(-cosines[candidates], stable=True)][:n]
    return best, cosines[best]
