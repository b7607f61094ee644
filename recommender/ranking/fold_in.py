"""Vectors for new users: the minimum of the loss that the model was trained with over one user, the items fixed.

Train writes what the loss needs beyond the factors, so that folding in reads no parameters.
"""

import dataclasses
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
from recommender.paths import FACTORS, FOLD_IN
from recommender.ranking.factors import Factors
from recommender.ranking.topk import threads
from recommender.ranking.user_kernel import UserKernel
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
        """Return the solver for one model's (num_items, size) item vectors: one ridge system a user."""

        def solve(rated: NDArray[np.int32], ratings: Vector) -> tuple[Vector, float]:
            found = self.ridge(items[rated], targets_of(factors, rated, ratings))
            return found[:-1], float(found[-1])

        return solve

    def ridge(self, vectors: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the user vector and, last, the bias that minimise the loss for (n, size) vectors of rated items.

        Targets are (n,), what the mean and the item biases leave of the ratings, for a result of (size + 1,), or (n, m)
        for (size + 1, m). The result is linear in them. Where the minimum is not unique, as without a penalty, it is
        the shortest.
        """
        penalty = self.l2 * self.trained_on
        if self.lazy_batch:
            left = self.trained_on - np.arange(min(len(vectors), self.trained_on))
            penalty *= 1 - np.prod(np.maximum(1 - self.lazy_batch / left, 0))
        noise = self.dropout / (1 - self.dropout) * np.square(vectors).sum(axis=0)
        diagonal = np.append(penalty + noise, self.bias_penalty)
        # As least squares rather than as normal equations, which are singular where there is no penalty.
        system = np.vstack([np.column_stack([vectors, np.ones(len(vectors))]), np.diag(np.sqrt(diagonal))])
        zeros = np.zeros((len(diagonal), *targets.shape[1:]))
        found: NDArray[np.float64] = np.linalg.lstsq(system, np.concatenate([targets, zeros]), rcond=None)[0]
        return found


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


@dataclass(frozen=True, kw_only=True)
class EncodedLoss(RatingLoss, UserKernel):
    """The loss of a model trained on squared errors where features of a kernel follow the numbers of a user's vector.

    The kernel makes the features, and the rest of the vector minimises the loss of what they leave.
    """


FoldIn = RatingLoss | SoftmaxLoss | UserKernel
KINDS: Final[dict[str, type[FoldIn]]] = {
    "ratings": RatingLoss,
    "softmax": SoftmaxLoss,
    "kernel": UserKernel,
    "encoded": EncodedLoss,
}


def save(fold_in: FoldIn, path: Path = FOLD_IN) -> None:
    """Write what folding in needs beyond the factors."""
    kind = next(name for name, known in KINDS.items() if type(fold_in) is known)
    values = {field.name: np.asarray(getattr(fold_in, field.name)) for field in dataclasses.fields(fold_in)}
    numbers = {name: value.astype(np.float64) if value.ndim == 0 else value for name, value in values.items()}
    write_arrays(path, {"loss": np.array(kind), **numbers})


def load(path: Path = FOLD_IN) -> FoldIn:
    """Read what folding in needs beyond the factors."""
    arrays = read_arrays(path)
    kind = KINDS.get(str(arrays.pop("loss", None)))
    fields = {field.name: field.type for field in dataclasses.fields(kind)} if kind else {}
    if kind is None or set(arrays) != set(fields) or not all(_fits(arrays[name], fields[name]) for name in fields):
        raise UserError(f"{path}: does not describe a loss; {RERUN}")
    numbers: Any = {name: fields[name] for name in fields if fields[name] in (int, float)}
    return kind(**arrays | {name: number(arrays[name]) for name, number in numbers.items()})


def _fits(value: NDArray[Any], kind: Any) -> bool:  # noqa: ANN401 - a field's type
    scalar = kind in (int, float)
    shaped = value.shape == () and value.dtype == np.float64 if scalar else value.ndim > 0 and value.dtype.kind in "fi"
    return bool(shaped and np.isfinite(value).all())


def fold_in(factors: Factors, loss: FoldIn, ratings: "sp.csr_array") -> Factors:
    """Return a trained model's items with new users, each with the vector and bias that minimise the training loss.

    In closed form there is no loss, and new users get what all users get in training. Models of an ensemble, whose
    vectors stand side by side, each get a vector of their own; of their item biases only the mean is known, which takes
    the place of each. `ratings` are (new users, num_items) float32; what is not stored is not rated. Users without
    ratings get zeros, or, in closed form, what is closest to nobody's ratings.
    """
    if factors.interaction != "dot":
        raise UserError(
            "train.mf.interaction: with batch_sum predictions for a user depend on all others in the batch, so "
            "that no new user can be added; set it to dot and run `dvc repro`"
        )
    check_kernel(factors, loss)
    features = loss.vectors(ratings) if isinstance(loss, UserKernel) else np.zeros((ratings.shape[0], 0), np.float32)
    if not isinstance(loss, (RatingLoss, SoftmaxLoss)):
        return dataclasses.replace(factors, user_factors=features, user_bias=np.zeros(len(features), np.float32))
    solvers = [
        (loss.solver(own, factors), rest) for own, rest in blocks_of(factors, loss.ensemble_size, features.shape[1])
    ]

    def one(user: int) -> tuple[Vector, float]:
        row, own = slice(ratings.indptr[user], ratings.indptr[user + 1]), features[user].astype(np.float64)
        rated = ratings.indices[row]
        solved = [solve(rated, ratings.data[row] - rest[rated] @ own) for solve, rest in solvers]
        vector = np.concatenate([np.concatenate([vector, own]) for vector, _ in solved])
        return vector / len(solvers) ** 0.5, float(np.mean([bias for _, bias in solved]))

    with threadpool_limits(1), ThreadPoolExecutor(threads()) as pool:
        found = list(pool.map(one, range(ratings.shape[0])))
    vectors = np.array([vector for vector, _ in found], np.float32).reshape(len(found), factors.item_factors.shape[1])
    biases = np.array([bias for _, bias in found], np.float32)
    return dataclasses.replace(factors, user_factors=vectors, user_bias=biases)


def targets_of(factors: Factors, rated: NDArray[np.int32], ratings: Vector) -> Vector:
    """Return what the mean and the biases of the rated items leave of ratings: (n,)."""
    targets: Vector = ratings - factors.global_mean - factors.item_bias[rated].astype(np.float64)
    return targets


def check_kernel(factors: Factors, loss: FoldIn) -> None:
    """Refuse a kernel that is not the factors'."""
    size = factors.item_factors.shape[1]
    if isinstance(loss, UserKernel) and (
        len(loss.item_scale) != len(factors.item_factors) or loss.mapping.shape[1] > size
    ):
        raise UserError(f"{FOLD_IN}: belongs to other vectors than {FACTORS}; {RERUN}")


def blocks_of(factors: Factors, models: int, features: int) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the item vectors of each model of an ensemble, without and, apart, with the numbers of the features."""
    size = factors.item_factors.shape[1]
    if models < 1 or size % models:
        raise UserError(f"{FOLD_IN}: belongs to {models} models, but the vectors have {size} numbers; {RERUN}")
    blocks = np.split(factors.item_factors.astype(np.float64) * models**0.5, models, axis=1)
    width = size // models - features
    return [(np.ascontiguousarray(block[:, :width]), block[:, width:]) for block in blocks]


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
