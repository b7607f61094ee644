"""Small ratings to train on, and the parameters of small models."""

from typing import Any

import numpy as np

from recommender.data.interactions import Interactions
from recommender.data.synthetic import make_ratings
from recommender.models.core.training import Parts
from recommender.params import Train
from recommender.params_file import load_params
from tests.conftest import REPOSITORY

USERS, ITEMS, RATINGS = 60, 80, 1500
SMALL = {
    "schedule": "cosine",
    "embedding_size": 8,
    "learning_rate": 0.01,
    "batch_size": 32,
    "epochs": 6,
    "ensemble_size": 1,
}


def parameters(model: str, section: dict[str, Any] | None = None, /, **others: Any) -> Train:  # noqa: ANN401
    """Return the parameters of params.yaml for a small model, with changes to its section and beside it."""
    values = load_params(REPOSITORY / "params.yaml").train.model_dump()
    small = {**values[model], **{key: SMALL[key] for key in SMALL.keys() & values[model].keys()}, **(section or {})}
    return Train.model_validate({**values, "model": model, model: small, **others})


def stopping(patience: int, metric: str = "map", k: int = 25) -> dict[str, Any]:
    """Return the section `early_stopping`."""
    return {"patience": patience, "metric": metric, "k": k, "relevance_quantile": 0.85}


def make_parts(validation: float = 0.0, users: int = USERS, items: int = ITEMS, ratings: int = RATINGS) -> Parts:
    """Divide synthetic ratings: a fifth for test, that share for validation."""
    user, item, rating = make_ratings(users, items, ratings, taste=4.0)
    place = np.random.default_rng(1).random(ratings)

    def part(rows: np.ndarray) -> Interactions:
        return Interactions(user[rows] - 1, item[rows] - 1, rating[rows], (users, items))

    held_out = place < 0.2 + validation
    order = np.random.default_rng(2).permutation(items).astype(np.int32)
    return Parts(part(~held_out), part(held_out & (place >= 0.2)), part(place < 0.2), part(place < 0), order)
