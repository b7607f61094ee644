"""Exact top-K lists over the whole catalogue, without the items that a user has seen."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recommender.errors import UserError

if TYPE_CHECKING:  # the default training does without SciPy, which is slow to import
    import scipy.sparse as sp

PROGRESS_DELAY: Final = 3  # seconds
BLOCK_BYTES: Final = 2**23  # of scores per thread at a time: about the size of the processor's cache
CHUNK: Final = 64  # items whose maximum is taken to bound the k-th largest score

Users = NDArray[np.int32]
Items = NDArray[np.int32]
Scores = NDArray[np.floating]
Lists = tuple[Items, NDArray[np.float64]]


def top_k(
    users: Users,
    seen: "sp.csr_array",
    k: int,
    scores: Callable[[Users], Scores],
    tolerance: Callable[[Users], Scores] | None = None,
    exact: Callable[[Users, Items], NDArray[np.float64]] | None = None,
    candidates: NDArray[np.bool_] | None = None,
) -> Lists:
    """List each user's k items of highest score among those not seen. Equal scores are ordered by item index.

    With `tolerance` and `exact` the fast scores only choose candidates: every item that could be among the best k is
    scored again exactly, so that the lists do not depend on the order in which a machine's matrix product adds. A
    users x items matrix is never in memory: users are processed in blocks, in `threads`.

    Args:
        users: (n,) user indices.
        seen: users x items; the stored entries of a user's row are left out of the list.
        k: length of the lists.
        scores: returns finite (block, num_items) scores of a block of users, which may be overwritten.
        tolerance: returns for each user of a block the most by which one of those scores can be off.
        exact: returns the exact scores of (pairs,) users and items.
        candidates: (num_items,) which items may be listed; all where not given.

    Returns:
        items: (n, k) int32, -1 where a user has fewer than k candidates; scores: (n, k) float64, there -inf.
    """
    num_items = seen.shape[1]
    left_out = np.empty(0, np.int64) if candidates is None else np.flatnonzero(~candidates)

    def block(start: int) -> Lists:
        batch = users[start : start + size]
        table = np.ascontiguousarray(scores(batch))
        rows, columns = stored_entries(seen, batch)
        table[rows, columns] = -np.inf
        table[:, left_out] = -np.inf
        least = kth_largest_bound(table, k)
        if tolerance:  # twice: the item at the threshold may be scored too high and the candidate too low
            least = least - 2 * tolerance(batch)
        row, column = np.divmod(np.flatnonzero(table >= least[:, None]), num_items)
        found = table[row, column]
        unseen = found > -np.inf
        row, item = row[unseen], column[unseen].astype(np.int32)
        score = exact(batch[row], item) if exact else found[unseen].astype(np.float64)
        order = np.lexsort((item, -score, row))
        row, item, score = row[order], item[order], score[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = rank < k
        items, ranked = np.full((len(batch), k), -1, dtype=np.int32), np.full((len(batch), k), -np.inf)
        items[row[kept], rank[kept]] = item[kept]
        ranked[row[kept], rank[kept]] = score[kept]
        return items, ranked

    size = max(1, BLOCK_BYTES // (8 * num_items))
    starts = range(0, len(users), size)
    with threadpool_limits(1), ThreadPoolExecutor(threads()) as pool:
        blocks = list(_with_progress(pool.map(block, starts), len(starts)))
    if not blocks:
        return np.empty((0, k), dtype=np.int32), np.empty((0, k))
    return np.concatenate([items for items, _ in blocks]), np.concatenate([ranked for _, ranked in blocks])


def threads() -> int:
    """Return in how many threads to work: OMP_NUM_THREADS, 1 in workers that share a machine, or the cores."""
    allowed = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(allowed) if allowed.isdecimal() and int(allowed) else os.cpu_count() or 1


def kth_largest_bound(table: Scores, k: int) -> Scores:
    """Return for each row of a matrix a number that at least k entries reach, close to its k-th largest.

    The k-th largest of the maxima of disjoint chunks: a fraction of the entries to partition, and hardly below the
    k-th largest itself. Rows with fewer entries than k have no bound but their least entry.
    """
    k = min(k, table.shape[1])
    chunks = table.shape[1] // CHUNK
    if chunks >= 2 * k:
        # Strided chunks, so that NumPy takes the maxima over contiguous runs; the entries left over cannot lower it.
        table = table[:, : chunks * CHUNK].reshape(len(table), CHUNK, chunks).max(axis=1)
    return np.asarray(np.partition(table, table.shape[1] - k, axis=1)[:, table.shape[1] - k])


def top_k_of_all(
    users: Users,
    seen: "sp.csr_array",
    k: int,
    scores: NDArray[np.float64] | NDArray[np.int64],
    candidates: NDArray[np.bool_] | None = None,
) -> Items:
    """List each user's k unseen items as `top_k` does, where the (num_items,) scores are the same for all users."""
    order = np.argsort(-scores, stable=True).astype(np.int32)
    order = order if candidates is None else order[candidates[order]]
    rank_of = np.full(len(scores), np.iinfo(np.int32).max, dtype=np.int32)  # of items left out: never reached
    rank_of[order] = np.arange(len(order))
    row, item = stored_entries(seen, users)
    rank = rank_of[item]
    near = rank < k + np.diff(seen.indptr)[users][row]  # what ranks behind these is not reached
    row, rank = row[near], rank[near]
    by_rank = np.lexsort((rank, row))
    row, rank = row[by_rank], rank[by_rank]
    # The unseen items before the t-th seen one of a user: that many places of the list are not moved by it.
    before = rank - (np.arange(len(row)) - np.searchsorted(row, row))
    moving = before < k
    moved = np.bincount(row[moving] * k + before[moving], minlength=len(users) * k).reshape(len(users), k)
    position = np.arange(k) + np.cumsum(moved, axis=1)
    return np.append(order, np.int32(-1))[np.minimum(position, len(order))]


def check_k(name: str, k: int, num_items: int) -> None:
    """Refuse lists longer than the catalogue; `name` is the parameter, as the message names it."""
    if k > num_items:
        raise UserError(f"{name}: must be at most {num_items}, the number of rated items; found {k}")


def stored_entries(matrix: "sp.csr_array", rows: Users) -> tuple[NDArray[np.int64], Items]:
    """Return row (counted within `rows`) and column of the stored entries of some rows."""
    part = matrix[rows]
    return np.repeat(np.arange(len(rows)), np.diff(part.indptr)), part.indices


def _with_progress(blocks: Iterator[Lists], count: int) -> Iterable[Lists]:
    if not sys.stderr.isatty():
        return blocks
    from tqdm import tqdm  # slow to import

    return tqdm(blocks, total=count, desc="top-K lists", unit="block", delay=PROGRESS_DELAY, leave=False)
