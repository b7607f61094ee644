"""The Keras model that is saved, whatever model was trained: a plain factorization with the trained vectors."""

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from recommender.models.core.backend import keras, ops
from recommender.models.core.steps import Tensor
from recommender.paths import MODEL
from recommender.ranking.factors import VECTORS, Factors
from recommender.storage import atomic


@keras.saving.register_keras_serializable("recommender")
class Factorization(keras.Model):
    """Score = global mean + user bias + item bias + interaction of the two vectors, as in `Factors`."""

    def __init__(
        self,
        num_users: int,
        num_items: int,
        size: int,
        global_mean: float = 0.0,
        interaction: str = "dot",
        **kwargs: Any,  # noqa: ANN401 - Keras' own
    ) -> None:
        super().__init__(**kwargs)
        shape = {"num_users": num_users, "num_items": num_items, "size": size}
        self.config: dict[str, Any] = shape | {"global_mean": global_mean, "interaction": interaction}
        self.user_factors = self.add_weight(shape=(num_users, size), name="user_factors")
        self.item_factors = self.add_weight(shape=(num_items, size), name="item_factors")
        self.user_bias = self.add_weight(shape=(num_users,), name="user_bias")
        self.item_bias = self.add_weight(shape=(num_items,), name="item_bias")
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make this model again."""
        return {**super().get_config(), **self.config}

    def call(self, pairs: Tensor) -> Tensor:
        """Score (batch, 2) integers, user index and item index: (batch, 1) float32."""
        users, items = pairs[:, 0], pairs[:, 1]
        products = ops.take(self.user_factors, users, axis=0) * ops.take(self.item_factors, items, axis=0)
        over = -1 if self.config["interaction"] == "dot" else None
        bias = ops.take(self.user_bias, users) + ops.take(self.item_bias, items) + self.config["global_mean"]
        return (ops.sum(products, axis=over) + bias)[:, None]


def as_keras(factors: Factors) -> Factorization:
    """Return a Keras model with these vectors and biases."""
    (num_users, size), num_items = factors.user_factors.shape, len(factors.item_factors)
    mean, interaction = factors.global_mean, factors.interaction
    model = Factorization(num_users, num_items, size, mean, interaction, name="matrix_factorization")
    for name in VECTORS:
        getattr(model, name).assign(getattr(factors, name))
    return model


def save_model(model: keras.Model, path: Path = MODEL) -> None:
    """Save a Keras model as a ``.keras`` file, without the date and with sorted members: the same bytes every time."""
    # Keras saves only to a path with its own suffix, which an unnamed file does not have.
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
