"""Choose parameters on a validation part of train, with the same number of trials for our models and for the peers.

Optuna's tree-structured Parzen estimator (Bergstra et al., NIPS 2011) proposes them, seeded, so that a search can be
repeated. A trial of ours is an experiment of the pipeline that is thrown away (`dvc exp run --temp`): DVC's run cache
answers a trial that has been run before at once, so that a search that was interrupted continues where it stopped.
Test ratings are never read. benchmarks/searches.yaml says what is searched; the trials go to metrics/tuning.csv and the
best parameters to presets.yaml.
"""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import optuna
import pandas as pd
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from tqdm import tqdm

from benchmarks.measure import split_workspace
from benchmarks.peers import SEARCHES, measure_peer
from recommender.data.interactions import Interactions
from recommender.errors import UserError, run
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.metrics import LOWER_IS_BETTER
from recommender.paths import TRAIN, TRAIN_METRICS, VALIDATION
from recommender.storage import write_text
from tools.experiments import as_settings, data_source, source_parser, throwaway
from tools.preset import PRESETS, read_presets

LOG: Final = Path("metrics/tuning.csv")
COLUMNS: Final = ["dataset", "model", "trial", "metric", "value", "parameters"]
VALIDATION_SIZE: Final = 0.15
SEED: Final = 7
K, QUANTILE = 25, 0.85
HEADER: Final = "# Written by `make tune`: the best parameters of each search on the validation part, by data set.\n"
Values = dict[str, Any]
Objective = Callable[[Values], Values]  # parameters to metrics of the validation part


def main() -> None:
    """Search for one model or for all."""
    parser = source_parser("make tune", __doc__)
    parser.add_argument("--model", choices=sorted(SEARCHES), action="append", help="all of them where not given")
    parser.add_argument("--trials", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.trials < 1:
        raise UserError(f"--trials: must be at least 1; found {arguments.trials}")
    source = data_source(arguments.dataset, arguments.archive, arguments.sha256)
    for model in arguments.model or SEARCHES:
        keep(arguments.dataset, model, search(model, source, arguments.trials))


def search(model: str, source: Values, count: int) -> optuna.Study:
    """Run a search of `SEARCHES` of so many trials; each has its parameters in its user attribute ``values``."""
    what = SEARCHES[model]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize" if what["metric"] in LOWER_IS_BETTER else "maximize",
        sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=4),
    )
    for start in what["starts"][:count]:
        study.enqueue_trial(start)
    space = {name: distribution(bounds) for name, bounds in what["space"].items()}
    with tempfile.TemporaryDirectory() as folder:
        objective = _ours(what["section"], source) if "section" in what else _peer(model, source, Path(folder))
        for _ in tqdm(range(count), desc=model, disable=None):
            trial = study.ask(space)
            values = parameters(model, trial.params)
            found = float(objective(values)[what["metric"]])
            trial.set_user_attr("values", values)
            study.tell(trial, found)
            print(f"{model} {trial.number}: {what['metric']} {found:.6f} {values}", flush=True)
    return study


def distribution(bounds: Any) -> BaseDistribution:  # noqa: ANN401 - from YAML
    """Return what a parameter is drawn from: a list of choices, or arguments of Optuna's distributions of numbers."""
    if isinstance(bounds, list):
        return CategoricalDistribution(bounds)
    return (IntDistribution if isinstance(bounds["low"], int) else FloatDistribution)(**bounds)


def parameters(model: str, drawn: Values) -> Values:
    """Return all parameters of a trial, those drawn with three significant digits: what a person would write down."""
    fixed, section = SEARCHES[model].get("fixed", {}), SEARCHES[model].get("section")
    short = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in drawn.items()}
    own = {f"train.{section}.{name}": value for name, value in (fixed | short).items()}
    return {"train.model": section} | own if section else fixed | short


def _ours(section: str, source: Values) -> Objective:
    fixed = source | {"split.validation_size": VALIDATION_SIZE, "train.early_stopping.k": K}
    size = f"train.{section}.ensemble_size"

    def objective(values: Values) -> Values:
        first = {size: 1} if size in values else {}  # the metrics that train writes are those of the first model
        (losses,) = throwaway(as_settings(fixed | values | first), (str(TRAIN_METRICS),), "train")
        return {name.removeprefix("val_"): value for name, value in losses.items()}

    return objective


def _peer(model: str, source: Values, folder: Path) -> Objective:
    with contextlib.chdir(split_workspace(folder, source | {"split.validation_size": VALIDATION_SIZE})):
        train, validation = Interactions.read(TRAIN), Interactions.read(VALIDATION)
    held_out = HeldOut.of(validation, train, QUANTILE)
    return lambda values: measure_peer(model, values, train, held_out, K)[0]


def keep(dataset: str, model: str, study: optuna.Study) -> None:
    """Write a search to the log, in place of an earlier one for the model, and its best parameters to the presets."""
    trials = study.trials_dataframe(("number", "value", "user_attrs")).rename(columns={"number": "trial"})
    trials["parameters"] = [" ".join(as_settings(values)) for values in trials["user_attrs_values"]]
    log = trials.assign(dataset=dataset, model=model, metric=SEARCHES[model]["metric"])[COLUMNS]
    if LOG.exists():
        before = pd.read_csv(LOG)
        log = pd.concat([before[(before["dataset"] != dataset) | (before["model"] != model)], log])
    write_text(LOG, log.sort_values(["dataset", "model", "trial"]).to_csv(index=False, float_format="%.6f"))
    presets = read_presets()
    presets.setdefault(model, {})[dataset] = study.best_trial.user_attrs["values"]
    write_text(PRESETS, HEADER + yaml.safe_dump(presets))


if __name__ == "__main__":
    run(main)
