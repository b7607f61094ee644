"""The train stage: what it writes, that it is repeatable, and how it ends when training diverges."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from stages import train
from stages.lib.errors import UserError
from stages.lib.factors import Factors
from stages.lib.storage import read_json, read_table, write_table
from tests.conftest import files, refused, set_params, stage

OUTPUTS = ("models/factors.npz", "models/mf.keras", "metrics/train.json", "metrics/history.csv")


@pytest.fixture(scope="module")
def model(trained: Path) -> object:
    """The saved model, loaded as its users load it."""
    from stages.lib import model as known  # registers the class
    from stages.lib.backend import keras

    loaded = keras.models.load_model(trained / "models/mf.keras")
    assert isinstance(loaded, known.MatrixFactorization)
    return loaded


def test_training_again_writes_the_same_bytes(finished: Path) -> None:
    before = files(finished)
    for name in OUTPUTS:
        (finished / name).unlink()
    assert stage(finished, "train").returncode == 0
    assert files(finished) == before


def train_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Train in this process, which has TensorFlow loaded, and give what is written."""
    # Threads may be set only before TensorFlow has computed anything.
    monkeypatch.setattr("stages.train.tf.config.threading.set_intra_op_parallelism_threads", lambda _: None)
    monkeypatch.chdir(folder)
    train.keras.utils.clear_session()  # Keras numbers the names of what a process makes, and they are saved
    train.main()
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


@pytest.mark.parametrize(("interaction", "optimizer"), [("batch_sum", "adam"), ("dot", "lazy_adam")])
def test_other_kinds_of_training_are_repeatable_too(
    interaction: str, optimizer: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = (finished / "models/factors.npz").read_bytes()
    set_params(finished, train__interaction=interaction, train__optimizer=optimizer, train__epochs=2)
    first = train_here(finished, monkeypatch)
    assert train_here(finished, monkeypatch) == first
    assert first["models/factors.npz"] != default
    assert Factors.load(finished / "models/factors.npz").interaction == interaction


def test_a_new_seed_gives_another_model(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Factors.load(finished / "models/factors.npz")
    set_params(finished, train__seed=8, train__epochs=1)
    train_here(finished, monkeypatch)
    assert not np.allclose(Factors.load(finished / "models/factors.npz").users, before.users)


def test_history_is_a_csv_file_with_unix_line_ends(trained: Path) -> None:
    content = (trained / "metrics/history.csv").read_bytes()
    assert b"\r" not in content
    assert content.startswith(b"epoch,loss,val_loss\n")
    assert content.endswith(b"\n")
    table = pd.read_csv(trained / "metrics/history.csv")
    assert table["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert table["loss"].is_monotonic_decreasing
    for line in content.decode().splitlines()[1:]:
        assert all(len(number.split(".")[1]) == 6 for number in line.split(",")[1:]), line


def test_metrics_are_those_of_the_last_epoch(trained: Path) -> None:
    metrics = read_json(trained / "metrics/train.json")
    last = pd.read_csv(trained / "metrics/history.csv").iloc[-1]
    assert metrics == {"epochs": 5, "weights": (60 + 80) * 11, "loss": last["loss"], "val_loss": last["val_loss"]}


def test_factors_are_the_weights_of_the_saved_model(trained: Path, model: object) -> None:
    factors = Factors.load(trained / "models/factors.npz")
    table, user_bias, movie_bias = (
        np.asarray(getattr(model, name).embeddings) for name in ("embedding", "user_bias", "movie_bias")
    )
    assert_array_equal(factors.users, table[:60])
    assert_array_equal(factors.movies, table[60:])
    assert_array_equal(factors.user_bias, user_bias[:, 0])
    assert_array_equal(factors.movie_bias, movie_bias[:, 0])
    movie_ids = read_table(trained / "data/processed/movies.parquet")["movie_id"].to_numpy()
    assert_array_equal(factors.movie_ids, movie_ids)
    assert (factors.interaction, factors.global_mean) == ("dot", 0.0)


def test_the_saved_model_predicts_what_the_factors_predict(trained: Path, model: object) -> None:
    test = read_table(trained / "data/processed/test.parquet")
    users, movies = test["user"].to_numpy(), test["movie"].to_numpy()
    predicted = model.predict(np.stack([users, movies], axis=1), verbose=0)[:, 0]  # type: ignore[attr-defined]
    expected = Factors.load(trained / "models/factors.npz").predict(users, movies)
    assert_allclose(predicted, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01


def test_val_loss_is_the_error_of_the_factors_on_the_test_ratings_and_the_penalty(trained: Path) -> None:
    test = read_table(trained / "data/processed/test.parquet")
    factors = Factors.load(trained / "models/factors.npz")
    error = factors.predict(test["user"].to_numpy(), test["movie"].to_numpy()) - test["rating"].to_numpy()
    penalty = 1e-6 * sum(float((part.astype(np.float64) ** 2).sum()) for part in (factors.users, factors.movies))
    found = read_json(trained / "metrics/train.json")["val_loss"]
    assert found == pytest.approx(np.mean(error**2) + penalty, abs=2e-5)


def test_the_saved_model_has_no_date_and_members_in_order(trained: Path) -> None:
    with zipfile.ZipFile(trained / "models/mf.keras") as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert "date_saved" not in json.loads(archive.read("metadata.json"))


def set_ratings(path: Path, rating: float) -> None:
    table = read_table(path)
    ratings = pa.array(np.full(len(table), rating, dtype=np.float32))
    write_table(path, table.set_column(table.column_names.index("rating"), "rating", ratings))


def test_diverging_training_is_refused_and_leaves_nothing(finished: Path) -> None:
    for name in OUTPUTS:
        (finished / name).unlink()
    set_ratings(finished / "data/processed/train.parquet", 1e25)
    set_params(finished, train__learning_rate=1.0)
    before = files(finished)
    refused(stage(finished, "train"), "training diverged in epoch 1", "lower train.learning_rate (now 1)")
    assert files(finished) == before


def test_diverging_on_the_test_ratings_leaves_earlier_outputs_alone(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_ratings(finished / "data/processed/test.parquet", 1e30)
    before = files(finished)
    with pytest.raises(UserError, match="training diverged"):
        train_here(finished, monkeypatch)
    assert files(finished) == before


def test_the_largest_learning_rate_still_trains_to_finite_numbers(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(finished, train__learning_rate=1.0, train__embedding_size=64, train__epochs=2)
    train_here(finished, monkeypatch)
    assert Factors.load(finished / "models/factors.npz").users.shape == (60, 64)
