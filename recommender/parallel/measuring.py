"""The stages evaluate and baselines in parts: tasks that each measure the lists of some users.

The results are those of `recommender.evaluation.at_once` but for the order of the rows by user, part after part, and
for diversity where items have no categories or very many sets of them, which is left out: see `ListMeasures`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recommender.data.blocks import block_sizes
from recommender.data.interactions import read_shape
from recommender.data.sampling import EVERYBODY, Sample
from recommender.evaluation.at_once import Baselines, allows_ease, measure_factors
from recommender.evaluation.heldout import HeldOut, check_sample
from recommender.evaluation.lists import Categories, ListMeasures, Popularity
from recommender.evaluation.metrics import COLUMNS
from recommender.evaluation.results import Results, Summed, no_users
from recommender.parallel.engine import Arrays, Engine, engine, publishing
from recommender.parallel.users import UserPlan, count_users
from recommender.params import Baselines as Settings
from recommender.params import Params
from recommender.paths import BASELINES_USERS, FACTORS, ITEMS, PARTS, TEST, TRAIN, USER_METRICS, USERS, VALIDATION
from recommender.ranking.baselines import item_means, item_pairs, liked, solve_ease
from recommender.ranking.factors import Factors
from recommender.ranking.topk import check_k
from recommender.storage import read_table, writing_row_groups

EASE: Final = "ease.npy"  # in the plan's folder: the weights
INPUTS: Final = (USERS, ITEMS, *PARTS.values())


@dataclass(frozen=True)
class Measuring(UserPlan):
    """What every task that measures agrees on."""

    held_out: Path
    quantile: float

    def measures(self, part: int) -> ListMeasures:
        """Return what measures the lists of a part's users."""
        test, known = (self.read_sampled(paths, part) for paths in ([self.held_out], self.known))
        held_out, counts = HeldOut.of(test, known, self.quantile, self.has_learned(part)), self.counts
        return ListMeasures(held_out, Categories.read(), self.k, Popularity(counts["known"], int(counts["users"])))


def evaluate_in_parts(params: Params) -> Summed:
    """Do what `evaluate_at_once` does, some users at a time."""
    model = params.train.model
    with engine("evaluate", "tables", _decides(params), [*INPUTS, FACTORS]) as run:
        plan = _plan(params, run)
        return _measured(run, plan, FACTORS, model, USER_METRICS)


def baselines_in_parts(params: Params) -> dict[str, Summed]:
    """Do what `baselines_at_once` does, some users at a time."""
    settings = params.baselines
    with engine("baselines", "tables", f"{_decides(params)} {settings.model_dump_json()}", INPUTS) as run:
        plan = _plan(params, run)
        count_users(run, plan)
        if allows_ease(settings, plan.shape[1]):
            _solve_ease(plan, settings)
        found = run.map("baselines", measure_baselines, [(plan, part, settings) for part in range(plan.parts)])
        return _collected(plan, found, BASELINES_USERS)


def validate_in_parts(run: Engine, factors: Factors, params: Params) -> dict[str, float]:
    """Measure factors that have learned from the train part on the validation part; return those of `COLUMNS`."""
    stopping, model = params.train.early_stopping, params.train.model
    path, shape = Path(run.folder) / "factors.npz", (len(factors.user_factors), len(factors.item_factors))
    factors.save(path)
    plan = Measuring(
        run.folder,
        shape,
        params.engine.parts,
        known=(TRAIN,),
        learned=(TRAIN,),
        sample=EVERYBODY,
        k=stopping.k,
        held_out=VALIDATION,
        quantile=stopping.relevance_quantile,
    )
    metrics = _measured(run, plan, path, model, Path(run.folder) / "validation.parquet").metrics()
    return {f"val_{name}": metrics[name] for name in COLUMNS if name in metrics}


def measure_model(plan: Measuring, part: int, path: Path, model: str) -> Arrays:
    """Measure a trained model for a part's users: write the results by user, return the totals."""
    return _leave(plan, part, {model: measure_factors(model, plan.factors(path, part), plan.measures(part))})


def measure_baselines(plan: Measuring, part: int, settings: Settings) -> Arrays:
    """Measure the baselines for a part's users: write the results by user, return the totals."""
    sums, path = plan.item_sums(), Path(plan.folder) / EASE
    weights = np.asarray(np.load(path, mmap_mode="r")) if path.exists() else None
    baselines = Baselines(sums.counts, item_means(sums, settings.item_mean_damping), weights)
    history = liked(plan.read_sampled(plan.learned, part), settings.ease_min_rating)
    return _leave(plan, part, baselines.measure(plan.measures(part), history))


def _decides(params: Params) -> str:
    train = f"{params.train.model} {params.train.final_fit} {params.split.seed} {params.engine.parts}"
    return f"{params.evaluate.model_dump_json()} {train}"


def _plan(params: Params, run: Engine) -> Measuring:
    settings, shape = params.evaluate, read_shape()
    check_k("params.yaml: evaluate.k", settings.k, shape[1])
    return Measuring(
        run.folder,
        shape,
        params.engine.parts,
        known=(TRAIN, VALIDATION),
        learned=tuple(PARTS[name] for name in params.train.learned_from),
        sample=Sample(settings.user_share, params.split.seed),
        k=settings.k,
        held_out=TEST,
        quantile=settings.relevance_quantile,
    )


def _measured(run: Engine, plan: Measuring, factors: Path, model: str, path: Path) -> Summed:
    count_users(run, plan)
    block_sizes(plan.held_out, plan.parts)
    found = run.map("measure", measure_model, [(plan, part, factors, model) for part in range(plan.parts)])
    return _collected(plan, found, path)[model]


def _solve_ease(plan: Measuring, settings: Settings) -> None:
    """Leave the weights of EASE for the tasks, unless a run that was stopped has left them."""
    path = Path(plan.folder) / EASE
    if path.exists():
        return
    history = (liked(plan.read(plan.learned, part), settings.ease_min_rating) for part in range(plan.parts))
    weights = solve_ease(item_pairs(history, plan.shape[1]), settings.ease_lambda)
    with publishing(path) as temporary, temporary.open("wb") as file:
        np.save(file, weights)


def _leave(plan: Measuring, part: int, results: Mapping[str, Results]) -> Arrays:
    """Write the results by user of each model; return the totals under the model's name and the metric's."""
    for model, (_, table) in results.items():
        users = pa.array(plan.users(part)[table["user"].to_numpy()])
        with publishing(_by_user(plan, model, part)) as path:
            pq.write_table(table.set_column(1, "user", users), path)
    return {f"{model} {name}": value for model, (totals, _) in results.items() for name, value in totals.items()}


def _collected(plan: Measuring, found: Sequence[Arrays], path: Path) -> dict[str, Summed]:
    """Write the results by user of each model, part after part, and return them added up."""
    summed = {name.split()[0]: Summed(plan.k, plan.shape[1]) for name in found[0]}
    with writing_row_groups(path, no_users(plan.k).schema) as add:
        for model, results in summed.items():
            for part, totals in enumerate(found):
                table = read_table(_by_user(plan, model, part))
                own = {name.split()[1]: total for name, total in totals.items() if name.startswith(f"{model} ")}
                results.add(own, table)
                add(table)
            check_sample(results.users[0], plan.sample)
    return summed


def _by_user(plan: Measuring, model: str, part: int) -> Path:
    return Path(plan.folder) / f"{model}-{part}.parquet"
