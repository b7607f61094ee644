"""Training, whatever the model: in epochs, of one seed or several, with or without early stopping; in closed form."""

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.errors import UserError
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.metrics import COLUMNS, LOWER_IS_BETTER, summary
from recommender.models.core.backend import keras
from recommender.models.core.saving import as_keras
from recommender.params import Train, TrainedSection
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import FoldIn
from recommender.ranking.learned import Learned, with_new_users
from recommender.ranking.topk import check_k

SEED_STEP: Final = 1000  # between the seeds of models that are averaged
Measure = Callable[[Factors, FoldIn], dict[str, float]]


@dataclass(frozen=True)
class Parts:
    """The parts of the split, the ratings given of users held out whole, and the rank of each item's id."""

    train: Interactions
    validation: Interactions  # chooses epochs and parameters; may be empty
    test: Interactions  # measured after each epoch where there is no validation part; never learned from
    given: Interactions  # of users whom the model does not learn; may be empty
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
    chosen_by_validation = len(parts.validation) > 0
    check_validation(params, chosen_by_validation)
    measure = on_validation(parts, params) if chosen_by_validation else None
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found in what training ends in
        if isinstance(params.section, TrainedSection):
            return in_epochs(parts, params, params.section, measure)
        return in_closed_form(parts, params, measure)


def check_validation(params: Train, has_validation: bool) -> None:
    """Refuse what needs a validation part where there is none."""
    stopping = params.early_stopping.patience
    if not has_validation and (stopping or params.final_fit is True):
        name = "early_stopping.patience" if stopping else "final_fit"
        raise UserError(f"train.{name}: needs a validation part; set split.validation_size above 0")


def on_validation(parts: Parts, params: Train) -> Measure:
    """Return a function of trained factors, and of what folds in, that measures them on the validation part."""
    stopping, validation = params.early_stopping, parts.validation
    given = parts.given.of(np.isin(parts.given.users, validation.users))
    learned = Learned.of(parts.train, given)
    held_out = HeldOut.of(validation, parts.train.joined(given), stopping.relevance_quantile, learned)
    check_k("train.early_stopping.k", stopping.k, validation.num_items)

    def measure(factors: Factors, fold_in: FoldIn) -> dict[str, float]:
        if not finite(factors):
            return {}
        measured = summary(*evaluate(with_new_users(factors, fold_in, parts.train, given), held_out, stopping.k))
        return {f"val_{name}": measured[name] for name in COLUMNS if name in measured}

    return measure


def finite(factors: Factors) -> bool:
    """Return whether all vectors are."""
    return all(np.isfinite(part).all() for part in (factors.user_factors, factors.item_factors))


def in_epochs(parts: Parts, params: Train, section: TrainedSection, measure: Measure | None) -> Trained:
    """Train a model whose module has `prepare`, and once more on what is known for a final fit."""
    stopping = params.early_stopping
    job = prepare(parts.train, parts.validation if measure else parts.test, parts.item_order, params)
    callbacks: list[keras.callbacks.Callback] = []
    best = None
    if measure:
        callbacks.append(ValidationMetrics(job, measure, None if stopping.patience else section.epochs - 1))
        if stopping.patience:
            metric, mode = f"val_{stopping.metric}", "min" if stopping.metric in LOWER_IS_BETTER else "max"
            best = keras.callbacks.EarlyStopping(
                metric, mode=mode, patience=stopping.patience, restore_best_weights=True
            )
            callbacks.append(best)
    # A loss of users who are held out whole says nothing: their vectors are not trained.
    logs = fit(job, params, section.epochs, callbacks, held_out=not len(parts.given))
    epochs = len(logs["loss"])
    history = {name: np.array(logs[name]) for name in sorted(logs) if len(logs[name]) == epochs}
    epoch = best.best_epoch if best else epochs - 1
    metrics = {name: values[epoch - epochs] for name, values in logs.items()}
    known, given = Interactions.joined(*(getattr(parts, name) for name in params.learned_from)).with_given(parts.given)
    models = [] if params.final_fit else [job.factors()]
    for number in range(len(models), section.ensemble_size):
        seed = (params.seed + SEED_STEP * number) % 2**32
        job = prepare(known, parts.test, parts.item_order, params.model_copy(update={"seed": seed}))
        metrics["loss"] = fit(job, params, epoch + 1)["loss"][-1]
        models.append(job.factors())
    trained = with_new_users(Factors.mean(models), job.fold_in, known, given)
    model = as_keras(trained)
    metrics = {"epochs": epoch + 1, "weights": model.count_params(), **metrics}
    return Trained(model, trained, job.fold_in, metrics, {"epoch": np.arange(epochs), **history})


def in_closed_form(parts: Parts, params: Train, measure: Measure | None) -> Trained:
    """Solve a model whose module has `solve`, and once more on what is known for a final fit."""
    known, given = Interactions.joined(*(getattr(parts, name) for name in params.learned_from)).with_given(parts.given)
    metrics: dict[str, float] = {}
    if measure and params.final_fit:
        metrics = measure(*_solve(parts.train, parts.item_order, params))
    factors, fold_in = _solve(known, parts.item_order, params)
    if not finite(factors):
        raise UserError(f"{params.model} has no solution in these numbers; raise the ridges of train.{params.model}")
    if measure and not params.final_fit:
        metrics = measure(factors, fold_in)
    trained = with_new_users(factors, fold_in, known, given)
    model = as_keras(trained)
    metrics = {"weights": model.count_params(), **metrics}
    return Trained(model, trained, fold_in, metrics, {"epoch": np.empty(0), "loss": np.empty(0)})


def _solve(known: Interactions, item_order: NDArray[np.int32], params: Train) -> tuple[Factors, FoldIn]:
    solved: tuple[Factors, FoldIn] = _module(params).solve(known, item_order, params.section, params.seed)
    return solved


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
    job: Job,
    params: Train,
    epochs: int,
    callbacks: list[keras.callbacks.Callback] | None = None,
    *,
    held_out: bool = True,
) -> dict[str, list[float]]:
    """Run Keras' `fit` and return the logs of every epoch; without `callbacks` the held-out part is left alone."""
    history = job.model.fit(
        job.data,
        validation_data=None if callbacks is None or not held_out else job.held_out,
        epochs=epochs,
        shuffle=False,  # of the batches: each epoch's order is drawn by the data set
        callbacks=[*(callbacks or []), keras.callbacks.TerminateOnNaN()],
        verbose="auto" if sys.stdout.isatty() else 0,
    ).history
    logs = {name: [float(value) for value in values] for name, values in history.items()}
    for name, values in logs.items():
        check_finite(values[-1], name, len(logs["loss"]), params.model, params.section.model_dump()["learning_rate"])
    return logs


def check_finite(loss: float, name: str, epoch: int, model: str, rate: float) -> None:
    """Refuse a loss that is NaN or infinite after an epoch, counted from 1."""
    if not math.isfinite(loss):
        raise UserError(
            f"training diverged in epoch {epoch}: {name} is {loss}; lower train.{model}.learning_rate (now {rate:g}) "
            "or raise its batch_size"
        )


def adam(section: TrainedSection, steps: int) -> keras.optimizers.Adam:
    """Return the optimizer; `steps` are those of an epoch."""
    rate = section.learning_rate
    if section.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps * section.epochs)
    return keras.optimizers.Adam(rate)


class ValidationMetrics(keras.callbacks.Callback):
    """Adds metrics on the validation part to the logs, of every epoch or `only` of one."""

    def __init__(self, job: Job, measure: Measure, only: int | None) -> None:
        super().__init__()
        self.job, self.measure, self.only = job, measure, only

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure."""
        if logs is not None and self.only in (None, epoch):
            fold_in: Any = self.job.fold_in
            logs.update(self.measure(self.job.factors(), replace(fold_in, ensemble_size=1)))
