"""Training, whatever the model: in epochs, of one seed or several, with or without early stopping; in closed form."""

import functools
import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.errors import UserError
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.metrics import summary
from recommender.models.core.backend import keras
from recommender.models.core.saving import as_keras
from recommender.params import Train, TrainedSection
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import FoldIn
from recommender.ranking.topk import check_k

SEED_STEP: Final = 1000  # between the seeds of models that are averaged
Measure = Callable[[Factors], dict[str, float]]  # on the validation part


@dataclass(frozen=True)
class Parts:
    """The parts of the split, and the rank of each item's id."""

    train: Interactions
    validation: Interactions  # chooses epochs and parameters; may be empty
    test: Interactions  # measured after each epoch where there is no validation part; never learned from
    item_order: NDArray[np.int32]


@dataclass(frozen=True)
class Job:
    """A compiled model and what it is trained on: what `prepare` returns in the module of a model trained in epochs."""

    model: keras.Model
    data: keras.utils.PyDataset
    held_out: keras.utils.PyDataset
    factors: Callable[[], Factors]  # exports the trained vectors and biases
    fold_in: FoldIn  # the loss of one user, for new ones


@dataclass(frozen=True)
class Trained:
    """What training ends in."""

    model: keras.Model  # scores pairs
    factors: Factors
    fold_in: FoldIn
    metrics: dict[str, Any]  # of the epoch that the model is taken from
    history: dict[str, NDArray[Any]]  # the losses of every epoch, as columns; of none for a closed form


def train(parts: Parts, params: Train) -> Trained:
    """Train the model that the parameters name."""
    stopping, section, chosen_by_validation = params.early_stopping, params.section, len(parts.validation) > 0
    if not chosen_by_validation and (stopping.patience or params.final_fit is True):
        name = "early_stopping.patience" if stopping.patience else "final_fit"
        raise UserError(f"train.{name}: needs a validation part; set split.validation_size above 0")
    measure = None
    if chosen_by_validation:
        check_k("train.early_stopping.k", stopping.k, parts.validation.num_items)
        held_out = HeldOut.of(parts.validation, parts.train, stopping.relevance_quantile)
        measure = functools.partial(validation_metrics, held_out=held_out, k=stopping.k)
    known = Interactions.joined(*(getattr(parts, name) for name in params.learned_from))
    if isinstance(section, TrainedSection):
        return in_epochs(parts, known, params, section, measure)
    return in_closed_form(parts, known, params, measure)


def in_epochs(
    parts: Parts, known: Interactions, params: Train, section: TrainedSection, measure: Measure | None
) -> Trained:
    """Train a model whose module has `prepare`, and once more on what is `known` for a final fit."""
    stopping = params.early_stopping
    job = prepare(parts.train, parts.validation if measure else parts.test, parts.item_order, params)
    callbacks: list[keras.callbacks.Callback] = []
    best = None
    if measure:
        callbacks.append(ValidationMetrics(job.factors, measure, None if stopping.patience else section.epochs - 1))
        if stopping.patience:
            best = keras.callbacks.EarlyStopping(
                monitor=f"val_{stopping.metric}",
                mode="min" if stopping.metric in ("rmse", "mae") else "max",
                patience=stopping.patience,
                restore_best_weights=True,
            )
            callbacks.append(best)
    logs = fit(job, params, section.epochs, callbacks)
    epochs = len(logs["loss"])
    history = {name: np.array(logs[name]) for name in sorted(logs) if len(logs[name]) == epochs}
    epoch = best.best_epoch if best else epochs - 1
    metrics = {name: values[epoch - epochs] for name, values in logs.items()}
    models = [] if params.final_fit else [job.factors()]
    for number in range(len(models), section.ensemble_size):
        seed = (params.seed + SEED_STEP * number) % 2**32
        job = prepare(known, parts.test, parts.item_order, params.model_copy(update={"seed": seed}))
        metrics["loss"] = fit(job, params, epoch + 1)["loss"][-1]
        models.append(job.factors())
    factors = Factors.mean(models)
    model = as_keras(factors)
    metrics = {"epochs": epoch + 1, "weights": model.count_params(), **metrics}
    return Trained(model, factors, job.fold_in, metrics, {"epoch": np.arange(epochs), **history})


def in_closed_form(parts: Parts, known: Interactions, params: Train, measure: Measure | None) -> Trained:
    """Solve a model whose module has `solve`, and once more on what is `known` for a final fit."""

    def solve(ratings: Interactions) -> tuple[Factors, FoldIn]:
        solved: tuple[Factors, FoldIn] = _module(params).solve(ratings, parts.item_order, params.section, params.seed)
        return solved

    factors, fold_in = solve(parts.train if measure else known)
    metrics = measure(factors) if measure else {}
    if measure and params.final_fit:
        factors, fold_in = solve(known)
    if not all(np.isfinite(part).all() for part in (factors.user_factors, factors.item_factors)):
        raise UserError(f"{params.model} has no solution in these numbers; raise the ridges of train.{params.model}")
    model = as_keras(factors)
    metrics = {"weights": model.count_params(), **metrics}
    return Trained(model, factors, fold_in, metrics, {"epoch": np.empty(0), "loss": np.empty(0)})


def prepare(known: Interactions, held_out: Interactions, item_order: NDArray[np.int32], params: Train) -> Job:
    """Build and compile the model that the parameters name, with its module's `prepare`.

    It learns from `known`; its loss is measured on `held_out` after each epoch.
    """
    keras.utils.set_random_seed(params.seed)
    job: Job = _module(params).prepare(known, held_out, item_order, params.section, params.seed)
    return job


def _module(params: Train) -> Any:  # noqa: ANN401 - a module
    return importlib.import_module(f"recommender.models.{params.model}")


def fit(
    job: Job, params: Train, epochs: int, callbacks: list[keras.callbacks.Callback] | None = None
) -> dict[str, list[float]]:
    """Run Keras' `fit` and return the logs of every epoch; without `callbacks` the held-out part is left alone."""
    history = job.model.fit(
        job.data,
        validation_data=None if callbacks is None else job.held_out,
        epochs=epochs,
        shuffle=False,  # of the batches: each epoch's order is drawn by the data set
        callbacks=[*(callbacks or []), keras.callbacks.TerminateOnNaN()],
        verbose="auto" if sys.stdout.isatty() else 0,
    ).history
    logs = {name: [float(value) for value in values] for name, values in history.items()}
    for name, values in logs.items():
        if not math.isfinite(values[-1]):
            rate = params.section.model_dump()["learning_rate"]
            raise UserError(
                f"training diverged in epoch {len(logs['loss'])}: {name} is {values[-1]}; lower "
                f"train.{params.model}.learning_rate (now {rate:g}) or raise its batch_size"
            )
    return logs


def adam(section: TrainedSection, steps: int) -> keras.optimizers.Adam:
    """Return the optimizer; `steps` are those of an epoch."""
    rate = section.learning_rate
    if section.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps * section.epochs)
    return keras.optimizers.Adam(rate)


def validation_metrics(factors: Factors, held_out: HeldOut, k: int) -> dict[str, float]:
    """Return the metrics of the validation part, each with val_ before its name."""
    measured = summary(*evaluate(factors, held_out, k))
    return {f"val_{name}": value for name, value in measured.items() if name != "users"}


class ValidationMetrics(keras.callbacks.Callback):
    """Adds metrics on the validation part to the logs, of every epoch or `only` of one."""

    def __init__(self, factors: Callable[[], Factors], measure: Measure, only: int | None) -> None:
        super().__init__()
        self.factors, self.measure, self.only = factors, measure, only

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure."""
        factors = self.factors()
        finite = all(np.isfinite(part).all() for part in (factors.user_factors, factors.item_factors))
        if logs is not None and finite and self.only in (None, epoch):
            logs.update(self.measure(factors))
