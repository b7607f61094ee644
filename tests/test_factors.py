"""Files of factors, and predictions from them."""

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from stages.lib.errors import UserError
from stages.lib.factors import Factors
from stages.lib.storage import write_arrays

FIELDS = ("users", "movies", "user_bias", "movie_bias", "movie_ids")


def make_factors(users: int = 5, movies: int = 7, size: int = 3, **others: Any) -> Factors:  # noqa: ANN401
    random = np.random.default_rng(2)
    parts = [random.normal(0, 1, shape).astype(np.float32) for shape in ((users, size), (movies, size), users, movies)]
    return Factors(*parts, random.permutation(99)[:movies].astype(np.int32), **others)


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
def test_saved_factors_load_as_they_were(tmp_path: Path, interaction: str) -> None:
    factors = make_factors(interaction=interaction, global_mean=3.25)
    factors.save(tmp_path / "factors.npz")
    loaded = Factors.load(tmp_path / "factors.npz")
    for name in FIELDS:
        before, after = getattr(factors, name), getattr(loaded, name)
        assert_array_equal(after, before)
        assert after.dtype == before.dtype
    assert (loaded.interaction, loaded.global_mean) == (interaction, 3.25)


def test_the_same_factors_are_saved_as_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_factors().save(tmp_path / "first.npz")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    make_factors().save(tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    make_factors(global_mean=1.0).save(tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() != (tmp_path / "second.npz").read_bytes()


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path) as loaded:
        return dict(loaded)


Change = Callable[[dict[str, Any]], None]

CHANGES: dict[str, Change] = {
    **{f"no {name}": lambda arrays, name=name: arrays.pop(name) for name in (*FIELDS, "global_mean", "interaction")},
    "flat users": lambda arrays: arrays.update(users=arrays["users"].ravel()),
    "vectors of two lengths": lambda arrays: arrays.update(users=arrays["users"][:, :2]),
    "a user without a bias": lambda arrays: arrays.update(user_bias=arrays["user_bias"][1:]),
    "a movie without a bias": lambda arrays: arrays.update(movie_bias=arrays["movie_bias"][1:]),
    "biases in a column": lambda arrays: arrays.update(movie_bias=arrays["movie_bias"][:, None]),
    "a movie without an id": lambda arrays: arrays.update(movie_ids=arrays["movie_ids"][1:]),
    "two global means": lambda arrays: arrays.update(global_mean=np.zeros(2, dtype=np.float32)),
    "a global mean in words": lambda arrays: arrays.update(global_mean=np.array("3.5")),
    "float64 users": lambda arrays: arrays.update(users=arrays["users"].astype(np.float64)),
    "float64 biases": lambda arrays: arrays.update(movie_bias=arrays["movie_bias"].astype(np.float64)),
    "ids in words": lambda arrays: arrays.update(movie_ids=arrays["movie_ids"].astype(str)),
    "another interaction": lambda arrays: arrays.update(interaction=np.array("cosine")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "factors.npz"
    make_factors().save(path)
    arrays = arrays_of(path)
    change(arrays)
    write_arrays(path, arrays)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*not a file of factors.*dvc repro"):
        Factors.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["users", "movies", "user_bias", "movie_bias", "global_mean"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    path = tmp_path / "factors.npz"
    make_factors().save(path)
    arrays = arrays_of(path)
    arrays[name][(-1,) * arrays[name].ndim] = value
    write_arrays(path, arrays)
    with pytest.raises(UserError, match=r"NaN or infinite.*learning_rate"):
        Factors.load(path)


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Say what loading does."""
        return (Path.touch, (Path("exploded"),))


def test_pickled_arrays_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "factors.npz"
    make_factors().save(path)
    np.savez(path, allow_pickle=True, **{**arrays_of(path), "users": np.array([Bomb()], dtype=object)})
    with pytest.raises(UserError, match=r"cannot be read.*dvc checkout"):
        Factors.load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="cannot be read"):
        Factors.load(path)
    assert not Path("exploded").exists()


def test_a_missing_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "factors.npz"
    with pytest.raises(UserError, match="not found; run `dvc repro`"):
        Factors.load(path)
    make_factors().save(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo("movies.npy").header_offset + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        Factors.load(path)


def test_a_prediction_is_the_mean_the_biases_and_the_dot_product() -> None:
    factors = Factors(
        np.array([[1, 2], [3, 4]], dtype=np.float32),
        np.array([[5, 6], [7, 8], [0, 1]], dtype=np.float32),
        np.array([0.5, -0.5], dtype=np.float32),
        np.array([0.25, 0, -0.25], dtype=np.float32),
        np.array([3, 1, 2], dtype=np.int32),
        global_mean=3.0,
    )
    users, movies = np.array([0, 1, 1], dtype=np.int32), np.array([0, 1, 2], dtype=np.int32)
    expected = [3 + 0.5 + 0.25 + 17, 3 - 0.5 + 53, 3 - 0.5 - 0.25 + 4]
    assert factors.predict(users, movies).tolist() == expected
    assert factors.scores(users, movies).tolist() == expected


def test_batch_sum_predicts_the_sum_of_every_32_pairs_in_order() -> None:
    factors = make_factors(interaction="batch_sum")
    random = np.random.default_rng(4)
    users, movies = random.integers(0, 5, 70).astype(np.int32), random.integers(0, 7, 70).astype(np.int32)
    dots = np.einsum("nd,nd->n", factors.users[users].astype(np.float64), factors.movies[movies].astype(np.float64))
    sums = np.concatenate([np.full(32, dots[:32].sum()), np.full(32, dots[32:64].sum()), np.full(6, dots[64:].sum())])
    expected = sums + factors.user_bias[users].astype(np.float64) + factors.movie_bias[movies].astype(np.float64)
    assert_allclose(factors.predict(users, movies), expected, rtol=0, atol=1e-12)
    nobody = np.empty(0, dtype=np.int32)
    assert factors.predict(nobody, nobody).shape == (0,)
