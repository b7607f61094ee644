"""What a request is answered with: a graph of TensorFlow's own operations whose tables are variables.

Its lists are those of `recommender.ranking.recommender`. Tables are no constants, as a graph must stay below 2 GiB; a
hash table of ids would be made of constants too, so that ids are found by binary search.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.models.core.backend import tf
from recommender.models.serving.new_users import NewUsers
from recommender.ranking.factors import SIMILAR_DECIMALS, SIMILAR_MIN_RATINGS
from recommender.ranking.fold_in import FoldIn, RatingLoss
from recommender.ranking.recommender import Recommender
from recommender.ranking.user_kernel import UserKernel

Tensor = Any  # TensorFlow ships no types
Exact = Callable[[Tensor, Tensor], Tensor]  # rows of a request and item indices to exact scores, float64: (pairs,) each

HASHES: Final = 2**63 - 1  # of texts
LEAST: Final = float("-inf")
PART: Final = 64  # numbers of a vector that are multiplied at once: whole ones of many pairs fill no cache


def table(values: Any, name: str) -> tf.Variable:  # noqa: ANN401 - whatever TensorFlow takes
    """Return an array as a variable that is saved and never changes."""
    return tf.Variable(values, trainable=False, name=name)


class Ids(tf.Module):
    """Ids by index: int32, int64 or text."""

    def __init__(self, ids: NDArray[Any], name: str) -> None:
        super().__init__(name)
        text = ids.dtype.kind not in "iu"
        self.count = len(ids)
        self.dtype = tf.string if text else tf.as_dtype(ids.dtype)
        # One more, the id of no index.
        self.ids = table(tf.constant([*ids, ""] if text else np.append(ids, ids.dtype.type(-1)), self.dtype), "ids")
        keys = self._keys(self.ids[:-1]).numpy()
        order = np.argsort(keys, kind="stable")
        self.sorted_keys = table(keys[order], "sorted_keys")
        self.order = table(np.append(order, self.count).astype(np.int32), "order")
        self.most_of_a_key = int(np.unique(keys, return_counts=True)[1].max())  # 1, unless two texts have one hash

    def _keys(self, ids: Tensor) -> Tensor:
        return tf.strings.to_hash_bucket_fast(ids, HASHES) if self.dtype == tf.string else tf.cast(ids, tf.int64)

    def find(self, ids: Tensor) -> Tensor:
        """Return the index of each id: int32, and the number of indices for what is no id."""
        ids = tf.ensure_shape(ids, ids.shape)  # servers do not check what they are sent
        flat = tf.reshape(ids, [-1])
        place = tf.searchsorted(self.sorted_keys, self._keys(flat))
        found = tf.fill(tf.shape(flat), self.count)
        for further in range(self.most_of_a_key):
            index = tf.gather(self.order, tf.minimum(place + further, self.count))
            same = (tf.gather(self.ids, index) == flat) & (index < self.count)
            found = tf.where(same, index, found)
        return tf.reshape(found, tf.shape(ids))


class Serving(tf.Module):
    """The signatures of a trained model; `n` is the number of users or items asked about.

    All take `k`, the length of lists, and return (n, min(k, number of items)) `item_id`, `title` and `score`, best
    first, of which `count` (n,) are in the list; behind them ids are -1 or empty, titles empty, and scores 0. `known`
    (n,) says who or what is asked about; the list of anybody else is empty.
    """

    def __init__(self, recommender: Recommender, loss: FoldIn) -> None:
        super().__init__("serving")
        factors, learned = recommender.factors, recommender.learned
        self.num_items, self.size = factors.item_factors.shape
        self.users = Ids(recommender.user_ids, "users")
        self.items = Ids(recommender.items["item_id"].to_numpy(), "items")
        self.titles = table(tf.constant([*recommender.titles, ""]), "titles")
        self.mean, self.slope_and_rest = factors.global_mean, factors.rounding_bound
        # One more row, of somebody unknown. Who is not learned of has no vector and gets the items rated most.
        self.user_factors = table(_with_zeros(factors.user_factors * learned.users[:, None]), "user_factors")
        self.user_bias = table(_with_zeros(factors.user_bias * learned.users), "user_bias")
        self.learned = table(np.append(learned.users, True), "learned")
        self.item_factors = table(factors.item_factors, "item_factors")
        self.item_bias = table(factors.item_bias, "item_bias")
        self.item_counts = table(learned.item_counts, "item_counts")
        self.most_ratings = float(learned.item_counts.max())
        rated = recommender.rated
        self.rated_starts = table(np.append(rated.indptr, rated.indptr[-1]).astype(np.int64), "rated_starts")
        self.rated_items = table(rated.indices.astype(np.int32), "rated_items")
        self.comparable = table(recommender.item_counts >= SIMILAR_MIN_RATINGS, "comparable")
        self.lengths = table(np.linalg.norm(factors.item_factors.astype(np.float64), axis=1), "lengths")
        # No constant, as TensorFlow would multiply by its reciprocal where a division is asked for.
        self.decimals = table(np.float64(10**SIMILAR_DECIMALS), "decimals")
        self.alone = factors.interaction == "dot"  # of batch_sum a score depends on which items are scored together
        solved = self.alone and isinstance(loss, (RatingLoss, UserKernel))  # another minimum takes steps of L-BFGS
        self.new_users: Any = NewUsers(factors, loss, rated) if solved else None

    def signatures(self) -> dict[str, Any]:
        """Return the functions that are saved, by name; `recommend` and `recommend_new` where they are possible."""
        item = self.items.dtype
        k, exclude = tf.TensorSpec([], tf.int32, "k"), tf.TensorSpec([None, None], item, "exclude")
        found: dict[str, tuple[Callable[..., Any], list[Any]]] = {}
        if self.alone:
            found["recommend"] = self.recommend, [tf.TensorSpec([None], self.users.dtype, "user_id"), k, exclude]
        if self.new_users:
            rated = tf.TensorSpec([None, None], item, "item_id"), tf.TensorSpec([None, None], tf.float32, "rating")
            found["recommend_new"] = self.recommend_new, [*rated, k, exclude]
        found["similar_items"] = self.similar_items, [tf.TensorSpec([None], item, "item_id"), k]
        return {
            name: tf.function(function, input_signature=inputs, autograph=False)
            for name, (function, inputs) in found.items()
        }

    def recommend(self, user_id: Tensor, k: Tensor, exclude: Tensor) -> dict[str, Tensor]:
        """List items for (n,) users, without those rated and the (n or 1, m) excluded."""
        user = self.users.find(user_id)
        known, learned = user < self.users.count, tf.gather(self.learned, user)
        rated = tf.RaggedTensor.from_row_splits(self.rated_items, self.rated_starts, validate=False)
        rated = tf.gather(rated, user)
        rated = tf.stack([rated.value_rowids(), tf.cast(rated.values, tf.int64)], 1)
        left_out = tf.concat([rated, self._excluded(exclude, tf.shape(user)[0])], 0)
        vectors, bias = tf.gather(self.user_factors, user), tf.gather(self.user_bias, user)
        return self._listed(vectors, bias, known, learned, left_out, k)

    def recommend_new(self, item_id: Tensor, rating: Tensor, k: Tensor, exclude: Tensor) -> dict[str, Tensor]:
        """List items for n new users who rated (n, m) items; what is no item or no finite rating is left out."""
        pairs, ratings = self.new_users.given(self.items.find(item_id), rating)
        count = tf.shape(item_id)[0]
        vectors, bias = self.new_users.fold_in(pairs, ratings, count, self.item_factors, self.item_bias)
        known = tf.math.unsorted_segment_sum(tf.ones_like(ratings), pairs[:, 0], count) > 0
        left_out = tf.concat([pairs, self._excluded(exclude, count)], 0)
        return self._listed(vectors, bias, known, tf.ones_like(known), left_out, k)

    def similar_items(self, item_id: Tensor, k: Tensor) -> dict[str, Tensor]:
        """List the items most similar to (n,) items, with cosines: see `recommender.ranking.factors.similar_items`."""
        item = self.items.find(item_id)
        known = item < self.num_items
        item = tf.minimum(item, self.num_items - 1)
        vectors, lengths = tf.gather(self.item_factors, item), tf.gather(self.lengths, item)
        units = tf.math.divide_no_nan(tf.cast(vectors, tf.float64), lengths[:, None])
        scores = tf.matmul(tf.cast(units, tf.float32), self.item_factors, transpose_b=True)
        scores = tf.math.divide_no_nan(scores, tf.cast(self.lengths, tf.float32))

        def exact(row: Tensor, other: Tensor) -> Tensor:
            scale = tf.gather(lengths, row) * tf.gather(self.lengths, other)
            cosines = tf.math.divide_no_nan(self._dots(vectors, row, other), scale)
            return tf.round(tf.clip_by_value(cosines, -1, 1) * self.decimals) / self.decimals

        # Of a product of vectors of length 1, with some more operations, and what rounding to decimals adds.
        off = tf.fill(tf.shape(lengths), (self.size + 8) * 2.0**-23 + 10.0**-SIMILAR_DECIMALS)
        own = tf.cast(tf.stack([tf.range(tf.size(item)), item], 1), tf.int64)
        scores = _masked(scores, known[:, None] & self.comparable, own)
        return self._best(scores, tf.cast(off, tf.float64), exact, known, k)

    def _excluded(self, exclude: Tensor, count: Tensor) -> Tensor:
        """Return row and item, int64, of (n, m) or (1, m) excluded ids."""
        item = self.items.find(exclude)
        item = tf.broadcast_to(item, [count, tf.shape(item)[1]])
        here = tf.where(item < self.num_items)
        return tf.stack([here[:, 0], tf.cast(tf.gather_nd(item, here), tf.int64)], 1)

    def _dots(self, vectors: Tensor, row: Tensor, item: Tensor) -> Tensor:
        """Return the dot products that `Factors.pair_scores` has, to the bit: a cumulative sum adds in order."""
        user, other = tf.gather(vectors, row), tf.gather(self.item_factors, item)
        total = tf.zeros([tf.shape(row)[0], 1], tf.float64)
        for start in range(0, self.size, PART):
            numbers = [tf.cast(part[:, start : start + PART], tf.float64) for part in (user, other)]
            total = tf.cumsum(tf.concat([total, numbers[0] * numbers[1]], 1), axis=1)[:, -1:]
        return total[:, 0]

    def _listed(
        self, vectors: Tensor, bias: Tensor, known: Tensor, learned: Tensor, left_out: Tensor, k: Tensor
    ) -> dict[str, Tensor]:
        """List the best items for (n, size) vectors and (n,) biases, or those rated most for who is not learned of."""
        base = self.mean + tf.cast(bias, tf.float64)
        counts = tf.cast(self.item_counts, tf.float64)
        own = tf.where(learned[:, None], self.item_bias, tf.cast(counts, tf.float32))
        scores = tf.matmul(vectors, self.item_factors, transpose_b=True) + own

        def exact(row: Tensor, item: Tensor) -> Tensor:
            biases = tf.gather(base, row) + tf.cast(tf.gather(self.item_bias, item), tf.float64)
            # A choice stands between the sums, which TensorFlow might otherwise add in another order.
            biases = tf.where(tf.gather(learned, row), biases, tf.gather(counts, item))
            return self._dots(vectors, row, item) + biases

        slope, rest = self.slope_and_rest
        length = tf.norm(tf.cast(vectors, tf.float64), axis=1)
        off = tf.where(learned, slope * length + rest, self.most_ratings * 2.0**-23)
        scores = _masked(scores, known[:, None] & (self.item_counts > 0), left_out)
        return self._best(scores, off, exact, known, k)

    def _best(self, scores: Tensor, off: Tensor, exact: Exact, known: Tensor, k: Tensor) -> dict[str, Tensor]:
        """List the k items of highest exact score, of equal scores the first: as `recommender.ranking.topk.top_k`.

        Args:
            scores: (n, num_items) float32, -inf for what is not listed.
            off: (n,) float64, what they are off by at most.
            exact: returns the exact scores of the pairs that could be among the best.
            known: (n,) who or what is asked about.
            k: length of the lists.
        """
        width = tf.clip_by_value(k, 0, self.num_items)
        last = tf.cast(tf.math.top_k(scores, tf.maximum(width, 1)).values[:, -1], tf.float64)
        # Twice: the item at the threshold may be scored too high and the candidate too low.
        least = tf.math.nextafter(tf.cast(last - 2.001 * off, tf.float32), LEAST)
        found = tf.where((scores >= least[:, None]) & (scores > LEAST))
        row, item = found[:, 0], found[:, 1]
        count = tf.shape(scores, tf.int64)[0]

        def by_row(values: Tensor, nothing: float) -> Tensor:
            """Return (n, m + width) values of the pairs, by item, and `nothing` behind them."""
            ragged = tf.RaggedTensor.from_value_rowids(values, row, count, validate=False)
            return tf.pad(ragged.to_tensor(nothing), [[0, 0], [0, width]], constant_values=nothing)

        best = tf.math.top_k(by_row(exact(row, item), LEAST), width)  # of equal ones the first
        chosen = tf.gather(by_row(item, self.num_items), best.indices, batch_dims=1)
        here = best.values > LEAST
        return {
            "item_id": tf.gather(self.items.ids, chosen),
            "title": tf.gather(self.titles, chosen),
            "score": tf.where(here, best.values, 0),
            "count": tf.reduce_sum(tf.cast(here, tf.int32), 1),
            "known": known,
        }


def _masked(scores: Tensor, listed: Tensor, left_out: Tensor) -> Tensor:
    """Return (n, num_items) scores with -inf where not `listed`, and at the (pairs, 2) rows and items left out."""
    scores = tf.where(listed, scores, LEAST)
    return tf.tensor_scatter_nd_update(scores, left_out, tf.fill(tf.shape(left_out)[:1], LEAST))


def _with_zeros(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([values, np.zeros_like(values[:1])])
