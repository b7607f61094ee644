"""Train the model on the train ratings and export its factors."""

import numpy as np

from recommender.data.interactions import Interactions, read_scale
from recommender.environment import check_environment
from recommender.errors import UserError, run
from recommender.models.core.backend import leave
from recommender.models.core.saving import save_model
from recommender.models.core.training import Parts, train
from recommender.params import MODELS, Train
from recommender.params_file import load_params
from recommender.paths import GIVEN, HISTORY, ITEMS, TEST, TRAIN, TRAIN_METRICS, VALIDATION
from recommender.ranking import fold_in
from recommender.storage import read_table, write_csv, write_json


def main() -> None:
    """Train as ``params.yaml`` says and write the model, its factors and its losses."""
    check_environment("training")
    params = load_params()
    _check_scale(params.train)
    item_ids = read_table(ITEMS, ["item_id"])["item_id"].to_numpy()
    item_order = np.argsort(np.argsort(item_ids, kind="stable"), kind="stable").astype(np.int32)
    if params.engine.parts > 1:
        from recommender.models.core.in_blocks import train_in_blocks  # takes a quarter of a second to import

        trained = train_in_blocks(params, item_order)
    else:
        learned, validation, test, given = (Interactions.read(path) for path in (TRAIN, VALIDATION, TEST, GIVEN))
        trained = train(Parts(learned, validation, test, given, item_order), params.train)
    save_model(trained.model)
    trained.factors.save()
    fold_in.save(trained.fold_in)
    write_csv(HISTORY, trained.history)
    write_json(TRAIN_METRICS, trained.metrics)


def _check_scale(params: Train) -> None:
    low, high = read_scale(TRAIN)
    if low == high and params.section.scores == "ratings":
        ranking = " or ".join(name for name in MODELS if getattr(params, name).scores == "order")
        found = "all ratings are the same, which is implicit data"
        raise UserError(f"train.model: {params.model} predicts ratings, but {found}; set it to {ranking}, which ranks")


if __name__ == "__main__":
    run(main)
    leave()
