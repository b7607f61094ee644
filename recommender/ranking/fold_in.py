"""Vectors for new users: the minimum of the loss that the model was trained with over one user, the items fixed.

Train writes what the loss needs beyond the factors, so that folding in reads no parameters.
"""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from recommender.data.interactions import STARS, stars
from recommender.errors import RERUN, UserError
from recommender.paths import FOLD_IN
from recommender.ranking.factors import Factors
from recommender.storage import read_arrays, write_arrays

if TYPE_CHECKING:
    import scipy.sparse as sp

Vector = NDArray[np.float64]
Solver = Callable[[NDArray[np.int32], Vector], tuple[Vector, float]]  # items and ratings to a vector and a bias


@dataclass(frozen=True)
class RatingLoss:
    """The loss of a model trained on squared errors, as a function of one user.

    A training step minimises the mean of the squared errors over a batch, plus l2 times all squared vectors: Keras
    adds the whole penalty to the loss of each batch, not once an epoch. The mean over a batch is in expectation that
    over all N ratings; times N, a user with vector p and bias b who rated the items i has this share in it:

        sum_i (r_i - mean - b - b_i - p·q_i)^2  +  N l2 |p|^2  +  bias_penalty b^2

    The penalty grows with everybody's ratings, not with the user's own. A step of ``lazy_adam`` penalises only the
    users in its batch: N l2 is multiplied by the probability that a batch, drawn without replacement, has any of the
    user's ratings. Dropout of the share d of q_i adds d / (1 - d) sum_i sum_k p_k^2 q_ik^2 in expectation (Srivastava
    et al., Dropout, JMLR 2014, section 9.1).
    """

    trained_on: int  # ratings, N
    l2: float  # weight of the squared user vectors in a step
    bias_penalty: float = 0.0  # weight of the squared user bias, for each rating
    dropout: float = 0.0  # share of an item's vector left out in training, d
    lazy_batch: int = 0  # ratings in a batch of ``lazy_adam``; 0 for other optimizers
    ensemble_size: int = 1  # models whose vectors stand side by side

    def solver(self, items: NDArray[np.float64], factors: Factors) -> Solver:
        """Return the solver for one model's (num_items, size) item vectors: one ridge system a user.

        Where the minimum is not unique, as without a penalty, the shortest vector is returned.
        """

        def solve(rated: NDArray[np.int32], ratings: Vector) -> tuple[Vector, float]:
            penalty = self.l2 * self.trained_on
            if self.lazy_batch:
                left = self.trained_on - np.arange(min(len(rated), self.trained_on))
                penalty *= 1 - np.prod(np.maximum(1 - self.lazy_batch / left, 0))
            vectors = items[rated]
            rest = ratings - factors.global_mean - factors.item_bias[rated].astype(np.float64)
            noise = self.dropout / (1 - self.dropout) * np.square(vectors).sum(axis=0)
            diagonal = np.append(penalty + noise, self.bias_penalty)
            # As least squares rather than as normal equations, which are singular where there is no penalty.
            system = np.vstack([np.column_stack([vectors, np.ones(len(rated))]), np.diag(np.sqrt(diagonal))])
            found = np.linalg.lstsq(system, np.append(rest, np.zeros(len(diagonal))), rcond=None)[0]
            return found[:-1], float(found[-1])

        return solve


@dataclass(frozen=True)
class SoftmaxLoss:
    """The loss of a model trained under a softmax over all items, as a function of one user: see `softmax_loss`.

    The training step that a user is in takes 1 / batch of the user's log-likelihood and all of the user's penalty, so
    that the penalty counts `batch` times.
    """

    rating_base: float  # a rating of r stars weighs rating_base ** (r - 4)
    penalty: float  # weight of the squared user vector after dropout, times the users in a batch
    dropout: float = 0.0  # share of a user's vector left out in training
    ensemble_size: int = 1  # models whose vectors stand side by side
    lowest: float = STARS[0]  # of the ratings' scale
    highest: float = STARS[1]

    def solver(self, items: NDArray[np.float64], factors: Factors) -> Solver:
        """Return the solver for one model's (num_items, size) item vectors: L-BFGS from 0; the bias is 0."""
        from scipy.optimize import minimize  # slow to import, and only needed here

        bias, squares = factors.item_bias.astype(np.float64), np.square(items)

        def solve(rated: NDArray[np.int32], ratings: Vector) -> tuple[Vector, float]:
            start = np.zeros(items.shape[1])
            if not len(rated):
                return start, 0.0
            weights = self.rating_base ** (stars(ratings, (self.lowest, self.highest)) - 4)
            target, total = weights @ items[rated] / weights.sum(), float(weights.sum())

            fixed = items, squares, bias, target, self.dropout, self.penalty / total
            tight: Any = {"gtol": 1e-7, "ftol": 0.0, "maxiter": 1000}
            return np.asarray(minimize(softmax_loss, start, fixed, "L-BFGS-B", jac=True, options=tight).x), 0.0

        return solve


LOSSES: Final[dict[str, type[RatingLoss | SoftmaxLoss]]] = {"ratings": RatingLoss, "softmax": SoftmaxLoss}


def save(loss: RatingLoss | SoftmaxLoss, path: Path = FOLD_IN) -> None:
    """Write what folding in needs beyond the factors."""
    kind = next(name for name, known in LOSSES.items() if isinstance(loss, known))
    numbers = {name: np.array(value, dtype=np.float64) for name, value in dataclasses.asdict(loss).items()}
    write_arrays(path, {"loss": np.array(kind), **numbers})


def load(path: Path = FOLD_IN) -> RatingLoss | SoftmaxLoss:
    """Read what folding in needs beyond the factors."""
    arrays = read_arrays(path)
    loss = LOSSES.get(str(arrays.pop("loss", None)))
    fields = {field.name: field.type for field in dataclasses.fields(loss)} if loss else {}
    if (
        loss is None
        or set(arrays) != set(fields)
        or not all(value.shape == () and value.dtype == np.float64 and np.isfinite(value) for value in arrays.values())
    ):
        raise UserError(f"{path}: does not describe a loss; {RERUN}")
    numbers: dict[str, Any] = {name: fields[name](value) for name, value in arrays.items()}  # type: ignore[operator]
    return loss(**numbers)


def fold_in(factors: Factors, loss: RatingLoss | SoftmaxLoss, ratings: "sp.csr_array") -> Factors:
    """Return a trained model's items with new users, each with the vector and bias that minimise the training loss.

    Models of an ensemble, whose vectors stand side by side, each get a vector of their own; of their item biases only
    the mean is known, which takes the place of each. `ratings` are (new users, num_items) float32; what is not stored
    is not rated. Users without ratings get zeros.
    """
    if factors.interaction != "dot":
        raise UserError(
            "train.mf.interaction: with batch_sum predictions for a user depend on all others in the batch, so "
            "that no new user can be added; set it to dot and run `dvc repro`"
        )
    size, models = factors.item_factors.shape[1], loss.ensemble_size
    if models < 1 or size % models:
        raise UserError(f"{FOLD_IN}: belongs to {models} models, but the vectors have {size} numbers; {RERUN}")
    root = models**0.5
    blocks = np.split(factors.item_factors.astype(np.float64) * root, models, axis=1)
    solvers = [loss.solver(np.ascontiguousarray(block), factors) for block in blocks]

    def one(user: int) -> tuple[Vector, float]:
        row = slice(ratings.indptr[user], ratings.indptr[user + 1])
        solved = [solve(ratings.indices[row], ratings.data[row].astype(np.float64)) for solve in solvers]
        return np.concatenate([vector for vector, _ in solved]) / root, float(np.mean([bias for _, bias in solved]))

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(one, range(ratings.shape[0])))
    vectors = np.array([vector for vector, _ in found], np.float32).reshape(len(found), size)
    biases = np.array([bias for _, bias in found], np.float32)
    return dataclasses.replace(factors, user_factors=vectors, user_bias=biases)


def softmax_loss(
    vector: Vector,
    items: NDArray[np.float64],
    squares: NDArray[np.float64],
    bias: Vector,
    target: Vector,
    dropout: float,
    penalty: float,
) -> tuple[float, Vector]:
    """Return one user's part of the ranking model's loss and its gradient, without terms that the vector leaves alone.

    In training the share d of the vector p is left out and the rest divided by 1 - d. In expectation the linear part of
    the log-likelihood is that of p, the squared vector |p|^2 / (1 - d), and the logarithm of the partition function, to
    second order in the noise, what it is at p plus

        d / (1 - d) / 2  sum_k p_k^2 Var_k

    with the variance of the items' k-th numbers under the softmax: Wager, Wang and Liang, Dropout training as adaptive
    regularization (NIPS 2013), section 2.

    Args:
        vector: (size,) p.
        items: (num_items, size).
        squares: (num_items, size) their squares.
        bias: (num_items,)
        target: (size,) the weighted mean of the vectors of the items rated.
        dropout: d.
        penalty: weight of the squared vector after dropout, divided by the sum of the user's weights.
    """
    scores = items @ vector + bias
    top = scores.max()
    share = np.exp(scores - top)
    total = share.sum()
    share /= total
    mean = share @ items
    noise, shrink = dropout / (1 - dropout), penalty / (1 - dropout)
    variance = share @ squares - np.square(mean)
    spread = noise / 2 * np.square(vector)
    value = top + np.log(total) - vector @ target + spread @ variance + shrink * vector @ vector
    # The variances move with the softmax.
    slope = squares @ spread - 2 * (items @ (spread * mean))
    moved = (share * (slope - share @ slope)) @ items
    return float(value), mean - target + noise * vector * variance + moved + 2 * shrink * vector
