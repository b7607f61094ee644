"""What lists are like beyond their accuracy: how novel, popular, varied, surprising and fitting."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import rel_entr
from threadpoolctl import threadpool_limits

from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.metrics import Block, Measured, accuracy, reduced
from recommender.paths import ITEMS
from recommender.ranking.topk import threads, top_k_of_all
from recommender.storage import read_table

GROUPS: Final = ("head", "middle", "tail")  # of items, by the ratings known of them
LISTS: Final = ("novelty", "popularity_percentile", "tail_share", "diversity", "serendipity", "miscalibration")
JUDGED: Final = ("serendipity", "miscalibration")  # one way is better; of the others it is a matter of purpose
BY_ITEMS: Final = tuple(f"recall_{group}" for group in GROUPS)
SMOOTHING: Final = 0.01  # of a list's categories with the user's own, as in Steck's paper
MOST_CATEGORIES: Final = 1_000  # and below it kinds of items, beyond which tables of all of them would be too large
MOST_KINDS: Final = 10_000
BLOCK_BYTES: Final = 2**23  # of one array over a block of users

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Categories:
    """The categories of the items; those without any have one of their own."""

    kind: NDArray[np.int32]  # (num_items,) items of the same categories are of the same kind
    sets: sp.csr_array  # kinds x categories, 1 where a kind has that category
    names: list[str]  # of the categories; "" is that of items without any

    @classmethod
    def read(cls) -> Self | None:
        """Read those that split wrote."""
        return cls.of(read_table(ITEMS, ["categories"])["categories"].combine_chunks())

    @classmethod
    def of(cls, joined: pa.StringArray) -> Self | None:
        """Take each item's categories, joined by a bar; None where there are none, or more than `MOST_CATEGORIES`."""
        column = joined.dictionary_encode()
        lists = pc.split_pattern(column.dictionary, "|")
        codes = lists.flatten().dictionary_encode()
        if not 1 < len(codes.dictionary) <= MOST_CATEGORIES:
            return None
        indices, offsets = np.array(codes.indices), np.array(lists.offsets)
        sets = sp.csr_array((np.ones(len(indices)), indices, offsets), shape=(len(lists), len(codes.dictionary)))
        return cls(column.indices.to_numpy(), (sets > 0).astype(np.float64), codes.dictionary.to_pylist())

    @cached_property
    def shares(self) -> Values:
        """Of each kind the share of each category: (kinds, categories), rows that add up to 1."""
        shares = self.sets.toarray()
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def mean_shares(self, row: NDArray[np.integer], items: NDArray[np.int32]) -> Values:
        """Return the mean over users, `row` of (n,), of the shares of categories in their items: (categories,)."""
        counts = np.bincount(row)
        weights = np.bincount(items, weights=1 / counts[row], minlength=len(self.kind)) / np.count_nonzero(counts)
        return np.asarray((weights[:, None] * self.shares[self.kind]).sum(axis=0))


@dataclass(frozen=True)
class Popularity:
    """How well known items are, among all users."""

    counts: NDArray[np.int64]  # (num_items,) the known ratings of each
    users: int  # who have known ratings

    @classmethod
    def of(cls, seen: sp.csr_array) -> Self:
        """Count the known ratings in users x items."""
        return cls(np.bincount(seen.indices, minlength=seen.shape[1]), int(np.count_nonzero(np.diff(seen.indptr))))

    @cached_property
    def group(self) -> NDArray[np.int8]:
        """The number in `GROUPS` of each item: (num_items,).

        Head are the most rated items that make up the first 20 % of all known ratings, tail those that make up the last
        20 % (Abdollahpouri et al., The unfairness of popularity bias in recommendation, RMSE workshop 2019).
        """
        order = np.argsort(-self.counts, kind="stable")
        before = np.cumsum(self.counts[order]) - self.counts[order]  # ratings of the items that are more popular
        group = np.empty(len(order), dtype=np.int8)
        group[order] = (5 * before >= self.counts.sum()).astype(np.int8) + (5 * before >= 4 * self.counts.sum())
        return group

    @cached_property
    def novelty(self) -> Values:
        """The self-information of each item in bits: (num_items,)."""
        counts, place = np.unique(self.counts, return_inverse=True)
        return np.array([math.log2(self.users / max(count, 1)) for count in counts.tolist()])[place]

    @cached_property
    def percentile(self) -> Values:
        """The share of the items that are less popular, half of those as popular counted in: (num_items,)."""
        ordered = np.sort(self.counts)
        ends = (np.searchsorted(ordered, self.counts, side) for side in ("left", "right"))
        return np.asarray(sum(ends) / (2 * len(ordered)))


@dataclass(frozen=True)
class ListMeasures:
    """Measures lists of K items for the users of a held-out part.

    These may be a part of all users, among whom items are popular as `everybody` says. Then there is no diversity where
    items have no categories or more than `MOST_KINDS` sets of them: that takes the ratings or the lists of all users.
    """

    held_out: HeldOut
    categories: Categories | None
    k: int
    everybody: Popularity | None = None

    @cached_property
    def popularity(self) -> Popularity:
        """How well known items are."""
        return self.everybody or Popularity.of(self.held_out.seen)

    @cached_property
    def known(self) -> sp.csr_array:
        """1 for each known rating: users x items."""
        seen = self.held_out.seen
        return sp.csr_array((np.ones(len(seen.indices)), seen.indices, seen.indptr), shape=seen.shape)

    @cached_property
    def popular(self) -> NDArray[np.int32]:
        """What popularity lists for each user: (users, K)."""
        learned = self.held_out.learned
        users, seen = self.held_out.users, self.held_out.seen
        return top_k_of_all(users, seen, self.k, learned.item_counts, learned.candidates)

    @cached_property
    def relevant(self) -> NDArray[np.int64]:
        """The relevant items of each group: (users, groups)."""
        held_out = self.held_out
        row = np.searchsorted(held_out.users, held_out.ratings.users[held_out.relevant])
        cell = row * len(GROUPS) + self.popularity.group[held_out.ratings.items[held_out.relevant]]
        return np.bincount(cell, minlength=len(held_out.users) * len(GROUPS)).reshape(-1, len(GROUPS))

    def measure(self, lists: NDArray[np.int32]) -> Measured:
        """Measure (users, K) lists of item indices, -1 where there are no more candidates."""
        hits, alike = self.held_out.hits(lists), self._similarity(lists)
        width = max(self.k, self.categories.sets.shape[1] if self.categories else 0)
        size, cold = max(1, BLOCK_BYTES // (8 * self.k * width)), self.held_out.cold

        def block(start: int) -> Block:
            rows = slice(start, start + size)
            values = accuracy(hits[rows], self.held_out.relevant_counts[rows])
            beyond = self._beyond(rows, lists[rows], hits[rows], alike)
            return reduced(chain(values, beyond), ~cold[rows] if cold.any() else None)

        for owner, names in (
            (self, ("popular", "relevant", "known")),
            (self.popularity, ("group", "novelty", "percentile")),
        ):
            for name in names:
                getattr(owner, name)  # before the threads need them
        with threadpool_limits(1), ThreadPoolExecutor(threads()) as pool:
            blocks = list(pool.map(block, range(0, max(1, len(lists)), size)))
        return Measured.of(blocks, lists, len(self.popularity.counts))

    def _beyond(
        self,
        rows: slice,
        lists: NDArray[np.int32],
        hits: NDArray[np.bool_],
        alike: tuple[NDArray[np.int64], Values] | None,
    ) -> Iterator[tuple[str, Values]]:
        listed, items = lists >= 0, self.popularity
        # Of the list so far, which is shorter than k where candidates run out.
        length: NDArray[np.int64] = np.cumsum(listed, axis=1)

        def mean(values: Values) -> Values:
            with np.errstate(invalid="ignore"):  # NaN for an empty list
                return np.asarray(np.cumsum(np.where(listed, values[lists], 0), axis=1) / length)

        yield "novelty", mean(items.novelty)
        yield "popularity_percentile", mean(items.percentile)
        yield "tail_share", mean((items.group == GROUPS.index("tail")).astype(np.float64))
        yield "serendipity", serendipity(lists, hits, self.popular[rows])
        for number, (name, relevant) in enumerate(zip(BY_ITEMS, self.relevant[rows].T, strict=True)):
            found = np.cumsum(hits & (items.group[lists] == number), axis=1)
            yield name, found / np.where(relevant, relevant, np.nan)[:, None]
        if alike:
            kind, table = alike
            yield "diversity", diversity(table[kind[lists][:, :, None], kind[lists][:, None, :]], length)
        if self.categories:
            shares = self.categories.shares[self.categories.kind]
            own = self.known[self.held_out.users[rows]] @ shares
            with np.errstate(invalid="ignore"):  # NaN for users and lists without items
                own /= own.sum(axis=1, keepdims=True)
                listed_shares = np.cumsum(shares[lists] * listed[:, :, None], axis=1) / length[:, :, None]
            yield "miscalibration", miscalibration(own, listed_shares)

    def _similarity(self, lists: NDArray[np.int32]) -> tuple[NDArray[np.int64], Values] | None:
        """Return a number of each item and how alike items are by their numbers, or None where that is too large.

        The Jaccard index of categories; where there are none, the cosine of the sets of users who rated the items.
        """
        if self.everybody and (not self.categories or self.categories.sets.shape[0] > MOST_KINDS):
            return None
        kind: NDArray[np.integer] = self.categories.kind if self.categories else np.arange(len(self.popularity.counts))
        used = np.unique(kind[np.maximum(lists, 0)])
        if len(used) > MOST_KINDS:
            return None
        vectors = self.categories.sets[used] if self.categories else sp.csr_array(self.known.T)[used]
        both, size = (vectors @ vectors.T).toarray(), vectors.sum(axis=1)
        if self.categories:
            table = both / (size[:, None] + size - both)
        else:
            table = both / np.maximum(np.sqrt(size[:, None] * size), 1)
        number = np.zeros(kind.max() + 1, dtype=np.int64)
        number[used] = np.arange(len(used))
        return number[kind], table


def serendipity(lists: NDArray[np.int32], hits: NDArray[np.bool_], popular: NDArray[np.int32]) -> Values:
    """Return relevant items in the first k that are not in the popular first k, / k, for every k: (users, K).

    Murakami, Mori and Orihara, Metrics for evaluating the serendipity of recommendation lists (2007), with popularity
    as the primitive recommender. RecTools' Serendipity weighs by ranks instead.
    """
    users, k = lists.shape
    change = np.zeros((users, k + 1))
    row, rank = np.nonzero(hits)
    same = popular[row] == lists[row, rank][:, None]
    expected = np.where(same.any(axis=1), np.argmax(same, axis=1), k)  # the rank among the popular
    kept = rank < expected
    np.add.at(change, (row[kept], rank[kept]), 1)  # from this rank on ...
    np.add.at(change, (row[kept], expected[kept]), -1)  # ... to where popularity would list it too
    return np.asarray(np.cumsum(change, axis=1)[:, :k] / np.arange(1, k + 1))


def diversity(alike: Values, length: NDArray[np.int64]) -> Values:
    """Return one minus the mean similarity of all pairs of the first k items, 0 for a single one: (users, K).

    Ziegler et al., Improving recommendation lists through topic diversification, WWW 2005; RecTools'
    IntraListDiversity. `alike` are (users, K, K) similarities, `length` the number of items in the first k.
    """
    rank = np.arange(alike.shape[1])
    listed = length > rank  # the -1 are at a list's end
    apart = np.where(rank[:, None] > rank, 1 - alike, 0).sum(axis=2) * listed
    pairs = length * (length - 1) / 2
    return np.cumsum(apart, axis=1) / np.maximum(pairs, 1)


def miscalibration(own: Values, listed: Values) -> Values:
    """Return how far the categories of the first k items are from those of the user's known ratings: (users, K).

    The Kullback-Leibler divergence, 0 where they are the same (Steck, Calibrated recommendations, RecSys 2018,
    equation 6). `own` are (users, categories) shares, `listed` (users, K, categories), both of which add up to 1.
    """
    smoothed = (1 - SMOOTHING) * listed + SMOOTHING * own[:, None, :]
    return np.asarray(rel_entr(own[:, None, :], smoothed).sum(axis=2))
