"""Vectors for new people: the minimum of the model's own loss over a user's vector and bias, the movies fixed."""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from stages.lib.errors import UserError
from stages.lib.factors import PATH, Factors
from stages.lib.params import Train
from stages.lib.storage import CURE

if TYPE_CHECKING:
    import scipy.sparse as sp

Vector = NDArray[np.float64]
Solver = Callable[[NDArray[np.int32], Vector], tuple[Vector, float]]  # movies and ratings to a vector and a bias


def fold_in(factors: Factors, ratings: "sp.csr_array", params: Train, trained_on: int) -> Factors:
    """Make the users that the ratings of new people are best explained by, with the movies of a trained model.

    The vector and the bias minimise what training minimised, in expectation over its batches and its dropout, as a
    function of one user: see `rating_solver` and `ranking_solver`. Models of several seeds, whose vectors stand side by
    side, each get a vector of their own; of their movie biases only the mean is known, which takes the place of each.

    Args:
        factors: the trained model.
        ratings: (people, movies) float32, in stars; what is not stored is not rated. Who has rated nothing gets zeros.
        params: what the model was trained with.
        trained_on: how many ratings it was trained on, which the penalty of a rating model is proportional to.

    Returns:
        The same movies with these people as users, ready to list and to predict.

    Raises:
        UserError: the model is of another size than the parameters say, or adds up over a batch what belongs to others.
    """
    size, models = params.embedding_size, params.models
    if factors.interaction != "dot":
        raise UserError(
            "train.interaction: with batch_sum what a person is predicted depends on everybody else in the batch, so "
            "that nobody can be added; set it to dot and run `dvc repro`"
        )
    if factors.movies.shape[1] != size * models:
        raise UserError(
            f"{PATH}: holds vectors of {factors.movies.shape[1]} numbers, but params.yaml says {size} "
            f"(train.embedding_size) times {models} (train.models); {CURE}"
        )
    root = models**0.5
    solvers = []
    for block in np.split(factors.movies.astype(np.float64) * root, models, axis=1):
        if params.loss == "softmax":
            solvers.append(ranking_solver(np.ascontiguousarray(block), factors, params))
        else:
            solvers.append(rating_solver(np.ascontiguousarray(block), factors, params, trained_on))

    def one(person: int) -> tuple[Vector, float]:
        row = slice(ratings.indptr[person], ratings.indptr[person + 1])
        solved = [solve(ratings.indices[row], ratings.data[row].astype(np.float64)) for solve in solvers]
        return np.concatenate([vector for vector, _ in solved]) / root, float(np.mean([bias for _, bias in solved]))

    people = range(ratings.shape[0])
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(one, people))
    vectors = np.array([vector for vector, _ in found], dtype=np.float32).reshape(len(people), size * models)
    return dataclasses.replace(factors, users=vectors, user_bias=np.array([bias for _, bias in found], np.float32))


def rating_solver(movies: NDArray[np.float64], factors: Factors, params: Train, trained_on: int) -> Solver:
    """Make the solver for a model trained on squared errors: one ridge system a person.

    A step of training minimises the mean of the squared errors over a batch, plus l2 times all squared vectors: Keras
    adds the whole penalty to the loss of each batch, not once an epoch. The mean over a batch is in expectation that
    over all N ratings; times N, a person with vector p and bias b who rated the movies i has this share in it:

        sum_i (r_i - mean - b - b_i - p·q_i)^2  +  N l2 |p|^2

    The penalty grows with everybody's ratings, not with the person's own, and the bias has none. Two kinds of training
    differ. A step of ``lazy_adam`` penalises only the users in its batch: N l2 is multiplied by the probability that a
    batch, drawn without replacement, holds any of the person's ratings. Where vectors are ``encoded``, the bias is
    penalised with b^2, and dropout of the share d of q_i adds d / (1 - d) sum_i sum_k p_k^2 q_ik^2 in expectation
    (Srivastava et al., Dropout, JMLR 2014, section 9.1).

    Args:
        movies: (movies, size) float64, the vectors of one model.
        factors: the model, for its biases and its mean.
        params: what it was trained with.
        trained_on: how many ratings it was trained on, N above.

    Returns:
        A function of movies and their ratings, which gives the vector and the bias. Where the minimum is not unique, as
        without a penalty, they are the shortest.
    """
    encoded = params.movie_vectors == "encoded"
    dropout = params.encoded.dropout if encoded else 0.0
    bias_penalty = 1.0 if encoded else 0.0

    def solve(rated: NDArray[np.int32], values: Vector) -> tuple[Vector, float]:
        penalty = params.l2 * trained_on
        if params.optimizer == "lazy_adam":
            left = trained_on - np.arange(min(len(rated), trained_on))
            penalty *= 1 - np.prod(np.maximum(1 - params.batch_size / left, 0))
        vectors = movies[rated]
        rest = values - factors.global_mean - factors.movie_bias[rated].astype(np.float64)
        diagonal = np.append(penalty + dropout / (1 - dropout) * np.square(vectors).sum(axis=0), bias_penalty)
        # As least squares rather than as normal equations, which are singular where there is no penalty.
        system = np.vstack([np.column_stack([vectors, np.ones(len(rated))]), np.diag(np.sqrt(diagonal))])
        found = np.linalg.lstsq(system, np.append(rest, np.zeros(len(diagonal))), rcond=None)[0]
        return found[:-1], float(found[-1])

    return solve


def ranking_solver(movies: NDArray[np.float64], factors: Factors, params: Train) -> Solver:
    """Make the solver for a model trained by a softmax over all movies: L-BFGS from 0, a person at a time.

    See `ranking_loss`. The step of training that a user is in takes 1 / batch of the user's log-likelihood and all of
    the user's penalty, so that the penalty counts `batch` times.

    Args:
        movies: (movies, size) float64, the vectors of one model.
        factors: the model, for its biases and the number of its users.
        params: what it was trained with.

    Returns:
        A function of movies and their ratings, which gives the vector and a bias of 0, which this model has not.
    """
    from scipy.optimize import minimize  # slow to import, and only needed here

    bias = factors.movie_bias.astype(np.float64)
    squares = np.square(movies)
    batch = min(params.batch_size, len(factors.users))
    dropout = params.softmax.dropout
    penalty = batch * params.softmax.user_l2

    def solve(rated: NDArray[np.int32], values: Vector) -> tuple[Vector, float]:
        if not len(rated):
            return np.zeros(movies.shape[1]), 0.0
        weights = params.softmax.rating_base ** (values - 4)
        target, total = weights @ movies[rated] / weights.sum(), float(weights.sum())

        def loss(vector: Vector) -> tuple[float, Vector]:
            return ranking_loss(vector, movies, squares, bias, target, dropout, penalty / total)

        start = np.zeros(movies.shape[1])
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-7, "ftol": 0.0, "maxiter": 1000})
        return np.asarray(found.x), 0.0

    return solve


def ranking_loss(
    vector: Vector,
    movies: NDArray[np.float64],
    squares: NDArray[np.float64],
    bias: Vector,
    target: Vector,
    dropout: float,
    penalty: float,
) -> tuple[float, Vector]:
    """Give one person's part of the ranking model's loss, and its gradient.

    In training the share d of the vector p is left out and the rest divided by 1 - d. In expectation the linear part of
    the log-likelihood is that of p, the squared vector |p|^2 / (1 - d), and the logarithm of the partition function, to
    second order in the noise, what it is at p plus

        d / (1 - d) / 2  sum_k p_k^2 Var_k

    with the variance of the movies' k-th numbers under the softmax: Wager, Wang and Liang, Dropout training as adaptive
    regularization (NIPS 2013), section 2.

    Args:
        vector: (size,) p.
        movies: (movies, size).
        squares: (movies, size) their squares.
        bias: (movies,)
        target: (size,) the weighted mean of the vectors of the movies rated.
        dropout: d.
        penalty: weight of the squared vector after dropout, divided by the sum of the person's weights.

    Returns:
        The loss, divided by the sum of the person's weights and without the terms that p does not change; its gradient.
    """
    scores = movies @ vector + bias
    top = scores.max()
    share = np.exp(scores - top)
    total = share.sum()
    share /= total
    mean = share @ movies
    noise, shrink = dropout / (1 - dropout), penalty / (1 - dropout)
    variance = share @ squares - np.square(mean)
    spread = noise / 2 * np.square(vector)
    value = top + np.log(total) - vector @ target + spread @ variance + shrink * vector @ vector
    # The variances move with the softmax.
    slope = squares @ spread - 2 * (movies @ (spread * mean))
    moved = (share * (slope - share @ slope)) @ movies
    return float(value), mean - target + noise * vector * variance + moved + 2 * shrink * vector
