"""The plain way to do what the pipeline does, written as one would in a notebook: what the stages are measured against.

python -m benchmarks.naive parse | train | evaluate [--users N]

Each runs in a folder where the pipeline has run, writes nothing, and prints its figures as JSON.
"""

import argparse
import json
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.lib.params import Params, load_params
from stages.lib.releases import RATING_COLUMNS, RELEASES

PROCESSED = Path("data/processed")


def main() -> None:
    """Run one part and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.naive", description=__doc__)
    parser.add_argument("part", choices=("parse", "train", "evaluate"))
    parser.add_argument("--users", type=int, default=60, help="users to evaluate")
    arguments = parser.parse_args()
    params = load_params()
    if arguments.part == "parse":
        print(json.dumps(parse(params)))
    elif arguments.part == "train":
        print(json.dumps(train(params)))
    else:
        print(json.dumps(evaluate(params, arguments.users)))


def parse(params: Params) -> dict[str, Any]:
    """Unpack the archive, read the ratings with pandas' Python engine, number ids through dictionaries, and split.

    Args:
        params: the data set and the split.

    Returns:
        ``train`` and ``test``: how many rows there are.
    """
    from sklearn.model_selection import train_test_split

    release = RELEASES[params.data.dataset]
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile("data/raw/archive.zip") as archive:
            archive.extractall(folder)
        ratings = pd.read_csv(
            Path(folder) / release.ratings,
            sep=release.layout.separator,
            names=list(RATING_COLUMNS),
            skiprows=1 if release.layout.header else 0,
            engine="python",
        )
    for column in ("user", "movie"):
        numbers = {value: number for number, value in enumerate(ratings[f"{column}_id"].unique())}
        ratings[column] = ratings[f"{column}_id"].map(numbers)
    train, test = train_test_split(ratings, test_size=params.split.test_size, random_state=params.split.seed)
    return {"train": len(train), "test": len(test)}


def train(params: Params) -> dict[str, Any]:
    """Train the same model from the same start on the same batches with Keras' own training step.

    Args:
        params: the model and its training.

    Returns:
        ``loss`` and ``val_loss`` of the last epoch.
    """
    import keras

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            uniform, seed = keras.initializers.RandomUniform, params.train.seed
            self.embedding = keras.layers.Embedding(
                users + movies,
                params.train.embedding_size,
                embeddings_initializer=keras.initializers.HeNormal(seed),
                embeddings_regularizer=keras.regularizers.L2(params.train.l2),
            )
            self.user_bias = keras.layers.Embedding(users, 1, embeddings_initializer=uniform(seed=seed + 1))
            self.movie_bias = keras.layers.Embedding(movies, 1, embeddings_initializer=uniform(seed=seed + 2))

        def call(self, inputs: Any) -> Any:  # noqa: ANN401 - a tensor
            user, movie = inputs[:, 0], inputs[:, 1]
            dot = keras.ops.sum(self.embedding(user) * self.embedding(movie + users), axis=1, keepdims=True)
            return dot + self.user_bias(user) + self.movie_bias(movie)

    users, movies = (len(pd.read_parquet(PROCESSED / f"{name}.parquet")) for name in ("users", "movies"))
    train, test = (pd.read_parquet(PROCESSED / f"{name}.parquet") for name in ("train", "test"))
    x, y = train[["user", "movie"]].to_numpy(), train["rating"].to_numpy()
    model = Model()
    model.compile(keras.optimizers.Adam(params.train.learning_rate), keras.losses.MeanSquaredError())
    # One `fit` an epoch, so that the batches are those of the train stage and the losses can be compared.
    for epoch in range(params.train.epochs):
        order = np.random.default_rng([params.train.seed, epoch + 1]).permutation(len(x))
        logs = model.fit(
            x[order],
            y[order],
            batch_size=params.train.batch_size,
            shuffle=False,
            validation_data=(test[["user", "movie"]].to_numpy(), test["rating"].to_numpy()),
            verbose=0,
        ).history
    return {name: values[-1] for name, values in logs.items()}


def evaluate(params: Params, sample: int) -> dict[str, Any]:
    """Measure some users one by one: a filter of the frames and a `predict` for each.

    Args:
        params: K and what is relevant.
        sample: how many users, drawn with a fixed seed.

    Returns:
        ``seconds`` a user; ``users`` in the test part; ``precision`` and ``map`` over the sample.
    """
    import keras

    import stages.lib.model  # noqa: F401 - registers the class

    model = keras.models.load_model("models/mf.keras")
    train, test = (pd.read_parquet(PROCESSED / f"{name}.parquet") for name in ("train", "test"))
    movies = pd.read_parquet(PROCESSED / "movies.parquet")
    k, quantile = params.evaluate.k, params.evaluate.relevance_quantile
    users = test["user"].unique()
    chosen = np.random.default_rng(0).choice(users, min(sample, len(users)), replace=False)
    model.predict(np.zeros((1, 2), np.int32), verbose=0)  # its tracing is not part of the time a user
    precision, average_precision = [], []
    start = time.perf_counter()
    for user in chosen:
        held_out = test[test["user"] == user]
        relevant = held_out[held_out["rating"] >= np.quantile(held_out["rating"], quantile)]["movie"].to_numpy()
        candidates = movies[~movies["movie"].isin(train[train["user"] == user]["movie"])]["movie"].to_numpy()
        pairs = np.stack([np.full(len(candidates), user), candidates], axis=1)
        scores = model.predict(pairs, verbose=0)[:, 0]
        best = candidates[np.argsort(-scores, kind="stable")[:k]]
        hits = np.isin(best, relevant)
        precision.append(hits.sum() / k)
        found = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        average_precision.append((hits * found).sum() / min(len(relevant), k))
    seconds = (time.perf_counter() - start) / len(chosen)
    return {
        "seconds": seconds,
        "users": len(users),
        "sample": chosen.tolist(),
        "precision": float(np.mean(precision)),
        "map": float(np.mean(average_precision)),
    }


if __name__ == "__main__":
    main()
