"""Ratings as stacks of batches, all of one shape so that the training program is compiled once."""

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.models.core.backend import keras

if TYPE_CHECKING:  # the default training does without SciPy, which is slow to import
    import scipy.sparse as sp

STACK_ROWS: Final = 2**16  # ratings handed to the compiled program at a time
STACK_CELLS: Final = 2**24  # or cells of the rating matrix: 64 MiB each of targets and inputs


class _Shuffled(keras.utils.PyDataset):
    """Stacks of batches of numbered rows, in a new seeded order each epoch; without a seed in the rows' own order."""

    def __init__(self, count: int, batch_size: int, stack_rows: int, seed: int | None) -> None:
        super().__init__()
        batches = math.ceil(count / batch_size)
        self.steps = math.ceil(batches / math.ceil(batches * batch_size / max(stack_rows, batch_size)))
        self.size = self.steps * batch_size  # rows of a stack
        self.stacks = math.ceil(batches / self.steps)
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, -1
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self.epoch += 1
        rows = np.arange(self.count)
        self.order = rows if self.seed is None else np.random.default_rng([self.seed, self.epoch]).permutation(rows)

    @property
    def num_batches(self) -> int:
        return self.stacks

    def rows(self, stack: int) -> NDArray[np.int64]:
        return self.order[stack * self.size : (stack + 1) * self.size]


class RatingBatches(_Shuffled):
    """Batches of ratings; the last one has what is left.

    Keras' own `train_step` takes a stack for one batch: with `stack_rows=batch_size` a stack is one batch.
    """

    def __init__(self, ratings: Interactions, batch_size: int, seed: int | None, stack_rows: int = STACK_ROWS) -> None:
        self.pairs = np.stack([ratings.users, ratings.items], axis=1)
        self.ratings = ratings.ratings[:, None]
        super().__init__(len(ratings), batch_size, stack_rows, seed)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return one stack: pairs (steps, batch, 2), ratings and weights (steps, batch, 1)."""
        chosen = self.rows(index)
        padding = [(0, self.size - len(chosen)), (0, 0)]
        # Padding repeats a pair of the last batch, so that a lazy step touches no other.
        pairs, ratings = (
            np.pad(part[chosen], padding, mode="edge").reshape(self.steps, self.batch_size, -1)
            for part in (self.pairs, self.ratings)
        )
        weights = np.pad(np.ones((len(chosen), 1), dtype=np.float32), padding).reshape(ratings.shape)
        return pairs, ratings, weights


class RowBatches(_Shuffled):
    """Batches of rows of sparse matrices, made dense for one stack at a time; the last one is filled with zeros."""

    def __init__(self, matrices: "tuple[sp.csr_array, ...]", batch_size: int, seed: int | None) -> None:
        """Lay out the stacks; the last of the matrices has the targets, those before it further inputs."""
        self.matrices = matrices
        rows, columns = matrices[0].shape
        super().__init__(rows, batch_size, STACK_CELLS // (batch_size * columns) * batch_size, seed)

    def __getitem__(self, index: int) -> tuple[Any, NDArray[np.float32]]:
        """Return one stack: row numbers (steps, batch) int32, alone or with inputs; targets (steps, batch, columns).

        Rows added to fill a batch have the number -1.
        """
        chosen = self.rows(index)
        flat = np.pad(chosen.astype(np.int32), (0, self.size - len(chosen)), constant_values=-1)
        numbers = flat.reshape(self.steps, self.batch_size)
        *inputs, targets = (self._dense(matrix, chosen) for matrix in self.matrices)
        return (numbers, *inputs) if inputs else numbers, targets

    def _dense(self, matrix: "sp.csr_array", rows: NDArray[np.int64]) -> NDArray[np.float32]:
        # Faster than SciPy's own slicing and `toarray`, which took half the time of an epoch.
        start, count = matrix.indptr[rows], matrix.indptr[rows + 1] - matrix.indptr[rows]
        entries = np.arange(count.sum()) + np.repeat(start - np.cumsum(count) + count, count)
        dense = np.zeros((self.size, matrix.shape[1]), dtype=np.float32)
        dense[np.repeat(np.arange(len(rows)), count), matrix.indices[entries]] = matrix.data[entries]
        return dense.reshape(self.steps, self.batch_size, -1)
