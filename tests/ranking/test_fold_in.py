"""Folding in against the gradients of the Keras models' own losses, and against minimisation by brute force."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from numpy.typing import NDArray

from recommender.data.interactions import Interactions
from recommender.errors import UserError
from recommender.models.core.backend import keras, tf
from recommender.models.encoded_mf import EncodedFactorization
from recommender.models.mf import MatrixFactorization
from recommender.models.softmax_mf import SoftmaxFactorization, rating_weights
from recommender.ranking import fold_in as module
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import EncodedLoss, FoldIn, RatingLoss, SoftmaxLoss, fold_in, softmax_loss
from recommender.ranking.user_kernel import UserKernel
from recommender.storage import write_arrays
from tests.models.helpers import parameters
from tests.ranking.helpers import ITEMS, make_kernel

USERS, SIZE, L2, USER_L2 = 6, 3, 3e-3, 0.02


def make_ratings() -> Interactions:
    """Half of all pairs rated; the last user rated nothing."""
    random = np.random.default_rng(1)
    users, items = np.nonzero(random.random((USERS - 1, ITEMS)) < 0.5)
    ratings = random.integers(1, 6, len(users)).astype(np.float32)
    return Interactions(users.astype(np.int32), items.astype(np.int32), ratings, (USERS, ITEMS))


KNOWN = make_ratings()
RATING = RatingLoss(len(KNOWN), L2)
ENCODED = RatingLoss(len(KNOWN), L2, bias_penalty=1.0)
RANKING = SoftmaxLoss(2.0, penalty=USERS * USER_L2)
each_loss = pytest.mark.parametrize("loss", [RATING, ENCODED, RANKING], ids=["rating", "encoded", "ranking"])


def random_factors(seed: int = 2, mean: float = 0.0) -> Factors:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 0.8, shape).astype(np.float32)

    order = np.arange(ITEMS, dtype=np.int32)
    return Factors(normal(USERS, SIZE), normal(ITEMS, SIZE), normal(USERS), normal(ITEMS), order, mean)


def gradients(model: keras.Model, inputs: Any, targets: Any) -> list[NDArray[np.float64]]:  # noqa: ANN401
    """Return the gradients of the loss that Keras minimises, for one batch."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(inputs, targets, model(inputs, training=True))
    return [np.asarray(tf.convert_to_tensor(part)) for part in tape.gradient(loss, model.trainable_variables)]


def test_ridge_leaves_no_gradient_of_the_rating_models_loss() -> None:
    folded = fold_in(random_factors(mean=3.1), RATING, KNOWN.matrix())
    section = parameters("mf", {"embedding_size": SIZE, "l2": L2}).mf
    model = MatrixFactorization((USERS, ITEMS), section, 3.1, seed=0)
    model.embedding.embeddings.assign(np.concatenate([folded.user_factors, folded.item_factors]))
    model.user_bias.embeddings.assign(folded.user_bias[:, None])
    model.item_bias.embeddings.assign(folded.item_bias[:, None])
    model.compile(loss=keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))
    pairs = np.stack([KNOWN.users, KNOWN.items], axis=1)
    vectors, user_bias, _ = gradients(model, pairs, KNOWN.ratings[:, None])
    assert_allclose(vectors[:USERS], 0, atol=2e-6)
    assert_allclose(user_bias, 0, atol=2e-6)
    assert np.abs(vectors[USERS:]).max() > 0.01  # of the items, which were not chosen
    assert np.abs(folded.user_factors[: USERS - 1]).min() > 0.01


def test_lazy_adam_penalises_a_user_only_in_batches_with_a_rating() -> None:
    dense = dataclasses.replace(RATING, l2=3e-2)
    folded, whole, plain = (
        fold_in(random_factors(), dataclasses.replace(dense, lazy_batch=batch), KNOWN.matrix())
        for batch in (1, 10**6, 0)
    )
    users, items = folded.user_factors.astype(np.float64), folded.item_factors.astype(np.float64)
    total = np.zeros((USERS, SIZE))
    for user, item, rating in zip(KNOWN.users, KNOWN.items, KNOWN.ratings, strict=True):
        error = users[user] @ items[item] + folded.user_bias[user] + folded.item_bias[item] - rating
        total[user] += 2 * error * items[item] + 2 * 3e-2 * users[user]  # all batches of one rating
    assert_allclose(total, 0, atol=2e-5)
    assert_array_equal(whole.user_factors, plain.user_factors)
    assert np.abs(whole.user_factors - folded.user_factors).max() > 0.1


def test_ridge_leaves_no_gradient_of_the_encoded_models_loss() -> None:
    inputs = np.random.default_rng(5).normal(0, 1, (ITEMS, 5)).astype(np.float32)
    encoder = np.random.default_rng(6).normal(0, 0.5, (5, SIZE)).astype(np.float32)
    start = dataclasses.replace(random_factors(mean=3.1), item_factors=inputs @ encoder)
    folded = fold_in(start, ENCODED, KNOWN.matrix())
    section = parameters("encoded_mf", {"embedding_size": SIZE, "dropout": 0.0, "l2": L2}).encoded_mf
    model = EncodedFactorization((3.1, folded.user_bias, folded.item_bias), inputs, section, len(KNOWN), 1, seed=0)
    for weight, value in zip(model.trainable_variables, (folded.user_factors, encoder), strict=True):
        weight.assign(value)
    model.compile()
    users, _ = gradients(model, np.arange(ITEMS, dtype=np.int32), KNOWN.matrix().toarray().T)
    assert_allclose(users, 0, atol=2e-6)
    # A bias is penalised as by one more rating at 0.
    errors = KNOWN.ratings - folded.pair_scores(KNOWN.users, KNOWN.items)
    assert_allclose(np.bincount(KNOWN.users, errors, USERS), folded.user_bias, atol=2e-5)


def masks(dropout: float) -> list[tuple[float, NDArray[np.float64]]]:
    """Return every outcome of dropout with its probability."""
    kept = np.array(list(itertools.product((0.0, 1.0), repeat=SIZE)))
    chances = np.where(kept == 1, 1 - dropout, dropout).prod(axis=1)
    return list(zip(chances.tolist(), kept / (1 - dropout), strict=True))


def test_ridge_minimises_the_encoded_models_loss_over_every_outcome_of_dropout() -> None:
    folded = fold_in(random_factors(mean=3.1), dataclasses.replace(ENCODED, dropout=0.4), KNOWN.matrix())
    items, bias = folded.item_factors.astype(np.float64), folded.item_bias.astype(np.float64)
    for user in range(USERS):
        own = KNOWN.users == user
        vectors, rest = items[KNOWN.items[own]], KNOWN.ratings[own] - 3.1 - bias[KNOWN.items[own]]

        def loss(point: NDArray[np.float64], vectors: Any = vectors, rest: Any = rest) -> float:  # noqa: ANN401
            errors = sum(
                chance * np.square(rest - point[-1] - (vectors * mask) @ point[:-1]).sum()
                for chance, mask in masks(0.4)
            )
            return float(errors + len(KNOWN) * L2 * np.square(point[:-1]).sum() + point[-1] ** 2)

        best = scipy.optimize.minimize(loss, np.zeros(SIZE + 1), tol=1e-10).x
        assert_allclose(np.append(folded.user_factors[user], folded.user_bias[user]), best, atol=1e-4)


def test_lbfgs_leaves_no_gradient_of_the_ranking_models_loss() -> None:
    folded = fold_in(random_factors(), RANKING, KNOWN.matrix())
    section = parameters("softmax_mf", {"embedding_size": SIZE, "dropout": 0.0, "item_l2": 0.1, "user_l2": USER_L2})
    model = SoftmaxFactorization((USERS, ITEMS), section.softmax_mf, USERS, seed=0)
    trained = folded.user_factors, folded.item_factors, folded.item_bias
    for weight, value in zip(model.trainable_variables, trained, strict=True):
        weight.assign(value)
    model.compile()
    weights = rating_weights(KNOWN, 2.0).toarray()
    vectors, items, _ = gradients(model, np.arange(USERS, dtype=np.int32), weights)
    assert_allclose(vectors, 0, atol=1e-6)
    assert np.abs(items).max() > 0.01
    assert folded.user_bias.tolist() == [0.0] * USERS
    assert np.abs(folded.user_factors[: USERS - 1]).max(axis=1).min() > 0.1


def ranking_case(seed: int) -> tuple[NDArray[np.float64], ...]:
    random = np.random.default_rng(seed)
    items = random.normal(0, 1, (ITEMS, SIZE))
    return random.normal(0, 1, SIZE), items, items**2, random.normal(0, 1, ITEMS), random.normal(0, 1, SIZE)


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_ranking_loss_is_that_of_differences(seed: int) -> None:
    vector, *rest = ranking_case(seed)

    def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        return softmax_loss(point, *rest, 0.6, 0.05)

    expected = scipy.optimize.approx_fprime(vector, lambda point: loss(point)[0], 1e-6)
    assert_allclose(loss(vector)[1], expected, atol=2e-5)


def test_the_ranking_loss_is_that_over_every_outcome_of_dropout_to_second_order() -> None:
    dropout, penalty = 0.4, 0.05
    direction, items, squares, bias, target = ranking_case(7)
    gaps = []
    for length in (0.2, 0.1, 0.05):
        vector = direction * length
        exact = 0.0
        for chance, mask in masks(dropout):
            point = vector * mask
            scores = items @ point + bias
            exact += chance * (np.log(np.exp(scores).sum()) - target @ point + penalty * point @ point)
        found = softmax_loss(vector, items, squares, bias, target, dropout, penalty)[0]
        linear = softmax_loss(vector, items, squares, bias, target, 0.0, penalty / (1 - dropout))[0]
        gaps.append((abs(found - exact), abs(linear - exact)))
    # What is left over falls with the third power of the vector's length, and without the variances with the second.
    assert gaps[0][0] < 0.1 * gaps[0][1]
    for (found, linear), (less, less_linear) in itertools.pairwise(gaps):
        assert found / less > 6
        assert 3 < linear / less_linear < 5


@each_loss
def test_models_side_by_side_each_get_a_vector_of_their_own(loss: RatingLoss | SoftmaxLoss) -> None:
    first, matrix = random_factors(2), KNOWN.matrix()
    other = dataclasses.replace(random_factors(3), item_bias=first.item_bias)
    both = fold_in(Factors.mean([first, other]), dataclasses.replace(loss, ensemble_size=2), matrix)
    alone = Factors.mean([fold_in(model, loss, matrix) for model in (first, other)])
    assert_allclose(both.user_factors, alone.user_factors, atol=2e-6)
    assert_allclose(both.user_bias, alone.user_bias, atol=2e-6)
    assert_array_equal(both.item_factors, alone.item_factors)


@each_loss
def test_a_user_gets_the_same_bits_alone_and_among_others(loss: RatingLoss | SoftmaxLoss) -> None:
    matrix = KNOWN.matrix()
    together = fold_in(random_factors(), loss, matrix)
    assert together.user_factors.dtype == together.user_bias.dtype == np.float32
    for user in range(USERS):
        alone = fold_in(random_factors(), loss, matrix[[user]])
        assert_array_equal(alone.user_factors[0], together.user_factors[user])
        assert alone.user_bias[0] == together.user_bias[user]
    assert not together.user_factors[-1].any()  # who rated nothing
    assert together.user_bias[-1] == 0
    nobody = fold_in(random_factors(), loss, sp.csr_array((0, ITEMS), dtype=np.float32))
    assert nobody.user_factors.shape == (0, SIZE)


def test_without_a_penalty_the_shortest_vector_that_fits_is_taken() -> None:
    one = sp.csr_array(np.array([[5.0] + [0.0] * (ITEMS - 1)], dtype=np.float32))
    factors = random_factors()
    folded = fold_in(factors, RatingLoss(30, 0.0), one)
    direction = np.append(factors.item_factors[0].astype(np.float64), 1)
    expected = direction * (5 - float(factors.item_bias[0])) / (direction @ direction)
    assert_allclose(np.append(folded.user_factors[0], folded.user_bias[0]), expected, atol=1e-6)
    assert folded.pair_scores(np.array([0], np.int32), np.array([0], np.int32))[0] == pytest.approx(5, abs=1e-5)


def test_models_that_nobody_can_be_added_to_are_refused() -> None:
    with pytest.raises(UserError, match=r"train\.mf\.interaction: with batch_sum .* set it to dot"):
        fold_in(dataclasses.replace(random_factors(), interaction="batch_sum"), RATING, KNOWN.matrix())
    for models in (0, 2):
        with pytest.raises(UserError, match=f"fold_in.npz: belongs to {models} models, but the vectors have 3 numbers"):
            fold_in(random_factors(), dataclasses.replace(RATING, ensemble_size=models), KNOWN.matrix())


LAZY = RatingLoss(1200, 1e-6, 0.5, 0.25, 32, 2)
PARTS = make_kernel(1, 2, full=False) | {"highest": 10.0}
FOUND: list[FoldIn] = [LAZY, SoftmaxLoss(2.0, 0.2, 0.8, 3), UserKernel(**PARTS), EncodedLoss(1200, 1e-6, **PARTS)]


def test_a_kernel_s_vectors_are_those_of_its_definition() -> None:
    kernel, known = UserKernel(**PARTS), KNOWN.matrix().toarray()
    found = fold_in(
        dataclasses.replace(random_factors(), item_factors=np.ones((ITEMS, 2), np.float32)), kernel, KNOWN.matrix()
    )
    for user, row in enumerate(known):
        x = [1.5 ** (1 + 4 * (star - 1) / 9 - 4) if star else 0 for star in row]
        profile = np.maximum(
            [sum(x[i] * PARTS["item_weights"][place, j] for place, i in enumerate((1, 4, 7))) for j in range(ITEMS)], 0
        )
        features = (np.array(x) + 2 * profile**0.75) * PARTS["item_scale"]
        features /= np.linalg.norm(features) or 1
        scale = (max(np.count_nonzero(row), 1) / 6) ** 0.2
        similar = np.exp(3 * (PARTS["anchors"].astype(float) @ features - 1)) * PARTS["anchor_scale"] * scale
        assert_allclose(found.user_factors[user], similar @ PARTS["mapping"], rtol=1e-4, atol=1e-6)
    assert not found.user_bias.any()


def test_features_of_a_kernel_are_fixed_while_the_rest_of_a_vector_is_fitted() -> None:
    start, loss = (
        random_factors(mean=3.1),
        EncodedLoss(len(KNOWN), L2, bias_penalty=1.0, **{**PARTS, "mapping": PARTS["mapping"][:, :1]}),
    )
    folded = fold_in(start, loss, KNOWN.matrix())
    own = loss.vectors(KNOWN.matrix())
    assert_allclose(folded.user_factors[:, -1:], own, rtol=1e-6)
    left = dataclasses.replace(KNOWN, ratings=KNOWN.ratings - own[KNOWN.users, 0] * start.item_factors[KNOWN.items, -1])
    rest = fold_in(dataclasses.replace(start, item_factors=start.item_factors[:, :-1]), ENCODED, left.matrix())
    assert_allclose(folded.user_factors[:, :-1], rest.user_factors, atol=1e-5)
    assert_allclose(folded.user_bias, rest.user_bias, atol=1e-5)


def test_a_kernel_of_other_vectors_is_refused() -> None:
    for kernel in (UserKernel(**PARTS), EncodedLoss(9, 0.1, **PARTS)):
        factors = dataclasses.replace(random_factors(), item_factors=np.ones((ITEMS + 1, SIZE), np.float32))
        with pytest.raises(
            UserError, match=r"fold_in\.npz: belongs to other vectors than models/factors\.npz; run `dvc repro`"
        ):
            fold_in(factors, kernel, KNOWN.matrix())


@pytest.mark.parametrize("loss", FOUND, ids=["rating", "softmax", "kernel", "encoded"])
def test_what_folds_in_loads_as_it_was_saved_from_the_same_bytes(tmp_path: Path, loss: FoldIn) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    module.save(loss, first)
    module.save(loss, second)
    assert first.read_bytes() == second.read_bytes()
    loaded = module.load(first)
    assert type(loaded) is type(loss)
    assert_equal(dataclasses.asdict(loaded), dataclasses.asdict(loss))
    assert type(getattr(loaded, "ensemble_size", 1)) is int


@pytest.mark.parametrize(
    "change",
    [
        {"loss": np.array("hinge")},
        {"loss": np.array("softmax")},  # with the numbers of the other
        {"more": np.array(1.0)},
        {"l2": np.array([1.0, 2.0])},
        {"l2": np.array("much")},
        {"trained_on": np.array(np.nan)},
    ],
    ids=lambda change: " ".join(f"{name} {value}" for name, value in change.items()),
)
def test_a_file_that_does_not_describe_a_loss_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    numbers = {name: np.array(float(value)) for name, value in dataclasses.asdict(LAZY).items()}
    write_arrays(tmp_path / "fold_in.npz", {"loss": np.array("ratings"), **numbers})
    assert module.load(tmp_path / "fold_in.npz") == LAZY
    write_arrays(tmp_path / "fold_in.npz", {"loss": np.array("ratings"), **numbers, **change})
    with pytest.raises(UserError, match=r"fold_in\.npz: does not describe a loss; run `dvc repro`"):
        module.load(tmp_path / "fold_in.npz")
    with pytest.raises(UserError, match="not found"):
        module.load(tmp_path / "nowhere.npz")
