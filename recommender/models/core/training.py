"""Training, whatever the model: one or several seeds, with early stopping or without, once or once more."""

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
from recommender.evaluation.metrics import LOWER_IS_BETTER, summary
from recommender.models.core.backend import keras
from recommender.models.core.saving import as_keras
from recommender.params import EarlyStopping, ModelSection, Train
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import RatingLoss, SoftmaxLoss
from recommender.ranking.topk import check_k

SEED_STEP: Final = 1000  # between the seeds of models that are averaged


@dataclass(frozen=True)
class Parts:
    """The parts of the split, and the rank of each item's id."""

    train: Interactions
    validation: Interactions  # chooses epochs and parameters; may be empty
    test: Interactions  # measured after each epoch where there is no validation part; never learned from
    item_order: NDArray[np.int32]


@dataclass(frozen=True)
class Job:
    """A compiled model and what it is trained on: what the `prepare` function of every model's module returns."""

    model: keras.Model
    data: keras.utils.PyDataset
    held_out: keras.utils.PyDataset
    factors: Callable[[], Factors]  # exports the trained vectors and biases
    fold_in: RatingLoss | SoftmaxLoss  # the loss of one user, for new ones


@dataclass(frozen=True)
class Trained:
    """What training ends in."""

    model: keras.Model  # scores pairs
    factors: Factors
    fold_in: RatingLoss | SoftmaxLoss
    metrics: dict[str, Any]  # of the epoch that the model is taken from
    history: dict[str, NDArray[Any]]  # the losses of every epoch, as columns


def train(parts: Parts, params: Train) -> Trained:
    """Train the model that the parameters name."""
    stopping, section, validation = params.early_stopping, params.section, parts.validation
    chosen_by_validation = len(validation) > 0
    if not chosen_by_validation and (stopping.patience or params.final_fit is True):
        name = "early_stopping.patience" if stopping.patience else "final_fit"
        raise UserError(f"train.{name}: needs a validation part; set split.validation_size above 0")
    job = prepare(parts.train, validation if chosen_by_validation else parts.test, parts.item_order, params)
    callbacks: list[keras.callbacks.Callback] = []
    best = None
    if chosen_by_validation:
        held_out = HeldOut.of(validation, parts.train, stopping.relevance_quantile)
        check_k("train.early_stopping.k", stopping.k, validation.num_items)
        callbacks.append(ValidationMetrics(job.factors, held_out, stopping, section.epochs))
        if stopping.patience:
            metric, mode = f"val_{stopping.metric}", "min" if stopping.metric in LOWER_IS_BETTER else "max"
            best = keras.callbacks.EarlyStopping(
                metric, mode=mode, patience=stopping.patience, restore_best_weights=True
            )
            callbacks.append(best)
    logs = fit(job, params, section.epochs, callbacks)
    epochs = len(logs["loss"])
    history = {name: np.array(logs[name]) for name in sorted(logs) if len(logs[name]) == epochs}
    epoch = best.best_epoch if best else epochs - 1
    metrics = {name: values[epoch - epochs] for name, values in logs.items()}
    known = Interactions.joined(*(getattr(parts, name) for name in params.learned_from))
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


def prepare(known: Interactions, held_out: Interactions, item_order: NDArray[np.int32], params: Train) -> Job:
    """Build and compile the model that the parameters name, with its module's `prepare`.

    It learns from `known`; its loss is measured on `held_out` after each epoch.
    """
    keras.utils.set_random_seed(params.seed)
    module = importlib.import_module(f"recommender.models.{params.model}")
    return module.prepare(known, held_out, item_order, params.section, params.seed)


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
            raise UserError(
                f"training diverged in epoch {len(logs['loss'])}: {name} is {values[-1]}; lower "
                f"train.{params.model}.learning_rate (now {params.section.learning_rate:g}) or raise its batch_size"
            )
    return logs


def adam(section: ModelSection, steps: int) -> keras.optimizers.Adam:
    """Return the optimizer; `steps` are those of an epoch."""
    rate = section.learning_rate
    if section.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps * section.epochs)
    return keras.optimizers.Adam(rate)


class ValidationMetrics(keras.callbacks.Callback):
    """Adds metrics on the validation part to the logs; with a patience of 0 only to those of the last epoch."""

    def __init__(self, factors: Callable[[], Factors], held_out: HeldOut, stopping: EarlyStopping, epochs: int) -> None:
        super().__init__()
        self.factors, self.held_out, self.stopping, self.epochs = factors, held_out, stopping, epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure."""
        factors = self.factors()
        finite = all(np.isfinite(part).all() for part in (factors.user_factors, factors.item_factors))
        if logs is not None and finite and (self.stopping.patience or epoch == self.epochs - 1):
            measured = summary(*evaluate(factors, self.held_out, self.stopping.k))
            del measured["users"]
            logs.update({f"val_{name}": value for name, value in measured.items()})
