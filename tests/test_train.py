"""The train stage: what it writes, that it is repeatable, and how it ends when training diverges."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.synthetic import make_ratings
from stages import split, train
from stages.lib.errors import UserError
from stages.lib.factors import Factors
from stages.lib.heldout import HeldOut, evaluate
from stages.lib.params import load_params
from stages.lib.ratings import TEST, TRAIN, VALIDATION, Ratings
from stages.lib.storage import read_json, read_table, write_table
from stages.lib.topk import top_k
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


SOFTMAX = {
    "train__loss": "softmax",
    "train__schedule": "cosine",
    "train__embedding_size": 16,
    "train__learning_rate": 0.02,
    "train__batch_size": 25,
    "train__epochs": 6,
    "train__l2": 2e-3,
}
ENCODED = {
    "train__movie_vectors": "encoded",
    "train__global_mean": True,
    "train__schedule": "cosine",
    "train__embedding_size": 8,
    "train__learning_rate": 0.01,
    "train__batch_size": 32,
    "train__epochs": 6,
}
COSINE = {"train__global_mean": True, "train__schedule": "cosine", "train__learning_rate": 0.01, "train__epochs": 6}
KINDS = {"softmax": SOFTMAX, "encoded": ENCODED, "free": COSINE}


@pytest.fixture
def validated(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` with a validation part."""
    set_params(finished, split__validation_size=0.2)
    monkeypatch.chdir(finished)
    split.main()
    return finished


def metrics_of(written: dict[str, bytes]) -> dict[str, float]:
    metrics: dict[str, float] = json.loads(written["metrics/train.json"])
    return metrics


def history_of(written: dict[str, bytes]) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(written["metrics/history.csv"]))


def on_validation(factors: Factors) -> float:
    parts = (Ratings.read(path) for path in (VALIDATION, TRAIN))
    return float(evaluate(factors, HeldOut.of(*parts, 0.85), 25)[0].map[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_training_learns_is_repeatable_and_saves_a_model_that_predicts_alike(
    kind: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(finished, **KINDS[kind])
    first = train_here(finished, monkeypatch)
    assert train_here(finished, monkeypatch) == first
    history = history_of(first)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert set(history) == {"epoch", "loss", "val_loss"}
    factors = Factors.load(finished / "models/factors.npz")
    loaded = train.keras.models.load_model(finished / "models/mf.keras")
    test = Ratings.read(TEST)
    pairs = np.stack([test.users, test.movies], axis=1)
    assert_allclose(loaded.predict(pairs, verbose=0)[:, 0], factors.predict(test.users, test.movies), atol=1e-4)
    mean = Ratings.read(TRAIN).values.mean()
    assert factors.global_mean == pytest.approx(0 if kind == "softmax" else mean, rel=1e-6)


def test_a_softmax_ranks_better_than_popularity_where_taste_is_planted(finished: Path) -> None:
    users, movies, values = make_ratings(400, 200, 20_000, taste=4.0)
    random = np.random.default_rng(1)
    held_out = random.random(len(users)) < 0.2
    known, test = (
        Ratings(users[part] - 1, movies[part] - 1, values[part], (400, 200)) for part in (~held_out, held_out)
    )
    set_params(finished, **{**SOFTMAX, "train__embedding_size": 32, "train__epochs": 30})
    params = load_params(finished / "params.yaml").train
    job = train.prepare(known, test, np.arange(200, dtype=np.int32), params, 7)
    train.fit(job, params, params.epochs)
    measured = HeldOut.of(test, known, 0.85)
    ours, _ = evaluate(job.factors(), measured, 25)
    popular = np.tile(np.bincount(known.movies, minlength=200).astype(float), (400, 1))
    lists, _ = top_k(measured.users, measured.seen, 25, lambda users, _: popular[users])
    assert ours.map[-1] > 1.2 * measured.measure(lists).map[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_test_ratings_influence_neither_training_nor_choice(
    kind: str, validated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"patience": 2, "metric": "map", "k": 25, "relevance_quantile": 0.85}
    set_params(validated, **KINDS[kind], train__early_stopping=stopping)
    before = train_here(validated, monkeypatch)
    set_ratings(validated / "data/processed/test.parquet", 1.0)
    assert train_here(validated, monkeypatch) == before
    # Ratings of validation, in contrast, decide.
    set_ratings(validated / "data/processed/validation.parquet", 1.0)
    assert train_here(validated, monkeypatch)["metrics/history.csv"] != before["metrics/history.csv"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_validation_part_test_ratings_are_only_reported(
    kind: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_params(finished, **KINDS[kind])
    before = train_here(finished, monkeypatch)
    set_ratings(finished / "data/processed/test.parquet", 1.0)
    after = train_here(finished, monkeypatch)
    assert after["models/factors.npz"] == before["models/factors.npz"]
    assert history_of(after)["loss"].equals(history_of(before)["loss"])
    assert not history_of(after)["val_loss"].equals(history_of(before)["val_loss"])


def test_early_stopping_keeps_the_best_epoch(validated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rate far too high, so that later epochs are worse.
    stopping = {"patience": 3, "metric": "map", "k": 25, "relevance_quantile": 0.85}
    values = {**SOFTMAX, "train__learning_rate": 0.3, "train__schedule": "constant", "train__epochs": 60}
    set_params(validated, **values, train__early_stopping=stopping)
    written = train_here(validated, monkeypatch)
    history, metrics = history_of(written), metrics_of(written)
    best = int(history["val_map"].idxmax())
    assert len(history) == best + 1 + 3 < 60
    assert metrics["epochs"] == best + 1
    assert metrics["val_map"] == history["val_map"][best]
    assert on_validation(Factors.load()) == pytest.approx(metrics["val_map"], abs=1e-6)


def test_patience_0_measures_validation_once_and_trains_on(validated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(validated, **SOFTMAX)
    written = train_here(validated, monkeypatch)
    assert set(history_of(written)) == {"epoch", "loss", "val_loss"}
    metrics = metrics_of(written)
    assert metrics["epochs"] == 6
    assert on_validation(Factors.load()) == pytest.approx(metrics["val_map"], abs=1e-6)


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_early_stopping_by_an_error_looks_for_the_lowest(
    metric: str, validated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"patience": 2, "metric": metric, "k": 5, "relevance_quantile": 0.85}
    set_params(validated, **{**ENCODED, "train__epochs": 15}, train__early_stopping=stopping)
    written = train_here(validated, monkeypatch)
    assert metrics_of(written)["epochs"] == int(history_of(written)[f"val_{metric}"].idxmin()) + 1


def test_the_final_fit_is_a_fit_of_all_that_is_not_test_with_the_best_number_of_epochs(
    validated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"patience": 2, "metric": "map", "k": 25, "relevance_quantile": 0.85}
    set_params(validated, **SOFTMAX, train__early_stopping=stopping, train__final_fit=True)
    written = train_here(validated, monkeypatch)
    final, epochs = Factors.load(), int(metrics_of(written)["epochs"])

    set_params(validated, split__validation_size=0, train__early_stopping={**stopping, "patience": 0})
    set_params(validated, train__final_fit=False)
    split.main()
    job_parts = train.Parts(*(Ratings.read(path) for path in (TRAIN, VALIDATION, TEST)))
    params = load_params().train
    job = train.prepare(job_parts.train, job_parts.test, final.movie_ids, params, params.seed)
    train.fit(job, params, epochs)
    assert_array_equal(job.factors().users, final.users)
    assert_array_equal(job.factors().movies, final.movies)


def test_several_models_score_as_their_mean(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for seed in (7, 7 + train.SEED_STEP):
        set_params(finished, **SOFTMAX, train__seed=seed)
        train_here(finished, monkeypatch)
        parts.append(Factors.load())
    set_params(finished, train__seed=7, train__models=2)
    train_here(finished, monkeypatch)
    both = Factors.load()
    users, movies = np.arange(60, dtype=np.int32), np.arange(60, dtype=np.int32)
    expected = (parts[0].scores(users, movies) + parts[1].scores(users, movies)) / 2
    assert_allclose(both.scores(users, movies), expected, atol=1e-5)
    assert both.users.shape == (60, 32)
    assert not np.allclose(parts[0].users, parts[1].users)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("early_stopping", {"patience": 1, "metric": "map", "k": 25, "relevance_quantile": 0.85}),
        ("final_fit", True),
    ],
)
def test_what_needs_a_validation_part_is_refused_without_one(name: str, value: object, finished: Path) -> None:
    set_params(finished, **{f"train__{name}": value})
    before = files(finished)
    refused(stage(finished, "train"), f"train.{name}", "needs a validation part; set split.validation_size above 0")
    assert files(finished) == before


def test_lists_longer_than_the_catalogue_are_refused(validated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(
        validated,
        train__early_stopping={"patience": 1, "metric": "map", "k": 1000, "relevance_quantile": 0.85},
    )
    with pytest.raises(UserError, match=r"train\.early_stopping\.k: must be at most 80"):
        train_here(validated, monkeypatch)


@pytest.mark.parametrize("kind", ["softmax", "encoded"])
def test_diverging_is_refused_for_every_kind(kind: str, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_ratings(finished / "data/processed/train.parquet", 1e25)
    set_params(finished, **KINDS[kind])
    before = files(finished)
    with pytest.raises(UserError, match="training diverged"):
        train_here(finished, monkeypatch)
    assert files(finished) == before


def test_other_versions_than_the_locked_are_told_in_one_line(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    locked = "\n".join(f"{name}=={train.version(name)} \\\n    --hash=sha256:00" for name in train.DECISIVE)
    Path("requirements.lock").write_text(locked)
    train.warn_of_other_versions()
    assert capsys.readouterr().err == ""
    Path("requirements.lock").write_text(locked.replace(f"keras=={train.version('keras')}", "keras==3.0.0"))
    train.warn_of_other_versions()
    assert capsys.readouterr().err == (
        "warning: results may not be those of requirements.lock: "
        f"keras {train.version('keras')} in place of 3.0.0 is installed\n"
    )
    Path("requirements.lock").unlink()
    train.warn_of_other_versions()
    assert capsys.readouterr().err == ""
