"""Train the model on the train ratings and export its factors."""

import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.backend import keras, tf
from stages.lib.errors import UserError, run
from stages.lib.factors import Factors
from stages.lib.model import MatrixFactorization
from stages.lib.params import Train, load_params
from stages.lib.ratings import MOVIES, TEST, TRAIN, Ratings
from stages.lib.storage import DECIMALS, atomic, read_table, write_json

MODEL = Path("models/mf.keras")
HISTORY = Path("metrics/history.csv")
METRICS = Path("metrics/train.json")
STACK_ROWS = 2**16  # ratings handed to the compiled program at a time


def main() -> None:
    """Train as ``params.yaml`` says and write the model, its factors and its losses."""
    params = load_params().train
    # Steps on a small batch are over before a second thread has started.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    train, test = Ratings.read(TRAIN), Ratings.read(TEST)
    movie_ids = read_table(MOVIES, ["movie_id"])["movie_id"].to_numpy()
    with atomic(HISTORY) as history:
        model, losses = fit(train, test, params, history)
    save_model(model, MODEL)
    export_factors(model, movie_ids).save()
    write_json(METRICS, {"epochs": params.epochs, "weights": model.count_params(), **losses})


def fit(train: Ratings, test: Ratings, params: Train, history: Path) -> tuple[MatrixFactorization, dict[str, float]]:
    """Minimise the mean squared error over the train ratings.

    Args:
        train: what to learn from, in a new seeded order each epoch.
        test: measured after each epoch; nothing is learned from it.
        params: the model, the optimizer and the seed.
        history: a CSV file for the losses of each epoch.

    Returns:
        The trained model; ``loss`` and ``val_loss`` of the last epoch.

    Raises:
        UserError: the loss became infinite or NaN.
    """
    keras.utils.set_random_seed(params.seed)
    users, movies = train.shape
    model = MatrixFactorization(
        users,
        movies,
        params.embedding_size,
        params.l2,
        params.interaction,
        params.seed,
        lazy=params.optimizer == "lazy_adam",
        name="matrix_factorization",
    )
    model.build()
    model.compile(
        optimizer=keras.optimizers.Adam(params.learning_rate),
        loss=keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        jit_compile=True,
    )
    model.optimizer.build(model.trainable_variables)
    logs = model.fit(
        Stacks(train, params.batch_size, params.seed),
        validation_data=Stacks(test, params.batch_size, None),
        epochs=params.epochs,
        shuffle=False,  # of the stacks: each epoch's order is drawn by `Stacks`
        callbacks=[RoundedCSVLogger(str(history)), keras.callbacks.TerminateOnNaN()],
        verbose="auto" if sys.stdout.isatty() else 0,
    ).history
    losses = {name: float(values[-1]) for name, values in logs.items()}
    if not all(map(math.isfinite, losses.values())):
        raise UserError(
            f"training diverged in epoch {len(logs['loss'])}: the loss is {losses['loss']}; "
            f"lower train.learning_rate (now {params.learning_rate:g}) or raise train.batch_size"
        )
    return model, losses


class Stacks(keras.utils.PyDataset):
    """The ratings as stacks of batches, all of one shape so that the program is compiled once."""

    def __init__(self, ratings: Ratings, batch_size: int, seed: int | None) -> None:
        """Lay out the stacks.

        Args:
            ratings: the ratings.
            batch_size: ratings in a batch; the last batch holds what is left.
            seed: of the order of the ratings, a new one each epoch; None keeps the order.
        """
        super().__init__()
        self.pairs = np.stack([ratings.users, ratings.movies], axis=1)
        self.values, self.batch_size, self.seed, self.epoch = ratings.values[:, None], batch_size, seed, 0
        batches = math.ceil(len(self.values) / batch_size)
        self.stacks = math.ceil(batches * batch_size / max(STACK_ROWS, batch_size))
        self.steps = math.ceil(batches / self.stacks)
        self.stacks = math.ceil(batches / self.steps)
        self._shuffle()

    def _shuffle(self) -> None:
        count = len(self.values)
        self.order = (
            np.arange(count) if self.seed is None else np.random.default_rng([self.seed, self.epoch]).permutation(count)
        )

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        self.epoch += 1
        self._shuffle()

    @property
    def num_batches(self) -> int:
        """How many stacks an epoch has."""
        return self.stacks

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Give one stack: pairs (steps, batch, 2), ratings and weights (steps, batch, 1)."""
        rows = self.steps * self.batch_size
        chosen = self.order[index * rows : (index + 1) * rows]
        padding = [(0, rows - len(chosen)), (0, 0)]
        # Padding repeats a pair of the last batch, so that a lazy step touches no other.
        pairs, values = (
            np.pad(part[chosen], padding, mode="edge").reshape(self.steps, self.batch_size, -1)
            for part in (self.pairs, self.values)
        )
        weights = np.pad(np.ones((len(chosen), 1), dtype=np.float32), padding).reshape(values.shape)
        return pairs, values, weights


class RoundedCSVLogger(keras.callbacks.CSVLogger):
    """Keras' CSV log with 6 decimals, so that noise in the last bits stays out of Git, and Unix line ends."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the losses of one epoch."""
        super().on_epoch_end(epoch, {name: f"{float(value):.{DECIMALS}f}" for name, value in (logs or {}).items()})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the file and replace the line ends that Python's csv module writes."""
        super().on_train_end(logs)
        path = Path(self.filename)
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))


def save_model(model: keras.Model, path: Path) -> None:
    """Save a Keras model with the same bytes for the same weights: without the date and with members in order.

    Args:
        model: the model.
        path: a ``.keras`` file, which `keras.models.load_model` reads.
    """
    with atomic(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            members = {name: archive.read(name) for name in sorted(archive.namelist())}
        metadata = json.loads(members["metadata.json"])
        del metadata["date_saved"]
        members["metadata.json"] = json.dumps(metadata, sort_keys=True).encode()
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content)


def export_factors(model: MatrixFactorization, movie_ids: NDArray[np.int32]) -> Factors:
    """Take the trained vectors and biases out of the model.

    Args:
        model: the trained model.
        movie_ids: (movies,) the id of each movie index.

    Returns:
        The factors that every later stage uses.
    """
    table, user_bias, movie_bias = (
        np.asarray(layer.embeddings) for layer in (model.embedding, model.user_bias, model.movie_bias)
    )
    return Factors(
        users=table[: model.users],
        movies=table[model.users :],
        user_bias=user_bias[:, 0],
        movie_bias=movie_bias[:, 0],
        movie_ids=movie_ids,
        interaction=model.interaction,
    )


if __name__ == "__main__":
    run(main)
