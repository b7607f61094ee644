"""Exact top-K lists over the whole catalogue, leaving out what a user has seen."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:  # train does without SciPy, which is slow to import
    import scipy.sparse as sp

PATIENCE = 3  # seconds until progress is shown
BLOCK_BYTES = 2**24  # of scores held at a time by one thread: about what the processor's cache holds

Users = NDArray[np.int32]
Movies = NDArray[np.int32]
Scores = NDArray[np.floating]
Block = tuple[Movies, NDArray[np.float64]]


def top_k(
    users: Users,
    seen: "sp.csr_array",
    k: int,
    scores: Callable[[Users, NDArray[np.bool_]], Scores],
    tolerance: Callable[[Users], Scores] | None = None,
    exact: Callable[[Users, Movies], NDArray[np.float64]] | None = None,
) -> tuple[Movies, NDArray[np.float64]]:
    """List each user's k movies of highest score among those not seen.

    Equal scores are ranked by ascending movie index. With `tolerance` and `exact` the fast scores only have to
    choose candidates: every movie that could be among the best k is scored again exactly, so that the lists do not
    depend on the order in which a machine's matrix product adds. A users x movies matrix is never held: users are
    taken in blocks, one thread a core.

    Args:
        users: (n,) user indices.
        seen: users x movies; the stored entries of a user's row are left out of the list.
        k: the length of the lists.
        scores: gives (block, movies) scores for a block of users and the (block, movies) mask of movies seen.
        tolerance: gives for each user of a block the most by which one of those scores can be off.
        exact: gives the exact scores of (pairs,) users and movies.

    Returns:
        movies: (n, k) int32, -1 where a user has fewer than k candidates; scores: (n, k) float64, there -inf.
    """
    count = seen.shape[1]

    def block(start: int) -> Block:
        batch = users[start : start + size]
        rows, columns = _entries(seen, batch)
        mask = np.zeros((len(batch), count), dtype=bool)
        mask[rows, columns] = True
        table = scores(batch, mask)
        table[mask] = -np.inf
        best = np.partition(table, count - k, axis=1)[:, count - k] if k < count else table.min(axis=1)
        # Twice: the movie at the threshold may be scored too high and the candidate too low.
        least = best - 2 * tolerance(batch) if tolerance else best
        row, column = np.nonzero((table >= least[:, None]) & ~mask)
        movie = column.astype(np.int32)
        score = exact(batch[row], movie) if exact else table[row, movie].astype(np.float64)
        order = np.lexsort((movie, -score, row))
        row, movie, score = row[order], movie[order], score[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = rank < k
        movies = np.full((len(batch), k), -1, dtype=np.int32)
        ranked = np.full((len(batch), k), -np.inf)
        movies[row[kept], rank[kept]] = movie[kept]
        ranked[row[kept], rank[kept]] = score[kept]
        return movies, ranked

    size = max(1, BLOCK_BYTES // (8 * count))
    starts = range(0, len(users), size)
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as threads:
        blocks = list(_with_progress(threads.map(block, starts), len(starts)))
    if not blocks:
        return np.empty((0, k), dtype=np.int32), np.empty((0, k))
    return np.concatenate([movies for movies, _ in blocks]), np.concatenate([ranked for _, ranked in blocks])


def _with_progress(blocks: Iterator[Block], count: int) -> Iterable[Block]:
    """Show how far the work is and how long it will take, where somebody watches it for longer than a few seconds."""
    if not sys.stderr.isatty():
        return blocks
    from tqdm import tqdm  # slow to import

    shown: Iterable[Block] = tqdm(blocks, total=count, desc="top-K lists", unit="block", delay=PATIENCE, leave=False)
    return shown


def _entries(matrix: "sp.csr_array", rows: Users) -> tuple[NDArray[np.int64], Movies]:
    """Give row (counted within `rows`) and column of the stored entries of some rows."""
    part = matrix[rows]
    return np.repeat(np.arange(len(rows)), np.diff(part.indptr)), part.indices
