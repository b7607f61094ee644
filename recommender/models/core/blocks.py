"""Training of `mf` in blocks of ratings that may run anywhere, in any order, with the same results.

Users and items are cut into parts by their index modulo their number, and the ratings into parts x parts blocks. The
blocks of a stratum, user part i with item part (i + shift) modulo parts, share no user and no item (Gemulla et al.,
Large-scale matrix factorization with distributed stochastic gradient descent, KDD 2011). A step takes batch_size /
parts ratings of each block of a stratum: together they are a batch of ``lazy_adam``.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from recommender.data.blocks import block_sizes, read_block
from recommender.models.core.backend import tf
from recommender.models.core.batches import STACK_ROWS
from recommender.models.core.steps import Tensor, adam_rate, lazy_adam_step
from recommender.models.core.training import adam, check_finite
from recommender.parallel.engine import Arrays, Engine, Task, put
from recommender.params import Mf
from recommender.ranking.factors import Factors
from recommender.storage import read_arrays

STATE: Final = ("weights", "momentum", "velocity")
NORMAL_BELOW_2: Final = 0.87962566103423978  # standard deviation of a normal number whose absolute value is at most 2
KINDS: Final = ("user", "item")


@dataclass(frozen=True)
class BlockPlan:
    """What every block of a training agrees on."""

    name: str  # of its tasks and states
    folder: str  # of the states
    shape: tuple[int, int]  # users and items
    parts: int
    section: Mf
    seed: int
    mean: float  # that predictions start from
    learned: tuple[str, ...]  # files of the ratings learned from
    held_out: str  # file of the ratings that losses are measured on

    @property
    def heights(self) -> tuple[int, int]:
        """The most users and items of a part."""
        return math.ceil(self.shape[0] / self.parts), math.ceil(self.shape[1] / self.parts)

    @property
    def step_rows(self) -> int:
        """The ratings of a block in a step."""
        return self.section.batch_size // self.parts

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The ratings learned from in each block: (user parts, item parts)."""
        return np.sum([block_sizes(Path(path), self.parts) for path in self.learned], axis=0)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """The steps of each stratum, by shift: those of its largest block."""
        steps, part = -(-self.sizes // self.step_rows), np.arange(self.parts)
        return np.array([steps[part, (part + shift) % self.parts].max() for shift in range(self.parts)])

    def strata(self, epoch: int) -> list[int]:
        """The shifts of an epoch in their order."""
        shifts: list[int] = np.random.default_rng([self.seed, epoch]).permutation(self.parts).tolist()
        return shifts

    def state(self, kind: int, part: int, generation: int) -> Path:
        """The file with the weights and moments of a part, users or items, after so many strata."""
        return Path(self.folder) / f"{self.name}-{KINDS[kind]}-{part}-{generation}.npz"

    def load(self, kind: int, part: int, generation: int) -> Arrays:
        """Read a state: `STATE` by name, each (height, size + 1), or draw the first one.

        The first vectors are those of `keras.initializers.HeNormal` for one table of all users and items: normal, cut
        off at two standard deviations; biases are uniform within .05.
        """
        if generation:
            return read_arrays(self.state(kind, part, generation))
        random, size = np.random.default_rng([self.seed, kind, part]), self.section.embedding_size
        shape = (self.heights[kind], size)
        normal = random.standard_normal(shape, dtype=np.float32)
        while (far := np.abs(normal) > 2).any():
            normal[far] = random.standard_normal(np.count_nonzero(far), dtype=np.float32)
        scale = np.float32(math.sqrt(2 / sum(self.shape)) / NORMAL_BELOW_2)
        bias = random.uniform(-0.05, 0.05, (shape[0], 1)).astype(np.float32)
        first = {"weights": np.concatenate([normal * scale, bias], axis=1)}
        return first | {name: np.zeros_like(first["weights"]) for name in STATE[1:]}

    def save(self, kind: int, part: int, generation: int, arrays: Arrays) -> None:
        """Write a state."""
        put(self.state(kind, part, generation), arrays)

    def ratings(self, paths: tuple[str, ...], user_part: int, item_part: int) -> tuple[NDArray[np.int32], Any]:
        """Read a block: (n, 2) rows in the table of its user and its item part, users first; (n,) ratings."""
        blocks = [read_block(Path(path), self.parts, user_part, item_part) for path in paths]
        users, items, ratings = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
        return np.stack([users // self.parts, items // self.parts + np.int32(self.heights[0])], axis=1), ratings


class Program:
    """The compiled steps of any block of a plan, with the weights and moments of the block at hand."""

    def __init__(self, plan: BlockPlan) -> None:
        self.section, self.step_rows, self.mean = plan.section, plan.step_rows, plan.mean
        most = math.ceil(plan.sizes.max() / plan.step_rows)
        self.steps = math.ceil(most / math.ceil(most * plan.step_rows / STACK_ROWS))  # of a call
        self.adam = adam(plan.section, int(plan.steps.sum()))
        height = sum(plan.heights), plan.section.embedding_size + 1
        self.tables = [tf.Variable(tf.zeros(height)) for _ in STATE]

    def train(self, pairs: NDArray[np.int32], ratings: NDArray[np.float32], done: int) -> float:
        """Take all steps of a block, `done` of the whole before; return the sum of the squared errors met."""
        total, size = 0.0, self.steps * self.step_rows
        for start in range(0, len(pairs), size):
            rows, values = pairs[start : start + size], ratings[start : start + size]
            padding = (0, size - len(rows))
            weights = np.pad(np.ones(len(rows), np.float32), padding)
            # Padding repeats a pair of the last batch, so that a step touches no other.
            rows, values = np.pad(rows, (padding, (0, 0)), mode="edge"), np.pad(values, padding, mode="edge")
            stack = (part.reshape(self.steps, self.step_rows, -1) for part in (rows, values, weights))
            steps = math.ceil((size - padding[1]) / self.step_rows)
            total += float(self._train(*stack, steps=tf.constant(steps), done=tf.constant(done)))
            done += steps
        return total

    @tf.function(jit_compile=True, autograph=False)
    def _train(self, pairs: Tensor, ratings: Tensor, weights: Tensor, steps: Tensor, done: Tensor) -> Tensor:
        size = self.section.embedding_size

        def step(index: Tensor, total: Tensor, tables: Any, places: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
            def loss(values: Tensor) -> Tensor:
                vectors, biases = tf.reshape(values[:, :size], (-1, 2, size)), tf.reshape(values[:, size], (-1, 2))
                products = tf.reduce_sum(vectors[:, 0] * vectors[:, 1], axis=1)
                errors = ratings[index, :, 0] - (products + tf.reduce_sum(biases, axis=1) + self.mean)
                return tf.reduce_sum(weights[index, :, 0] * tf.square(errors)) / self.section.batch_size

            rows, rate = tf.reshape(pairs[index], [-1]), adam_rate(self.adam, done + index + 1)
            found, tables, places = lazy_adam_step(self.adam, tables, places, rows, loss, self.section.l2, rate)
            return index + 1, total + found * self.section.batch_size, tables, places

        tables = tuple(tf.convert_to_tensor(table) for table in self.tables)
        state = (0, 0.0, tables, tf.zeros(self.tables[0].shape[0], tf.int32))
        _, total, tables, _ = tf.while_loop(lambda index, *_: index < steps, step, state)
        for table, new in zip(self.tables, tables, strict=True):
            table.assign(new)
        return total


@lru_cache(maxsize=1)
def program(plan: BlockPlan) -> Program:
    """Return the program of a plan, compiled once a process."""
    return Program(plan)


def train_block(plan: BlockPlan, epoch: int, user_part: int, item_part: int, generation: int, done: int) -> Arrays:
    """Train a block on from the states of its parts after `generation` strata, and `done` steps, and write theirs."""
    run, parts = program(plan), (user_part, item_part)
    states = [plan.load(kind, part, generation) for kind, part in enumerate(parts)]
    for name, table in zip(STATE, run.tables, strict=True):
        table.assign(np.concatenate([state[name] for state in states]))
    del states
    pairs, ratings = plan.ratings(plan.learned, user_part, item_part)
    order = np.random.default_rng([plan.seed, epoch, user_part, item_part]).permutation(len(pairs))
    squares = run.train(pairs[order], ratings[order], done)
    check_finite(squares, "loss", epoch + 1, "mf", plan.section.learning_rate)
    tables = {name: table.numpy() for name, table in zip(STATE, run.tables, strict=True)}
    for kind, rows in enumerate((slice(plan.heights[0]), slice(plan.heights[0], None))):
        plan.save(kind, parts[kind], generation + 1, {name: table[rows] for name, table in tables.items()})
    return {"squares": np.array(squares)}


def measure_blocks(plan: BlockPlan, user_part: int, generation: int) -> Arrays:
    """Return the squared errors of a user part's held-out ratings after so many strata, and their number."""
    squares, count = 0.0, 0
    users = plan.load(0, user_part, generation)["weights"]
    for item_part in range(plan.parts):
        pairs, ratings = plan.ratings((plan.held_out,), user_part, item_part)
        table = np.concatenate([users, plan.load(1, item_part, generation)["weights"]]).astype(np.float64)
        first, second = table[pairs[:, 0]], table[pairs[:, 1]]
        predicted = first[:, -1] + second[:, -1] + plan.mean
        for axis in range(plan.section.embedding_size):
            predicted += first[:, axis] * second[:, axis]
        squares, count = squares + float(np.square(predicted - ratings).sum()), count + len(ratings)
    return {"squares": np.array(squares), "ratings": np.array(count)}


@dataclass(frozen=True)
class Graph:
    """The tasks of a training by name, which are done before each, and which states each one reads."""

    tasks: dict[str, Task]
    before: dict[str, set[str]]
    reads: dict[str, list[Path]]

    @classmethod
    def of(cls, plan: BlockPlan, epochs: int, *, measured: bool = True) -> Self:
        """Lay out the blocks of all epochs, and measure after each if that is wanted."""
        graph, done = cls({}, {}, {}), 0
        written: dict[Path, str] = {}  # by which task

        def add(name: str, task: Task, reads: list[Path], writes: Sequence[Path] = ()) -> None:
            name = f"{plan.name}-{name}"
            graph.tasks[name], graph.reads[name] = task, reads
            graph.before[name] = {written[path] for path in reads if path in written}
            written.update(dict.fromkeys(writes, name))

        for epoch in range(epochs):
            for stratum, shift in enumerate(plan.strata(epoch)):
                generation = epoch * plan.parts + stratum
                for user_part in range(plan.parts):
                    parts = user_part, (user_part + shift) % plan.parts
                    reads, writes = ([plan.state(*each, generation + n) for each in enumerate(parts)] for n in range(2))
                    arguments = plan, epoch, *parts, generation, done
                    add(f"train-{epoch}-{stratum}-{user_part}", (train_block, arguments), reads, writes)
                done += int(plan.steps[shift])
            generation = (epoch + 1) * plan.parts
            items = [plan.state(1, part, generation) for part in range(plan.parts)]
            for user_part in range(plan.parts if measured else 0):
                reads = [plan.state(0, user_part, generation), *items]
                add(f"measure-{epoch}-{user_part}", (measure_blocks, (plan, user_part, generation)), reads)
        return graph


def train_blocks(engine: Engine, plan: BlockPlan, epochs: int, *, measured: bool = True) -> dict[str, list[float]]:
    """Train a plan's blocks; return the losses of every epoch as Keras' `fit` does. The last states are files."""
    graph = Graph.of(plan, epochs, measured=measured)
    readers = Counter(path for paths in graph.reads.values() for path in paths)
    last = epochs * plan.parts
    readers.update(plan.state(kind, part, last) for kind in range(2) for part in range(plan.parts))

    def remove_states(name: str) -> None:
        for path in graph.reads[name]:
            readers[path] -= 1
            if not readers[path]:
                path.unlink(missing_ok=True)

    results = engine.run(graph.tasks, graph.before, remove_states)

    def total(what: str, epoch: int, name: str) -> float:
        return math.fsum(
            float(found[name]) for task, found in results.items() if task.startswith(f"{plan.name}-{what}-{epoch}-")
        )

    loss = [total("train", epoch, "squares") / int(plan.sizes.sum()) for epoch in range(epochs)]
    if not measured:
        return {"loss": loss}
    count = max(1.0, total("measure", 0, "ratings"))
    return {"loss": loss, "val_loss": [total("measure", epoch, "squares") / count for epoch in range(epochs)]}


def trained_factors(
    plan: BlockPlan, generation: int, known: NDArray[np.bool_], item_order: NDArray[np.int32]
) -> Factors:
    """Return the factors after so many strata; those of users without ratings, not `known`, are 0."""
    tables = []
    for kind, count in enumerate(plan.shape):
        table = np.empty((plan.heights[kind] * plan.parts, plan.section.embedding_size + 1), np.float32)
        for part in range(plan.parts):
            table[part :: plan.parts] = plan.load(kind, part, generation)["weights"]
        tables.append(table[:count])
    tables[0][~known] = 0
    users, items = (np.ascontiguousarray(table[:, :-1]) for table in tables)
    user_bias, item_bias = (np.ascontiguousarray(table[:, -1]) for table in tables)
    section = plan.section
    return Factors(users, items, user_bias, item_bias, item_order, plan.mean, section.interaction, section.scores)
