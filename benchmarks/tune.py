"""Choose parameters on a validation part of train, with the same number of trials for our models and for the peers.

Optuna's tree-structured Parzen estimator (Bergstra et al., NIPS 2011) proposes them, seeded, so that a search can be
repeated. A trial of ours is an experiment of the pipeline that is thrown away (`dvc exp run --temp`): DVC's run cache
answers a trial that has been run before at once, so that a search that was interrupted goes on where it stopped.
Test ratings are never read. Appends to metrics/tuning.csv and writes the best parameters to presets.yaml.
"""

import argparse
import contextlib
import csv
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import optuna
import yaml
from tqdm import tqdm

from benchmarks.measure import measure as run_command
from benchmarks.measure import workspace
from benchmarks.peers import measure as measure_peer
from stages.lib.errors import UserError, run
from stages.lib.heldout import HeldOut
from stages.lib.ratings import TRAIN, VALIDATION, Ratings
from stages.lib.releases import RELEASES
from stages.lib.storage import atomic
from tools.experiments import as_settings, data_source, throwaway
from tools.preset import PRESETS

LOG: Final = Path("metrics/tuning.csv")
COLUMNS: Final = ("dataset", "model", "trial", "metric", "value", "parameters")
VALIDATION_SIZE: Final = 0.15
SEED: Final = 7
K, QUANTILE = 25, 0.85
HEADER: Final = "# Written by `make tune`: the best parameters of each search on the validation part, by data set.\n"

Trial = optuna.trial.Trial
Values = dict[str, Any]


def main() -> None:
    """Search for one model or for all."""
    parser = argparse.ArgumentParser(prog="make tune", description=__doc__)
    parser.add_argument("--model", choices=sorted(SPACES), action="append", help="all of them where not given")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--dataset", choices=sorted(RELEASES), default="ml-100k")
    parser.add_argument("--archive", help="a path or address in place of the release's own")
    parser.add_argument("--sha256", help="its checksum; computed from a file where not given")
    arguments = parser.parse_args()
    if arguments.trials < 1:
        raise UserError(f"--trials: must be at least 1; found {arguments.trials}")
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    for model in arguments.model or SPACES:
        trials = search(model, source, arguments.trials)
        keep(arguments.dataset, model, trials)


def ranking(trial: Trial) -> Values:
    """Propose parameters of our ranking model."""
    return {
        "train.loss": "softmax",
        "train.schedule": "cosine",
        "train.embedding_size": 512,
        "train.learning_rate": trial.suggest_float("train.learning_rate", 5e-3, 3e-2, log=True),
        "train.batch_size": trial.suggest_categorical("train.batch_size", [64, 256]),
        "train.epochs": trial.suggest_int("train.epochs", 30, 50, step=10),
        "train.l2": trial.suggest_float("train.l2", 1.5e-3, 6e-3, log=True),
        "train.softmax.user_l2": trial.suggest_float("train.softmax.user_l2", 5e-4, 1e-2, log=True),
        "train.softmax.dropout": trial.suggest_float("train.softmax.dropout", 0.75, 0.85, step=0.05),
        "train.softmax.rating_base": trial.suggest_float("train.softmax.rating_base", 1.4, 2.4, step=0.2),
    }


def rating(trial: Trial) -> Values:
    """Propose parameters of our rating model."""
    return {
        "train.movie_vectors": "encoded",
        "train.global_mean": True,
        "train.schedule": "cosine",
        "train.embedding_size": trial.suggest_categorical("train.embedding_size", [128, 256]),
        "train.learning_rate": trial.suggest_float("train.learning_rate", 2e-3, 6e-3, log=True),
        "train.batch_size": 128,
        "train.epochs": trial.suggest_int("train.epochs", 15, 25, step=5),
        "train.l2": trial.suggest_float("train.l2", 1e-5, 2e-4, log=True),
        "train.encoded.encoder_l2": trial.suggest_float("train.encoded.encoder_l2", 3e-5, 1e-3, log=True),
        "train.encoded.dropout": trial.suggest_float("train.encoded.dropout", 0.4, 0.6, step=0.1),
    }


def als(trial: Trial) -> Values:
    """Propose settings of implicit's ALS."""
    return {
        "factors": trial.suggest_categorical("factors", [32, 64, 128]),
        "regularization": trial.suggest_float("regularization", 0.1, 100, log=True),
        "alpha": trial.suggest_float("alpha", 0.5, 50, log=True),
        "base": trial.suggest_float("base", 1.0, 3.0, step=0.25),
        "iterations": trial.suggest_int("iterations", 10, 30, step=5),
    }


def bpr(trial: Trial) -> Values:
    """Propose settings of implicit's BPR."""
    return {
        "factors": trial.suggest_categorical("factors", [32, 64, 128]),
        "learning_rate": trial.suggest_float("learning_rate", 5e-3, 0.1, log=True),
        "regularization": trial.suggest_float("regularization", 1e-4, 0.1, log=True),
        "iterations": trial.suggest_int("iterations", 40, 160, step=40),
        "min_rating": trial.suggest_categorical("min_rating", [0.0, 4.0]),
    }


def svd(trial: Trial) -> Values:
    """Propose settings of Surprise's SVD."""
    return {
        "factors": trial.suggest_categorical("factors", [20, 50, 100, 200]),
        "epochs": trial.suggest_int("epochs", 10, 50, step=10),
        "learning_rate": trial.suggest_float("learning_rate", 2e-3, 2e-2, log=True),
        "regularization": trial.suggest_float("regularization", 0.01, 0.2, log=True),
    }


def ease_all(trial: Trial) -> Values:
    """Propose EASE's lambda, where every rating counts as 1."""
    return {"min_rating": 0.0, "l2": trial.suggest_float("l2", 30, 3000, log=True)}


def ease_liked(trial: Trial) -> Values:
    """Propose EASE's lambda, where ratings of at least 4 count as 1."""
    return {"min_rating": 4.0, "l2": trial.suggest_float("l2", 30, 3000, log=True)}


def ease_weighted(trial: Trial) -> Values:
    """Propose EASE's lambda and base, where a rating counts as base ** (rating - 4)."""
    return {
        "base": trial.suggest_float("base", 1.1, 2.5, step=0.1),
        "l2": trial.suggest_float("l2", 30, 3000, log=True),
    }


# What is proposed, the metric that decides, and whether more of it is better.
SPACES: Final[dict[str, tuple[Callable[[Trial], Values], str, bool]]] = {
    "ranking": (ranking, "map", True),
    "rating": (rating, "rmse", False),
    "als": (als, "map", True),
    "bpr": (bpr, "map", True),
    "svd": (svd, "rmse", False),
    "ease_all": (ease_all, "map", True),
    "ease_liked": (ease_liked, "map", True),
    "ease_weighted": (ease_weighted, "map", True),
}
# Where each search starts: found by hand on validation parts of ml-1m and of smaller releases, or by the field before.
STARTS: Final[dict[str, list[Values]]] = {
    "ranking": [
        {
            "train.learning_rate": 2e-2,
            "train.batch_size": 256,
            "train.epochs": 40,
            "train.l2": 2e-3,
            "train.softmax.user_l2": 8e-4,
            "train.softmax.dropout": 0.8,
            "train.softmax.rating_base": 2.0,
        },
        {
            "train.learning_rate": 1e-2,
            "train.batch_size": 64,
            "train.epochs": 40,
            "train.l2": 4e-3,
            "train.softmax.user_l2": 6e-3,
            "train.softmax.dropout": 0.8,
            "train.softmax.rating_base": 1.6,
        },
    ],
    "rating": [
        {
            "train.embedding_size": 256,
            "train.learning_rate": 3e-3,
            "train.epochs": 15,
            "train.l2": 1.5e-5,
            "train.encoded.encoder_l2": 5e-5,
            "train.encoded.dropout": 0.5,
        },
        {
            "train.embedding_size": 256,
            "train.learning_rate": 3e-3,
            "train.epochs": 15,
            "train.l2": 1.5e-4,
            "train.encoded.encoder_l2": 5e-4,
            "train.encoded.dropout": 0.5,
        },
    ],
    "als": [{"factors": 64, "regularization": 5.0, "alpha": 5.0, "base": 2.0, "iterations": 15}],
    "bpr": [{"factors": 64, "learning_rate": 0.01, "regularization": 0.01, "iterations": 80, "min_rating": 4.0}],
    "svd": [{"factors": 100, "epochs": 20, "learning_rate": 0.005, "regularization": 0.02}],
    "ease_all": [{"l2": 500.0}],
    "ease_liked": [{"l2": 300.0}],
    "ease_weighted": [{"base": 1.5, "l2": 800.0}, {"base": 1.5, "l2": 400.0}, {"base": 1.5, "l2": 100.0}],
}
# What is added to the best parameters: two models averaged cost twice the time and were better on validation.
ADDED: Final[dict[str, Values]] = {"ranking": {"train.models": 2}, "rating": {"train.models": 2}}


def search(model: str, source: Values, count: int) -> list[tuple[Values, float]]:
    """Run one search.

    Args:
        model: of `SPACES`.
        source: the parameters that select the data.
        count: how many trials.

    Returns:
        The parameters and the validation metric of each trial.
    """
    propose, metric, more = SPACES[model]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if more else "minimize", sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=4)
    )
    for start in STARTS[model]:
        study.enqueue_trial(start)
    with tempfile.TemporaryDirectory() as folder:
        objective = _ours(source, metric) if model in ADDED else _peer(model, source, metric, Path(folder))
        trials = []
        for _ in tqdm(range(count), desc=model, disable=not sys.stderr.isatty()):
            trial = study.ask()
            values = {name: _short(value) for name, value in propose(trial).items()}
            found = objective(values)
            study.tell(trial, found)
            trials.append((values, found))
            print(f"{model} {len(trials)}: {metric} {found:.6f} {values}", flush=True)
    return trials


def _short(value: Any) -> Any:  # noqa: ANN401 - a parameter
    """Round to three significant digits: what a person would write down."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _ours(source: Values, metric: str) -> Callable[[Values], float]:
    fixed = {**source, "split.validation_size": VALIDATION_SIZE, "train.early_stopping.k": K}

    def objective(values: Values) -> float:
        (losses,) = throwaway(as_settings({**fixed, **values}), ("metrics/train.json",), "train")
        return float(losses[f"val_{metric}"])

    return objective


def _peer(model: str, source: Values, metric: str, folder: Path) -> Callable[[Values], float]:
    place = workspace(folder / "split", {**source, "split.validation_size": VALIDATION_SIZE})
    for name in ("fetch", "extract", "split"):
        run_command([sys.executable, "-m", f"stages.{name}"], place)
    with contextlib.chdir(place):
        train, validation = Ratings.read(TRAIN), Ratings.read(VALIDATION)
    held_out = HeldOut.of(validation, train, QUANTILE)

    def objective(values: Values) -> float:
        return float(measure_peer(model.split("_")[0], values, train, held_out, K)[metric])

    return objective


def keep(dataset: str, model: str, trials: list[tuple[Values, float]]) -> None:
    """Write the trials to the log, in place of earlier ones of the same search, and the best to the presets.

    Args:
        dataset: the release.
        model: of `SPACES`.
        trials: parameters and validation metric of each.
    """
    _, metric, more = SPACES[model]
    rows = []
    if LOG.exists():
        with LOG.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if (row["dataset"], row["model"]) != (dataset, model)]
    for number, (values, found) in enumerate(trials):
        parameters = " ".join(as_settings(values))
        cells = (dataset, model, str(number), metric, f"{found:.6f}", parameters)
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    rows.sort(key=lambda row: (row["dataset"], row["model"], int(row["trial"])))
    with atomic(LOG) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    best, _ = (max if more else min)(trials, key=lambda trial: trial[1])
    presets = yaml.safe_load(PRESETS.read_text(encoding="utf-8")) if PRESETS.exists() else {}
    presets.setdefault(model, {})[dataset] = {**best, **ADDED.get(model, {})}
    with atomic(PRESETS) as temporary:
        temporary.write_text(HEADER + yaml.safe_dump(presets, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    run(main)
