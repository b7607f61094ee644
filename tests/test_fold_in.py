"""Folding in against the gradients of the Keras models' own losses, and against minimisation by brute force."""

import copy
import dataclasses
import functools
import itertools
import operator
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import yaml
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from stages.lib.backend import keras, tf
from stages.lib.encoded import EncodedFactorization
from stages.lib.errors import UserError
from stages.lib.factors import Factors
from stages.lib.fold_in import fold_in, ranking_loss
from stages.lib.model import MatrixFactorization
from stages.lib.params import PATH, Params, Train
from stages.lib.ratings import Ratings
from stages.lib.softmax import SoftmaxFactorization
from stages.train import rating_weights
from tests.conftest import REPOSITORY

USERS, MOVIES, SIZE = 6, 12, 3
PARAMS = yaml.safe_load((REPOSITORY / PATH).read_text())


def parameters(**values: object) -> Train:
    """Give the training parameters with some of them set: softmax__dropout=0.5 sets train.softmax.dropout."""
    params = copy.deepcopy(PARAMS)
    for name, value in {"embedding_size": SIZE, **values}.items():
        *sections, key = name.split("__")
        functools.reduce(operator.getitem, sections, params["train"])[key] = value
    return Params.model_validate(params).train


RATING = parameters(l2=3e-3)
ENCODED = parameters(movie_vectors="encoded", global_mean=True, l2=3e-3, encoded__dropout=0)
RANKING = parameters(loss="softmax", batch_size=USERS, softmax__dropout=0, softmax__user_l2=0.02)


def ratings() -> Ratings:
    """Half of all pairs rated; the last user rated nothing."""
    random = np.random.default_rng(1)
    users, movies = np.nonzero(random.random((USERS - 1, MOVIES)) < 0.5)
    values = random.integers(1, 6, len(users)).astype(np.float32)
    return Ratings(users.astype(np.int32), movies.astype(np.int32), values, (USERS, MOVIES))


def made_up(seed: int = 2, mean: float = 0.0) -> Factors:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 0.8, shape).astype(np.float32)

    ids = np.arange(MOVIES, dtype=np.int32)
    return Factors(normal(USERS, SIZE), normal(MOVIES, SIZE), normal(USERS), normal(MOVIES), ids, mean)


def gradients(model: keras.Model, inputs: Any, targets: Any) -> list[NDArray[np.float64]]:  # noqa: ANN401
    """Give the gradients of the loss that Keras minimises, for one batch."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(inputs, targets, model(inputs, training=True))
    return [np.asarray(tf.convert_to_tensor(part)) for part in tape.gradient(loss, model.trainable_variables)]


def rating_model(factors: Factors, l2: float) -> MatrixFactorization:
    model = MatrixFactorization(USERS, MOVIES, SIZE, l2, global_mean=factors.global_mean)
    model.build()
    model.embedding.embeddings.assign(np.concatenate([factors.users, factors.movies]))
    model.user_bias.embeddings.assign(factors.user_bias[:, None])
    model.movie_bias.embeddings.assign(factors.movie_bias[:, None])
    model.compile(loss=keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))
    return model


def test_ridge_leaves_no_gradient_of_the_rating_models_loss() -> None:
    known = ratings()
    folded = fold_in(made_up(mean=3.1), known.matrix(), RATING, len(known.values))
    model = rating_model(folded, RATING.l2)
    pairs = np.stack([known.users, known.movies], axis=1)
    vectors, user_bias, _ = gradients(model, pairs, known.values[:, None])
    assert_allclose(vectors[:USERS], 0, atol=2e-6)
    assert_allclose(user_bias, 0, atol=2e-6)
    assert np.abs(vectors[USERS:]).max() > 0.01  # of the movies, which were not chosen
    assert np.abs(folded.users[: USERS - 1]).min() > 0.01


def test_lazy_adam_penalises_a_user_only_in_batches_with_a_rating() -> None:
    known = ratings()
    count = len(known.values)
    params = parameters(l2=3e-2, optimizer="lazy_adam", batch_size=1)
    folded = fold_in(made_up(), known.matrix(), params, count)
    users, movies = folded.users.astype(np.float64), folded.movies.astype(np.float64)
    total = np.zeros((USERS, SIZE))
    for user, movie, value in zip(known.users, known.movies, known.values, strict=True):
        error = users[user] @ movies[movie] + folded.user_bias[user] + folded.movie_bias[movie] - value
        total[user] += 2 * error * movies[movie] + 2 * params.l2 * users[user]  # all batches of one rating
    assert_allclose(total, 0, atol=2e-5)
    whole = fold_in(made_up(), known.matrix(), parameters(l2=3e-2, optimizer="lazy_adam", batch_size=10**6), count)
    dense = fold_in(made_up(), known.matrix(), parameters(l2=3e-2), count)
    assert_array_equal(whole.users, dense.users)
    assert np.abs(whole.users - folded.users).max() > 0.1


def test_ridge_leaves_no_gradient_of_the_encoded_models_loss() -> None:
    known = ratings()
    count = len(known.values)
    start = made_up(mean=3.1)
    # The movies' vectors come from these residuals: the identity, so that the encoder holds them.
    model = EncodedFactorization(USERS, MOVIES, SIZE, count, 1, 3.1, l2=ENCODED.l2)
    residuals = np.random.default_rng(5).normal(0, 1, (MOVIES, USERS)).astype(np.float32)
    encoder = np.random.default_rng(6).normal(0, 0.5, (USERS, SIZE)).astype(np.float32)
    start = dataclasses.replace(start, movies=residuals @ encoder)
    folded = fold_in(start, known.matrix(), ENCODED, count)
    for weight, value in zip(
        model.trainable_variables, (folded.users, encoder, folded.user_bias, folded.movie_bias), strict=True
    ):
        weight.assign(value)
    model.compile()
    inputs = np.arange(MOVIES, dtype=np.int32), residuals
    users, _, user_bias, _ = gradients(model, inputs, known.matrix().toarray().T)
    assert_allclose(users, 0, atol=2e-6)
    assert_allclose(user_bias, 0, atol=2e-6)


def masks(dropout: float) -> list[tuple[float, NDArray[np.float64]]]:
    """Give every outcome of dropout with its probability."""
    kept = np.array(list(itertools.product((0.0, 1.0), repeat=SIZE)))
    chances = np.where(kept == 1, 1 - dropout, dropout).prod(axis=1)
    return list(zip(chances.tolist(), kept / (1 - dropout), strict=True))


def test_ridge_minimises_the_encoded_models_loss_over_every_outcome_of_dropout() -> None:
    known = ratings()
    params = parameters(movie_vectors="encoded", global_mean=True, l2=3e-3, encoded__dropout=0.4)
    folded = fold_in(made_up(mean=3.1), known.matrix(), params, len(known.values))
    movies, bias = folded.movies.astype(np.float64), folded.movie_bias.astype(np.float64)
    for user in range(USERS):
        own = known.users == user
        vectors, rest = movies[known.movies[own]], known.values[own] - 3.1 - bias[known.movies[own]]

        def loss(point: NDArray[np.float64], vectors: Any = vectors, rest: Any = rest) -> float:  # noqa: ANN401
            errors = sum(
                chance * np.square(rest - point[-1] - (vectors * mask) @ point[:-1]).sum()
                for chance, mask in masks(0.4)
            )
            return float(errors + len(known.values) * params.l2 * np.square(point[:-1]).sum() + point[-1] ** 2)

        best = scipy.optimize.minimize(loss, np.zeros(SIZE + 1), tol=1e-10).x
        assert_allclose(np.append(folded.users[user], folded.user_bias[user]), best, atol=1e-4)


def test_lbfgs_leaves_no_gradient_of_the_ranking_models_loss() -> None:
    known = ratings()
    folded = fold_in(made_up(), known.matrix(), RANKING, len(known.values))
    model = SoftmaxFactorization(USERS, MOVIES, SIZE, USERS, 0.0, l2=0.1, user_l2=RANKING.softmax.user_l2)
    for weight, value in zip(model.trainable_variables, (folded.users, folded.movies, folded.movie_bias), strict=True):
        weight.assign(value)
    model.compile()
    weights = rating_weights(known, RANKING.softmax.rating_base).toarray()
    vectors, movies, _ = gradients(model, np.arange(USERS, dtype=np.int32), weights)
    assert_allclose(vectors, 0, atol=1e-6)
    assert np.abs(movies).max() > 0.01
    assert folded.user_bias.tolist() == [0.0] * USERS
    assert np.abs(folded.users[: USERS - 1]).max(axis=1).min() > 0.1


def ranking_case(seed: int) -> tuple[NDArray[np.float64], ...]:
    random = np.random.default_rng(seed)
    movies = random.normal(0, 1, (MOVIES, SIZE))
    return random.normal(0, 1, SIZE), movies, movies**2, random.normal(0, 1, MOVIES), random.normal(0, 1, SIZE)


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_ranking_loss_is_that_of_differences(seed: int) -> None:
    vector, *rest = ranking_case(seed)

    def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        return ranking_loss(point, *rest, 0.6, 0.05)

    expected = scipy.optimize.approx_fprime(vector, lambda point: loss(point)[0], 1e-6)
    assert_allclose(loss(vector)[1], expected, atol=2e-5)


def test_the_ranking_loss_is_that_over_every_outcome_of_dropout_to_second_order() -> None:
    dropout, penalty = 0.4, 0.05
    direction, movies, squares, bias, target = ranking_case(7)
    gaps = []
    for length in (0.2, 0.1, 0.05):
        vector = direction * length
        exact = 0.0
        for chance, mask in masks(dropout):
            point = vector * mask
            scores = movies @ point + bias
            exact += chance * (np.log(np.exp(scores).sum()) - target @ point + penalty * point @ point)
        found = ranking_loss(vector, movies, squares, bias, target, dropout, penalty)[0]
        linear = ranking_loss(vector, movies, squares, bias, target, 0.0, penalty / (1 - dropout))[0]
        gaps.append((abs(found - exact), abs(linear - exact)))
    # What is left over falls with the third power of the vector's length, and without the variances with the second.
    assert gaps[0][0] < 0.1 * gaps[0][1]
    for (found, linear), (less, less_linear) in itertools.pairwise(gaps):
        assert found / less > 6
        assert 3 < linear / less_linear < 5


@pytest.mark.parametrize("params", [RATING, ENCODED, RANKING])
def test_models_side_by_side_each_get_a_vector_of_their_own(params: Train) -> None:
    known, first = ratings(), made_up(2)
    other = dataclasses.replace(made_up(3), movie_bias=first.movie_bias)
    both = fold_in(Factors.mean([first, other]), known.matrix(), params.model_copy(update={"models": 2}), 30)
    alone = Factors.mean([fold_in(model, known.matrix(), params, 30) for model in (first, other)])
    assert_allclose(both.users, alone.users, atol=2e-6)
    assert_allclose(both.user_bias, alone.user_bias, atol=2e-6)
    assert_array_equal(both.movies, alone.movies)


@pytest.mark.parametrize("params", [RATING, ENCODED, RANKING])
def test_a_person_gets_the_same_bits_alone_and_in_company(params: Train) -> None:
    matrix = ratings().matrix()
    together = fold_in(made_up(), matrix, params, 30)
    assert together.users.dtype == together.user_bias.dtype == np.float32
    for user in range(USERS):
        alone = fold_in(made_up(), matrix[[user]], params, 30)
        assert_array_equal(alone.users[0], together.users[user])
        assert alone.user_bias[0] == together.user_bias[user]
    assert not together.users[-1].any()  # who rated nothing
    assert together.user_bias[-1] == 0
    nobody = fold_in(made_up(), sp.csr_array((0, MOVIES), dtype=np.float32), params, 30)
    assert nobody.users.shape == (0, SIZE)


def test_without_a_penalty_the_shortest_vector_that_fits_is_taken() -> None:
    one = sp.csr_array(np.array([[5.0] + [0.0] * (MOVIES - 1)], dtype=np.float32))
    factors = made_up()
    folded = fold_in(factors, one, parameters(l2=0.0), 30)
    rest = 5 - float(factors.movie_bias[0])
    direction = np.append(factors.movies[0].astype(np.float64), 1)
    expected = direction * rest / (direction @ direction)
    assert_allclose(np.append(folded.users[0], folded.user_bias[0]), expected, atol=1e-6)
    assert folded.scores(np.array([0], np.int32), np.array([0], np.int32))[0] == pytest.approx(5, abs=1e-5)


def test_models_that_nobody_can_be_added_to_are_refused() -> None:
    matrix = ratings().matrix()
    with pytest.raises(UserError, match=r"train\.interaction: with batch_sum .* set it to dot"):
        fold_in(dataclasses.replace(made_up(), interaction="batch_sum"), matrix, RATING, 30)
    with pytest.raises(UserError, match=r"holds vectors of 3 numbers, but params\.yaml says 4 .* times 1"):
        fold_in(made_up(), matrix, parameters(embedding_size=4), 30)
    with pytest.raises(UserError, match=r"says 3 .* times 2"):
        fold_in(made_up(), matrix, parameters(models=2), 30)
