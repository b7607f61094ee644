"""Training in blocks, from what split wrote to what train writes."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recommender.data.blocks import block_sizes, read_user_part
from recommender.models.core.blocks import BlockPlan, train_blocks, trained_factors
from recommender.models.core.saving import as_keras
from recommender.models.core.training import Trained, check_validation
from recommender.parallel.engine import engine
from recommender.parallel.measuring import validate_in_parts
from recommender.params import Params
from recommender.paths import ITEMS, PARTS, TEST, TRAIN, USERS, VALIDATION
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import RatingLoss
from recommender.ranking.topk import check_k
from recommender.storage import row_count


def train_in_blocks(params: Params, item_order: NDArray[np.int32]) -> Trained:
    """Train `mf` in engine.parts x engine.parts blocks, wherever CLUSTER says, and once more for a final fit."""
    train, section, parts = params.train, params.train.mf, params.engine.parts
    has_validation = row_count(VALIDATION) > 0
    check_validation(train, has_validation)
    held_out = VALIDATION if has_validation else TEST
    if has_validation:
        check_k("train.early_stopping.k", train.early_stopping.k, len(item_order))
    decides = f"{train.model_dump_json()} {parts}"
    with engine("train", "training", decides, [USERS, ITEMS, *PARTS.values()]) as run:

        def fit(name: str, paths: list[Path]) -> tuple[dict[str, list[float]], Factors, int]:
            known, mean, count = _known(paths, parts)
            shape, learned = (len(known), len(item_order)), tuple(map(str, paths))
            start = mean if section.global_mean else 0.0
            plan = BlockPlan(name, run.folder, shape, parts, section, train.seed, start, learned, str(held_out))
            logs = train_blocks(run, plan, section.epochs, measured=name == "first")
            return logs, trained_factors(plan, section.epochs * parts, known, item_order), count

        logs, factors, count = fit("first", [TRAIN])
        metrics: dict[str, float] = {name: values[-1] for name, values in logs.items()}
        if has_validation:
            metrics |= validate_in_parts(run, factors, params)
        if train.final_fit:
            again, factors, count = fit("final", [PARTS[name] for name in train.learned_from])
            metrics["loss"] = again["loss"][-1]
    model = as_keras(factors)
    metrics = {"epochs": section.epochs, "weights": model.count_params(), **metrics}
    history = {name: np.array(values) for name, values in sorted(logs.items())}
    fold_in = RatingLoss(count, section.l2, lazy_batch=section.batch_size)
    return Trained(model, factors, fold_in, metrics, {"epoch": np.arange(section.epochs), **history})


def _known(paths: list[Path], parts: int) -> tuple[NDArray[np.bool_], float, int]:
    """Return which users have ratings in the files, the mean of these ratings, and their number."""
    known, total, count = np.zeros(row_count(USERS), dtype=bool), 0.0, 0
    for path in paths:
        block_sizes(path, parts)
        for part in range(parts):
            users, _, ratings = read_user_part(path, parts, part)
            known[users] = True
            total, count = total + float(ratings.sum(dtype=np.float64)), count + len(users)
    return known, total / count, count
