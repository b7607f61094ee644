"""Train the model on the train ratings and export its factors."""

import json
import math
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.backend import keras, tf
from stages.lib.encoded import EncodedFactorization
from stages.lib.errors import UserError, run
from stages.lib.factors import Factors
from stages.lib.heldout import HeldOut, check_k, evaluate, summary
from stages.lib.model import MatrixFactorization
from stages.lib.params import EarlyStopping, Train, load_params
from stages.lib.ratings import MOVIES, TEST, TRAIN, VALIDATION, Ratings
from stages.lib.softmax import SoftmaxFactorization
from stages.lib.storage import atomic, read_table, write_csv, write_json

if TYPE_CHECKING:  # the default training does without SciPy, which is slow to import
    import scipy.sparse as sp

LOCK = Path("requirements.lock")
DECISIVE = ("tensorflow", "keras", "numpy")  # packages whose versions decide the bytes
MODEL = Path("models/mf.keras")
HISTORY = Path("metrics/history.csv")
METRICS = Path("metrics/train.json")
STACK_ROWS = 2**16  # ratings handed to the compiled program at a time
STACK_CELLS = 2**24  # or cells of the rating matrix: 64 MiB each of targets and inputs
SEED_STEP = 1000  # between the seeds of models that are averaged


def main() -> None:
    """Train as ``params.yaml`` says and write the model, its factors and its losses."""
    params = load_params().train
    warn_of_other_versions()
    if params.loss == "mse" and params.movie_vectors == "free":
        # Steps on a small batch are over before a second thread has started.
        tf.config.threading.set_intra_op_parallelism_threads(1)
    parts = Parts(*(Ratings.read(path) for path in (TRAIN, VALIDATION, TEST)))
    movie_ids = read_table(MOVIES, ["movie_id"])["movie_id"].to_numpy()
    model, factors, metrics, history = train(parts, movie_ids, params)
    save_model(model, MODEL)
    factors.save()
    write_csv(HISTORY, history)
    write_json(METRICS, metrics)


def warn_of_other_versions() -> None:
    """Say on stderr where what is installed is not what is locked: results may differ in their last bits."""
    if not LOCK.exists():
        return
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    other = [
        f"{name} {version(name)} in place of {locked[name]}"
        for name in DECISIVE
        if name in locked and version(name) != locked[name]
    ]
    if other:
        print(f"warning: results may not be those of {LOCK}: {', '.join(other)} is installed", file=sys.stderr)


@dataclass(frozen=True)
class Parts:
    """The parts of the split.

    Attributes:
        train: what is learned from.
        validation: what epochs and parameters are chosen by; may be empty.
        test: measured after each epoch where there is no validation part, as the notebook does; never learned from.
    """

    train: Ratings
    validation: Ratings
    test: Ratings


@dataclass(frozen=True)
class Job:
    """A compiled model and what it is trained on.

    Attributes:
        model: the model.
        data: its batches.
        held_out: batches of the ratings held out.
        factors: takes the trained vectors and biases out of the model.
    """

    model: keras.Model
    data: keras.utils.PyDataset
    held_out: keras.utils.PyDataset
    factors: Callable[[], Factors]


def train(
    parts: Parts, movie_ids: NDArray[np.int32], params: Train
) -> tuple[keras.Model, Factors, dict[str, Any], dict[str, NDArray[Any]]]:
    """Train as the parameters say: one model or several, with early stopping or without, once or once more.

    Args:
        parts: the split.
        movie_ids: (movies,) the id of each movie index.
        params: the model, its training and the seed.

    Returns:
        The trained model to be saved, its factors, the metrics of the epoch that it is taken from, and the losses of
        every epoch.

    Raises:
        UserError: training diverged, or the parameters need a validation part that is not there.
    """
    stopping, validation = params.early_stopping, parts.validation
    chosen_by_validation = len(validation.values) > 0
    if not chosen_by_validation and (stopping.patience or params.final_fit):
        name = "early_stopping.patience" if stopping.patience else "final_fit"
        raise UserError(f"train.{name}: needs a validation part; set split.validation_size above 0")
    job = prepare(parts.train, validation if chosen_by_validation else parts.test, movie_ids, params, params.seed)
    callbacks: list[keras.callbacks.Callback] = []
    best = None
    if chosen_by_validation:
        held_out = HeldOut.of(validation, parts.train, stopping.relevance_quantile)
        check_k("train.early_stopping.k", stopping.k, validation.shape[1])
        callbacks.append(ValidationMetrics(job.factors, held_out, stopping, params.epochs))
        if stopping.patience:
            best = keras.callbacks.EarlyStopping(
                monitor=f"val_{stopping.metric}",
                mode="min" if stopping.metric in ("rmse", "mae") else "max",
                patience=stopping.patience,
                restore_best_weights=True,
            )
            callbacks.append(best)
    logs = fit(job, params, params.epochs, callbacks)
    epochs = len(logs["loss"])
    history = {name: np.array(logs[name]) for name in sorted(logs) if len(logs[name]) == epochs}
    epoch = best.best_epoch if best else epochs - 1
    metrics = {name: values[epoch - epochs] for name, values in logs.items()}
    known = parts.train.joined(validation) if params.final_fit else parts.train
    seeds = [(params.seed + SEED_STEP * number) % 2**32 for number in range(params.models)]
    models = [] if params.final_fit else [job.factors()]
    for seed in seeds[len(models) :]:
        again = prepare(known, parts.test, movie_ids, params, seed)
        metrics["loss"] = fit(again, params, epoch + 1)["loss"][-1]
        models.append(again.factors())
        job = again
    factors = Factors.mean(models)
    simple = isinstance(job.model, MatrixFactorization) and params.models == 1
    model = job.model if simple else as_keras(factors)
    metrics = {"epochs": epoch + 1, "weights": model.count_params(), **metrics}
    return model, factors, metrics, {"epoch": np.arange(epochs), **history}


def fit(
    job: Job, params: Train, epochs: int, callbacks: list[keras.callbacks.Callback] | None = None
) -> dict[str, list[float]]:
    """Run Keras' `fit`.

    Args:
        job: the model and its batches.
        params: for the message where training diverges.
        epochs: how many.
        callbacks: besides the one that stops at NaN; where none are given, nothing is measured on the held-out part.

    Returns:
        The logs of every epoch.

    Raises:
        UserError: the loss became infinite or NaN.
    """
    history = job.model.fit(
        job.data,
        validation_data=None if callbacks is None else job.held_out,
        epochs=epochs,
        shuffle=False,  # of the batches: each epoch's order is drawn by the data set
        callbacks=[*(callbacks or []), keras.callbacks.TerminateOnNaN()],
        verbose="auto" if sys.stdout.isatty() else 0,
    ).history
    logs = {name: [float(value) for value in values] for name, values in history.items()}
    if not all(math.isfinite(values[-1]) for values in logs.values()):
        raise UserError(
            f"training diverged in epoch {len(logs['loss'])}: the loss is {logs['loss'][-1]}; "
            f"lower train.learning_rate (now {params.learning_rate:g}) or raise train.batch_size"
        )
    return logs


def prepare(known: Ratings, held_out: Ratings, movie_ids: NDArray[np.int32], params: Train, seed: int) -> Job:
    """Build and compile the model that the parameters ask for.

    Args:
        known: what to learn from.
        held_out: what the loss is measured on after each epoch.
        movie_ids: (movies,) the id of each movie index.
        params: the model and its training.
        seed: of the initial weights, of dropout and of the order of the batches.

    Returns:
        The model with its batches.
    """
    keras.utils.set_random_seed(seed)
    if params.loss == "softmax":
        return prepare_softmax(known, held_out, movie_ids, params, seed)
    if params.movie_vectors == "encoded":
        return prepare_encoded(known, held_out, movie_ids, params, seed)
    return prepare_pairs(known, held_out, movie_ids, params, seed)


def adam(params: Train, steps: int) -> keras.optimizers.Adam:
    """Make the optimizer; `steps` are those of an epoch."""
    rate = params.learning_rate
    if params.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps * params.epochs)
    return keras.optimizers.Adam(rate)


def prepare_pairs(known: Ratings, held_out: Ratings, movie_ids: NDArray[np.int32], params: Train, seed: int) -> Job:
    """Minimise the mean squared error over the ratings, `train.batch_size` at a time: see `prepare`."""
    mean = float(known.values.mean(dtype=np.float64)) if params.global_mean else 0.0
    model = MatrixFactorization(
        *known.shape,
        params.embedding_size,
        params.l2,
        params.interaction,
        seed,
        lazy=params.optimizer == "lazy_adam",
        global_mean=mean,
        name="matrix_factorization",
    )
    model.build()
    model.compile(
        optimizer=adam(params, math.ceil(len(known.values) / params.batch_size)),
        loss=keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        jit_compile=True,
    )
    model.optimizer.build(model.trainable_variables)
    data, validation = Stacks(known, params.batch_size, seed), Stacks(held_out, params.batch_size, None)
    return Job(model, data, validation, lambda: export_factors(model, movie_ids))


def prepare_softmax(known: Ratings, held_out: Ratings, movie_ids: NDArray[np.int32], params: Train, seed: int) -> Job:
    """Rank all movies for `train.batch_size` users at a time: see `prepare`."""
    users, movies = known.shape
    weights, held_out_weights = (rating_weights(part, params.softmax.rating_base) for part in (known, held_out))
    batch = min(params.batch_size, users)
    model = SoftmaxFactorization(
        users,
        movies,
        params.embedding_size,
        batch,
        params.softmax.dropout,
        params.l2,
        params.softmax.user_l2,
        seed,
        name="softmax_factorization",
    )
    model.movie_bias.assign(log_shares(weights))
    model.compile(optimizer=adam(params, math.ceil(users / batch)), jit_compile=True)
    model.optimizer.build(model.trainable_variables)

    def factors() -> Factors:
        user_vectors, movie_vectors, bias = (np.asarray(weight) for weight in model.trainable_variables)
        return Factors(user_vectors, movie_vectors, np.zeros(users, np.float32), bias, movie_ids)

    return Job(model, Rows((weights,), batch, seed), Rows((held_out_weights,), batch, None), factors)


def rating_weights(ratings: Ratings, base: float) -> "sp.csr_array":
    """Give base ** (rating - 4) as a sparse users x movies matrix, float32."""
    weights = ratings.matrix()
    weights.data = np.power(base, weights.data.astype(np.float64) - 4).astype(np.float32)
    return weights


def log_shares(weights: "sp.csr_array") -> NDArray[np.float32]:
    """Give the logarithm of each movie's share of all weights, where half of the least share counts as the floor.

    Args:
        weights: users x movies.

    Returns:
        (movies,) float32.
    """
    total = np.bincount(weights.indices, weights=weights.data, minlength=weights.shape[1])
    shares: NDArray[np.float64] = (total + total[total > 0].min() / 2) / total.sum()
    return np.log(shares).astype(np.float32)


def prepare_encoded(known: Ratings, held_out: Ratings, movie_ids: NDArray[np.int32], params: Train, seed: int) -> Job:
    """Predict all ratings of `train.batch_size` movies at a time from those ratings: see `prepare`."""
    users, movies = known.shape
    mean = float(known.values.mean(dtype=np.float64))
    user_bias, movie_bias = damped_biases(known, mean)
    ratings, held_out_ratings = (part.matrix().T.tocsr() for part in (known, held_out))
    residuals = ratings.copy()
    raters = np.diff(residuals.indptr)
    movie = np.repeat(np.arange(movies), raters)
    centred = residuals.data - mean - user_bias[residuals.indices] - movie_bias[movie]
    residuals.data = (centred / np.sqrt(raters[movie])).astype(np.float32)
    batch = min(params.batch_size, movies)
    steps = math.ceil(movies / batch)
    model = EncodedFactorization(
        users,
        movies,
        params.embedding_size,
        ratings=len(known.values),
        batches=steps,
        global_mean=mean,
        dropout=params.encoded.dropout,
        l2=params.l2,
        encoder_l2=params.encoded.encoder_l2,
        seed=seed,
        name="encoded_factorization",
    )
    model.user_bias.assign(user_bias.astype(np.float32))
    model.movie_bias.assign(movie_bias.astype(np.float32))
    model.compile(optimizer=adam(params, steps), jit_compile=True)
    model.optimizer.build(model.trainable_variables)

    def factors() -> Factors:
        vectors, encoder, user, movie = (np.asarray(weight) for weight in model.trainable_variables)
        return Factors(vectors, (residuals @ encoder).astype(np.float32), user, movie, movie_ids, mean)

    data = Rows((residuals, ratings), batch, seed)
    return Job(model, data, Rows((residuals, held_out_ratings), batch, None), factors)


def damped_biases(ratings: Ratings, mean: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average what is left of the ratings without the mean, by user, and then what is left of that, by movie.

    Args:
        ratings: the ratings.
        mean: their mean, in stars.

    Returns:
        (users,) and (movies,) float64, in stars, as if each user had 5 more ratings at 0 and each movie 10.
    """
    rest = ratings.values.astype(np.float64) - mean
    user = np.bincount(ratings.users, rest, ratings.shape[0]) / (
        np.bincount(ratings.users, minlength=ratings.shape[0]) + 5
    )
    rest -= user[ratings.users]
    movie = np.bincount(ratings.movies, rest, ratings.shape[1]) / (
        np.bincount(ratings.movies, minlength=ratings.shape[1]) + 10
    )
    return user, movie


class Shuffled(keras.utils.PyDataset):
    """Stacks of batches of numbered rows, in a new seeded order each epoch."""

    def __init__(self, count: int, stacks: int, seed: int | None) -> None:
        """Draw the first order.

        Args:
            count: how many rows there are.
            stacks: how many stacks make an epoch.
            seed: of the order; None keeps the order of the rows.
        """
        super().__init__()
        self.count, self.stacks, self.seed, self.epoch = count, stacks, seed, 0
        self._shuffle()

    def _shuffle(self) -> None:
        rows = np.arange(self.count)
        self.order = rows if self.seed is None else np.random.default_rng([self.seed, self.epoch]).permutation(rows)

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        self.epoch += 1
        self._shuffle()

    @property
    def num_batches(self) -> int:
        """How many stacks an epoch has."""
        return self.stacks


class Stacks(Shuffled):
    """The ratings as stacks of batches, all of one shape so that the program is compiled once."""

    def __init__(self, ratings: Ratings, batch_size: int, seed: int | None) -> None:
        """Lay out the stacks.

        Args:
            ratings: the ratings.
            batch_size: ratings in a batch; the last batch holds what is left.
            seed: of the order of the ratings, a new one each epoch; None keeps the order.
        """
        self.pairs = np.stack([ratings.users, ratings.movies], axis=1)
        self.values, self.batch_size = ratings.values[:, None], batch_size
        batches = math.ceil(len(self.values) / batch_size)
        stacks = math.ceil(batches * batch_size / max(STACK_ROWS, batch_size))
        self.steps = math.ceil(batches / stacks)
        super().__init__(len(self.values), math.ceil(batches / self.steps), seed)

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


class Rows(Shuffled):
    """Stacks of batches of rows of sparse matrices, made dense for one stack at a time, all of one shape."""

    def __init__(self, matrices: "tuple[sp.csr_array, ...]", batch_size: int, seed: int | None) -> None:
        """Lay out the stacks.

        Args:
            matrices: of the same shape; the last holds the targets, those before it further inputs.
            batch_size: rows in a batch; what is left over in the last is filled with rows of zeros, numbered -1.
            seed: of the order of the rows, a new one each epoch; None keeps the order.
        """
        self.matrices, self.batch_size = matrices, batch_size
        rows, columns = matrices[0].shape
        batches = math.ceil(rows / batch_size)
        stacks = math.ceil(batches / max(1, STACK_CELLS // (batch_size * columns)))
        self.steps = math.ceil(batches / stacks)
        super().__init__(rows, math.ceil(batches / self.steps), seed)

    def __getitem__(self, index: int) -> tuple[Any, NDArray[np.float32]]:
        """Give one stack: row numbers (steps, batch) int32, alone or with inputs; targets (steps, batch, columns)."""
        size = self.steps * self.batch_size
        chosen = self.order[index * size : (index + 1) * size]
        flat = np.full(size, -1, dtype=np.int32)
        flat[: len(chosen)] = chosen
        numbers = flat.reshape(self.steps, self.batch_size)
        *inputs, targets = (self._dense(matrix, chosen) for matrix in self.matrices)
        return (numbers, *inputs) if inputs else numbers, targets

    def _dense(self, matrix: "sp.csr_array", rows: NDArray[np.int64]) -> NDArray[np.float32]:
        # Faster than SciPy's own slicing and `toarray`, which took half the time of an epoch.
        start, count = matrix.indptr[rows], matrix.indptr[rows + 1] - matrix.indptr[rows]
        entries = np.arange(count.sum()) + np.repeat(start - np.cumsum(count) + count, count)
        dense = np.zeros((self.steps * self.batch_size, matrix.shape[1]), dtype=np.float32)
        dense[np.repeat(np.arange(len(rows)), count), matrix.indices[entries]] = matrix.data[entries]
        return dense.reshape(self.steps, self.batch_size, -1)


class ValidationMetrics(keras.callbacks.Callback):
    """Adds the evaluator's metrics on the validation part to the logs, for the callbacks after it."""

    def __init__(self, factors: Callable[[], Factors], held_out: HeldOut, stopping: EarlyStopping, epochs: int) -> None:
        """Keep what is needed.

        Args:
            factors: takes the vectors and biases out of the model.
            held_out: the validation part.
            stopping: the length of the lists; with a patience of 0 only the last epoch is measured.
            epochs: how many there are at most.
        """
        super().__init__()
        self.factors, self.held_out, self.stopping, self.epochs = factors, held_out, stopping, epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure."""
        factors = self.factors()
        finite = all(np.isfinite(part).all() for part in (factors.users, factors.movies))
        if logs is not None and finite and (self.stopping.patience or epoch == self.epochs - 1):
            measured = summary(*evaluate(factors, self.held_out, self.stopping.k))
            del measured["users"]
            logs.update({f"val_{name}": value for name, value in measured.items()})


def save_model(model: keras.Model, path: Path) -> None:
    """Save a Keras model with the same bytes for the same weights: without the date and with members in order.

    Args:
        model: the model.
        path: a ``.keras`` file, which `keras.models.load_model` reads.
    """
    # Keras saves to a path with its own suffix alone, which a file without a name has not.
    with atomic(path) as temporary, tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / path.name
        model.save(saved)
        with zipfile.ZipFile(saved) as archive:
            members = {name: archive.read(name) for name in sorted(archive.namelist())}
        metadata = json.loads(members["metadata.json"])
        del metadata["date_saved"]
        members["metadata.json"] = json.dumps(metadata, sort_keys=True).encode()
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content)


def as_keras(factors: Factors) -> MatrixFactorization:
    """Make a Keras model with these vectors and biases, which predicts pairs."""
    model = MatrixFactorization(
        len(factors.users),
        len(factors.movies),
        factors.users.shape[1],
        global_mean=factors.global_mean,
        name="matrix_factorization",
    )
    model.build()
    model.embedding.embeddings.assign(np.concatenate([factors.users, factors.movies]))
    model.user_bias.embeddings.assign(factors.user_bias[:, None])
    model.movie_bias.embeddings.assign(factors.movie_bias[:, None])
    return model


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
        global_mean=model.global_mean,
        interaction=model.interaction,
    )


if __name__ == "__main__":
    run(main)
    # Everything is written. TensorFlow takes half a second to clear away what the process takes with it anyway.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
