"""Training in blocks: against Keras' own steps on union batches, and against slow NumPy."""

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.errors import UserError
from recommender.models.core.backend import keras
from recommender.models.core.blocks import KINDS, BlockPlan, Program, train_blocks, trained_factors
from recommender.models.core.in_blocks import train_in_blocks
from recommender.models.mf import MatrixFactorization
from recommender.parallel.engine import engine
from recommender.params import Mf, Params
from recommender.params_file import load_params
from recommender.paths import TEST, TRAIN
from recommender.ranking.factors import VECTORS, Factors
from tests.parallel.helpers import some_ratings, write_split

SEED = 7


def section(**changes: Any) -> Mf:  # noqa: ANN401 - any parameter
    small = {"embedding_size": 8, "learning_rate": 0.01, "batch_size": 64, "epochs": 3, "l2": 1e-3}
    return Mf.model_validate({**load_params().train.mf.model_dump(), "optimizer": "lazy_adam", **small, **changes})


def solve(plan: BlockPlan, epochs: int) -> tuple[dict[str, list[float]], Factors]:
    known, order = np.ones(plan.shape[0], dtype=bool), np.arange(plan.shape[1], dtype=np.int32)
    with engine("train", "training", str(plan), []) as run:
        plan = replace(plan, folder=run.folder)
        logs = train_blocks(run, plan, epochs)
        states = {path.name for kind in KINDS for path in Path(run.folder).glob(f"{plan.name}-{kind}-*")}
        last = [plan.state(kind, part, epochs * plan.parts).name for kind in (0, 1) for part in range(plan.parts)]
        assert states == set(last)  # the others have been removed
        return logs, trained_factors(plan, epochs * plan.parts, known, order)


def make_plan(parts: int, train: Interactions, test: Interactions, settings: Mf, mean: float = 3.5) -> BlockPlan:
    write_split(train, train.of(np.zeros(len(train), dtype=bool)), test, parts)
    return BlockPlan("first", "", train.shape, parts, settings, SEED, mean, (str(TRAIN),), str(TEST))


def first_tables(plan: BlockPlan) -> list[NDArray[np.float32]]:
    """Return the first weights of users and items, by index."""
    tables = []
    for kind, count in enumerate(plan.shape):
        table = np.empty((plan.heights[kind] * plan.parts, plan.section.embedding_size + 1), np.float32)
        for part in range(plan.parts):
            table[part :: plan.parts] = plan.load(kind, part, 0)["weights"]
        tables.append(table[:count])
    return tables


def batches(plan: BlockPlan, train: Interactions, epoch: int, shift: int) -> list[NDArray[np.int64]]:
    """Return the rows of the ratings in each union batch of a stratum."""
    rows = []
    for user_part in range(plan.parts):
        item_part = (user_part + shift) % plan.parts
        own = (train.users % plan.parts == user_part) & (train.items % plan.parts == item_part)
        block = np.flatnonzero(own)
        rows.append(block[np.random.default_rng([SEED, epoch, user_part, item_part]).permutation(len(block))])
    size = plan.section.batch_size // plan.parts
    steps = max(math.ceil(len(block) / size) for block in rows)
    return [np.concatenate([block[step * size : (step + 1) * size] for block in rows]) for step in range(steps)]


def full_blocks(parts: int, per: int, seed: int) -> Interactions:
    """Draw as many ratings in every block: `per` of each."""
    random, users, items = np.random.default_rng(seed), 40 * parts, 24 * parts
    found = []
    for user_part in range(parts):
        for item_part in range(parts):
            cells = random.permutation(40 * 24)[:per]
            found.append((cells // 24 * parts + user_part, cells % 24 * parts + item_part))
    user, item = (np.concatenate(column).astype(np.int32) for column in zip(*found, strict=True))
    order = random.permutation(len(user))
    ratings = random.integers(1, 6, len(user)).astype(np.float32)
    return Interactions(user[order], item[order], ratings, (users, items))


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_blocks_take_the_steps_of_lazy_adam_on_their_union(parts: int) -> None:
    train = full_blocks(parts, per=5 * 64 // parts, seed=parts)
    settings, epochs = section(), 3
    plan = make_plan(parts, train, train, settings)
    users, items = first_tables(plan)
    model = MatrixFactorization(train.shape, settings, plan.mean, SEED)
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(settings.learning_rate), loss, jit_compile=True)
    model.optimizer.build(model.trainable_variables)
    model.embedding.embeddings.assign(np.concatenate([users, items])[:, :-1])
    model.user_bias.embeddings.assign(users[:, -1:])
    model.item_bias.embeddings.assign(items[:, -1:])
    pairs = np.stack([train.users, train.items], axis=1)
    for epoch in range(epochs):
        for shift in plan.strata(epoch):
            for rows in batches(plan, train, epoch, shift):
                assert len(rows) == settings.batch_size
                ratings = train.ratings[rows, None]
                model.train_on_batch(pairs[rows], ratings, sample_weight=np.ones_like(ratings))
    _, factors = solve(plan, epochs)
    table = np.asarray(model.embedding.embeddings)
    moved = np.abs(table - np.concatenate([users, items])[:, :-1]).max()
    assert moved > 0.05
    expected = {
        "user_factors": table[: train.num_users],
        "item_factors": table[train.num_users :],
        "user_bias": np.asarray(model.user_bias.embeddings)[:, 0],
        "item_bias": np.asarray(model.item_bias.embeddings)[:, 0],
    }
    for name in VECTORS:
        assert_allclose(getattr(factors, name), expected[name], rtol=0, atol=1e-6)


def slow(plan: BlockPlan, train: Interactions, test: Interactions, epochs: int) -> tuple[list[NDArray[Any]], Any]:
    """Train in float64, rating by rating; return the tables of users and items and the losses of every epoch."""
    settings, count = plan.section, 0
    tables = [table.astype(np.float64) for table in first_tables(plan)]
    moments = [(np.zeros_like(table), np.zeros_like(table)) for table in tables]
    total = int(plan.steps.sum()) * epochs
    losses: dict[str, list[float]] = {"loss": [], "val_loss": []}
    for epoch in range(epochs):
        squares = 0.0
        for shift in plan.strata(epoch):
            for rows in batches(plan, train, epoch, shift):
                gradients: dict[tuple[int, int], NDArray[Any]] = {}
                for row in rows:
                    places = (0, int(train.users[row])), (1, int(train.items[row]))
                    own, other = (tables[kind][index] for kind, index in places)
                    error = plan.mean + own[:-1] @ other[:-1] + own[-1] + other[-1] - train.ratings[row]
                    squares += error**2
                    for place, facing in zip(places, (other, own), strict=True):
                        gradient = gradients.setdefault(place, np.zeros(settings.embedding_size + 1))
                        gradient += 2 * error / settings.batch_size * np.append(facing[:-1], 1)
                rate = settings.learning_rate
                if settings.schedule == "cosine":
                    rate *= (1 + math.cos(math.pi * count / total)) / 2
                count += 1
                rate *= math.sqrt(1 - 0.999**count) / (1 - 0.9**count)
                for (kind, index), gradient in gradients.items():
                    gradient[:-1] += 2 * settings.l2 * tables[kind][index, :-1]
                    first, second = (moment[index] for moment in moments[kind])
                    first += (gradient - first) * 0.1
                    second += (gradient**2 - second) * 0.001
                    tables[kind][index] -= rate * first / (np.sqrt(second) + 1e-7)
        predicted = (tables[0][test.users, :-1] * tables[1][test.items, :-1]).sum(axis=1) + plan.mean
        predicted += tables[0][test.users, -1] + tables[1][test.items, -1]
        losses["loss"].append(squares / len(train))
        losses["val_loss"].append(float(np.mean((predicted - test.ratings) ** 2)))
    return tables, losses


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    ("parts", "shape", "changes"),
    [
        (2, (23, 31), {"batch_size": 16}),
        (3, (23, 31), {"batch_size": 6, "schedule": "cosine"}),
        (8, (23, 31), {"batch_size": 16, "l2": 0.0}),
        (12, (11, 5), {"batch_size": 24, "embedding_size": 1}),  # more parts than users and items
    ],
)
def test_slow_numpy_comes_to_the_same(parts: int, shape: tuple[int, int], changes: dict[str, Any]) -> None:
    count = min(397, shape[0] * shape[1] // 2)
    everything = some_ratings(*shape, count, seed=parts)
    held_out = np.arange(count) % 5 == 0
    train, test = everything.of(~held_out), everything.of(held_out)
    plan = make_plan(parts, train, test, section(epochs=2, **changes))
    logs, factors = solve(plan, 2)
    (users, items), losses = slow(plan, train, test, 2)
    close = functools.partial(assert_allclose, rtol=0, atol=2e-5)
    close(np.column_stack([factors.user_factors, factors.user_bias]), users)
    close(np.column_stack([factors.item_factors, factors.item_bias]), items)
    assert logs["loss"] == pytest.approx(losses["loss"], rel=1e-5)
    assert logs["val_loss"] == pytest.approx(losses["val_loss"], rel=1e-5)
    assert logs["loss"][-1] < logs["loss"][0]


@pytest.mark.usefixtures("workspace")
def test_a_block_larger_than_a_stack_is_trained_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    train = some_ratings(40, 30, 700, seed=1)
    plan = make_plan(2, train, train, section(batch_size=16))
    _, at_once = solve(plan, 2)
    monkeypatch.setattr("recommender.models.core.blocks.STACK_ROWS", 40)
    monkeypatch.setattr("recommender.models.core.blocks.program", functools.cache(Program))
    _, in_pieces = solve(plan, 2)
    for name in VECTORS:
        assert_array_equal(getattr(at_once, name), getattr(in_pieces, name))


def params(parts: int, **train: Any) -> Params:  # noqa: ANN401 - any parameters
    values = load_params().model_dump()
    values["engine"]["parts"], values["split"]["method"] = parts, "hash"
    values["train"].update({"mf": section(batch_size=16).model_dump(), **train})
    values["train"]["early_stopping"]["k"] = 5
    return Params.model_validate(values)


@pytest.mark.usefixtures("workspace")
def test_a_final_fit_learns_from_the_other_parts_too() -> None:
    whole = some_ratings(30, 20, 300, seed=2)
    number = np.arange(300) % 6
    train, validation, test = whole.of(number > 1), whole.of(number == 1), whole.of(number == 0)
    order = np.arange(20, dtype=np.int32)
    write_split(train, validation, test, 2)
    plain = train_in_blocks(params(2), order)
    again = train_in_blocks(params(2, final_fit=True), order)
    assert plain.metrics["val_loss"] == again.metrics["val_loss"]  # of the model that has not seen validation
    assert plain.metrics["val_rmse"] == pytest.approx(plain.metrics["val_loss"] ** 0.5)
    assert (plain.fold_in.trained_on, again.fold_in.trained_on) == (len(train), len(train) + len(validation))
    write_split(train.joined(validation), test, test, 2)
    assert_array_equal(train_in_blocks(params(2), order).factors.item_bias.round(4), again.factors.item_bias.round(4))


@pytest.mark.usefixtures("workspace")
def test_who_has_no_ratings_to_learn_from_has_no_vector() -> None:
    whole = some_ratings(30, 20, 300, seed=2)
    train = whole.of(whole.users != 4)
    write_split(train, whole.of(whole.users < 0), whole.of(whole.users == 4), 2)
    factors = train_in_blocks(params(2), np.arange(20, dtype=np.int32)).factors
    assert not factors.user_factors[4].any()
    assert factors.user_bias[4] == 0
    assert factors.user_factors[np.arange(30) != 4].any(axis=1).all()


@pytest.mark.usefixtures("workspace")
def test_training_that_diverges_says_so() -> None:
    whole = some_ratings(30, 20, 300, seed=2)
    whole = replace(whole, ratings=whole.ratings * np.float32(1e30))
    write_split(whole, whole.of(whole.users < 0), whole, 2)
    with pytest.raises(UserError, match=r"^training diverged in epoch 1: loss is nan; lower train.mf.learning_rate"):
        train_in_blocks(params(2), np.arange(20, dtype=np.int32))


@pytest.mark.usefixtures("workspace")
def test_ratings_in_other_blocks_are_refused() -> None:
    whole = some_ratings(30, 20, 300, seed=2)
    write_split(whole, whole.of(whole.users < 0), whole, 2)
    with pytest.raises(UserError, match=r"has 4 row groups where engine.parts: 4 makes 16; run `dvc repro`"):
        train_in_blocks(params(4), np.arange(20, dtype=np.int32))
