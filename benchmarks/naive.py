"""The plain way to do what the pipeline does, as one would write it in a notebook, to measure the stages against.

python -m benchmarks.naive PART, in a folder where the pipeline has run with the model `mf`; writes nothing, and prints
the figures as JSON.
"""

import argparse
import functools
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from recommender.data.movielens import RATING_COLUMNS, RELEASES
from recommender.params import Params
from recommender.params_file import load_params
from recommender.paths import ARCHIVE, ITEMS, MODEL, TEST, TRAIN, USERS

USERS_MEASURED: Final = 60
Part = Callable[[Params], dict[str, Any]]


def main() -> None:
    """Run one part and print its figures."""
    # The fastest that Keras' own `fit` was found to be: compiled by XLA, and 64 steps between returns to Python.
    tuned = functools.partial(train, jit_compile=True, steps_per_execution=64)
    parts: dict[str, Part] = {"parse": parse, "train": train, "train-tuned": tuned, "evaluate": evaluate}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.naive", description=__doc__)
    parser.add_argument("part", choices=parts)
    print(json.dumps(parts[parser.parse_args().part](load_params())))


def parse(params: Params) -> dict[str, Any]:
    """Unpack the archive, read the ratings with pandas' Python engine, number ids through dictionaries, and split."""
    from sklearn.model_selection import train_test_split

    release = RELEASES[params.data.dataset]
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(ARCHIVE) as archive:
            archive.extractall(folder)
        reading: dict[str, Any] = {
            "sep": release.layout.separator,
            "skiprows": release.layout.first_line - 1,
            "engine": "python",
        }
        ratings = pd.read_csv(Path(folder) / release.ratings, names=list(RATING_COLUMNS), **reading)
    for column in ("user", "item"):
        numbers = {value: number for number, value in enumerate(ratings[f"{column}_id"].unique())}
        ratings[column] = ratings[f"{column}_id"].map(numbers)
    train, test = train_test_split(ratings, test_size=params.split.test_size, random_state=params.split.seed)
    return {"train": len(train), "test": len(test)}


def train(params: Params, **settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Train the same model from the same start on the same batches with Keras' own training step.

    `settings` are further arguments of `compile`. Return ``val_loss``, the last mean squared error on the test part.
    """
    import keras

    section, seed = params.train.mf, params.train.seed
    users, items = (len(pd.read_parquet(path)) for path in (USERS, ITEMS))
    layer, uniform = keras.layers.Embedding, keras.initializers.RandomUniform
    normal, l2 = keras.initializers.HeNormal(seed), keras.regularizers.L2(section.l2)
    embedding = layer(users + items, section.embedding_size, normal, l2)
    user_bias, item_bias = layer(users, 1, uniform(seed=seed + 1)), layer(items, 1, uniform(seed=seed + 2))
    inputs = keras.Input((2,), dtype="int32")
    user, item = inputs[:, 0], inputs[:, 1]
    dot = keras.ops.sum(embedding(user) * embedding(item + users), axis=1, keepdims=True)
    model = keras.Model(inputs, dot + user_bias(user) + item_bias(item))
    (x, y), validation = (
        (part[["user", "item"]].to_numpy(), part["rating"].to_numpy()) for part in map(pd.read_parquet, (TRAIN, TEST))
    )
    model.compile(keras.optimizers.Adam(section.learning_rate), keras.losses.MeanSquaredError(), **settings)
    # One `fit` an epoch, so that the batches are those of the train stage and the losses can be compared.
    for epoch in range(1, section.epochs + 1):
        order = np.random.default_rng([seed, epoch]).permutation(len(x))
        options = {"shuffle": False, "validation_data": validation, "verbose": 0}
        history = model.fit(x[order], y[order], section.batch_size, **options).history
    return {"val_loss": history["val_loss"][-1] - float(sum(model.losses))}  # without the L2 term


def evaluate(params: Params) -> dict[str, Any]:
    """Measure a sample of users one by one, with a filter of the frames and a `predict` for each.

    Returns:
        ``seconds`` per user; ``users`` in the test part; ``precision`` and ``map`` over the sample.
    """
    import keras

    import recommender.models.core.saving  # noqa: F401 - registers the class

    model = keras.models.load_model(MODEL)
    train, test, items = (pd.read_parquet(path) for path in (TRAIN, TEST, ITEMS))
    k, quantile = params.evaluate.k, params.evaluate.relevance_quantile
    users = test["user"].unique()
    chosen = np.random.default_rng(0).choice(users, min(USERS_MEASURED, len(users)), replace=False)
    model.predict(np.zeros((1, 2), np.int32), verbose=0)  # its tracing is not part of the time per user
    precision, average_precision = [], []
    start = time.perf_counter()
    for user in chosen:
        held_out = test[test["user"] == user]
        relevant = held_out[held_out["rating"] >= np.quantile(held_out["rating"], quantile)]["item"].to_numpy()
        candidates = items[~items["item"].isin(train[train["user"] == user]["item"])]["item"].to_numpy()
        pairs = np.stack([np.full(len(candidates), user), candidates], axis=1)
        scores = model.predict(pairs, verbose=0)[:, 0]
        best = candidates[np.argsort(-scores, kind="stable")[:k]]
        hits = np.isin(best, relevant)
        precision.append(hits.sum() / k)
        found = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        average_precision.append((hits * found).sum() / min(len(relevant), k))
    seconds = (time.perf_counter() - start) / len(chosen)
    means = {"precision": float(np.mean(precision)), "map": float(np.mean(average_precision))}
    return {"seconds": seconds, "users": len(users), **means}


if __name__ == "__main__":
    main()
