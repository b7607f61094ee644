"""Training steps that are taken inside one compiled program, a stack of batches at a time.

Keras' own `train_step` runs one batch a call. These loop over a stack of batches with the weights and Adam's moments as
loop state, which XLA keeps in place, with the arithmetic of `keras.optimizers.Adam`.
"""

import abc
from collections.abc import Callable
from typing import Any

from recommender.models.core.backend import keras, ops, tf

Tensor = Any  # TensorFlow ships no types
State = tuple[Tensor, Tensor, Tensor]


def adam_rate(adam: keras.optimizers.Adam, step: Tensor) -> Tensor:
    """Return the learning rate at a step, counted from 1, with the correction for moments that start at 0."""
    count = tf.cast(step, tf.float32)
    correction = tf.sqrt(1 - tf.pow(adam.beta_2, count)) / (1 - tf.pow(adam.beta_1, count))
    rate = adam._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(step - 1)
    return tf.cast(rate, tf.float32) * correction


def adam_step(adam: keras.optimizers.Adam, state: State, gradient: Tensor, squares: Tensor, rate: Tensor) -> State:
    """Update weights, momentum and velocity as `keras.optimizers.Adam` does (Kingma and Ba, 2015, end of section 2).

    The velocity is a mean of `squares`: the squared gradient, but for sparse gradients with repeated rows. The rate is
    that of `adam_rate`.
    """
    weights, momentum, velocity = state
    momentum += (gradient - momentum) * (1 - adam.beta_1)
    velocity += (squares - velocity) * (1 - adam.beta_2)
    return weights - momentum * rate / (tf.sqrt(velocity) + adam.epsilon), momentum, velocity


def lazy_adam_step(
    adam: keras.optimizers.Adam,
    tables: State,
    places: Tensor,
    rows: Tensor,
    loss: Callable[[Tensor], Tensor],
    l2: float,
    rate: Tensor,
) -> tuple[Tensor, State, Tensor]:
    """Update the rows of a batch alone, however many there are in all: their weights, moments and L2 term.

    Args:
        adam: as in `adam_step`.
        tables: weights, momentum and velocity, (all rows, size + 1): each row a vector and its bias.
        places: (all rows,) int32 with any content: room for the place of each row in the batch.
        rows: (n,) int32, some of them more than once.
        loss: returns the loss, without its L2 term, of the (n, size + 1) weights of the rows.
        l2: weight of the squared vectors.
        rate: that of `adam_rate`.

    Returns:
        The loss, the tables and the places.
    """
    values, momentum, velocity = (tf.gather(table, rows) for table in tables)
    with tf.GradientTape() as tape:
        tape.watch(values)
        found = loss(values)
    # All occurrences of a row point to one place, where their gradients are added up.
    places = tf.tensor_scatter_nd_update(places, rows[:, None], tf.range(tf.shape(rows)[0]))
    place = tf.gather(places, rows)
    gradients = tape.gradient(found, values)
    gradient = tf.gather(tf.tensor_scatter_nd_add(tf.zeros_like(gradients), place[:, None], gradients), place)
    gradient += 2 * l2 * tf.concat([values[:, :-1], tf.zeros_like(values[:, -1:])], axis=1)
    updated = adam_step(adam, (values, momentum, velocity), gradient, tf.square(gradient), rate)
    changes = zip(tables, updated, strict=True)
    first, second, third = (tf.tensor_scatter_nd_update(table, rows[:, None], new) for table, new in changes)
    return found, (first, second, third), places


@keras.saving.register_keras_serializable("recommender")
class Dropout(keras.layers.Dropout):
    """Keras' dropout with random numbers from Philox (Salmon et al., Parallel random numbers, SC 2011).

    Keras leaves the choice of the generator to the device, and XLA's own for processors takes fifty times as long.
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """In training, set a random share of the inputs to 0 and scale up the rest."""
        if not training or self.rate == 0:
            return inputs
        seed = ops.cast(self.seed_generator.next(), "int32")
        uniform = tf.random.stateless_uniform(ops.shape(inputs), seed=seed, alg="philox")
        return inputs * ops.cast(uniform >= self.rate, "float32") / (1 - self.rate)


class RowModel(keras.Model):
    """A model trained on batches of rows of the rating matrix, or on stacks of such batches with one more axis before.

    Rows are numbered; those with the number -1 are padding, and steps of padding alone count for nothing. Subclasses
    define `call`, `data_loss` and `scale`.
    """

    scale: float  # of the sum of a batch's data loss in the loss that is minimised

    def add_vectors(self, name: str, count: int, size: int, length: float, seed: int) -> Tensor:
        """Add (count, size) normally distributed weights, each row of that expected length."""
        initializer = keras.initializers.RandomNormal(stddev=length / size**0.5, seed=seed)
        return self.add_weight(shape=(count, size), initializer=initializer, name=name)

    @abc.abstractmethod
    def data_loss(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of a batch's losses and the number of its terms."""

    def compute_loss(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None, training: bool = True
    ) -> Tensor:
        """Return the loss of an ordinary batch, with the terms that `call` has added."""
        del x, sample_weight, training
        return self.data_loss(y, y_pred)[0] * self.scale + sum(self.losses)

    def train_step(self, data: tuple[Any, Tensor]) -> dict[str, Tensor]:
        """Take one step of Adam for an ordinary batch, or one for each batch of a stack.

        The loss that is reported for a stack is the mean over all terms of the data loss, as in `test_step`.
        """
        numbers = tf.nest.flatten(data)[0]
        if numbers.shape.rank == 1:
            return super().train_step(data)
        steps = tf.math.count_nonzero(tf.reduce_max(numbers, axis=1) >= 0, dtype=tf.int32)
        done = tf.cast(self.optimizer.iterations, tf.int32)

        def step(index: Tensor, total: Tensor, terms: Tensor, state: Any, rest: Any) -> tuple[Any, ...]:  # noqa: ANN401
            inputs, targets = tf.nest.map_structure(lambda part: part[index], data)
            weights = [part[0] for part in state]
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs, rest, losses = self.stateless_call(weights, rest, inputs, training=True, return_losses=True)
                data_loss, count = self.data_loss(targets, outputs)
                loss = data_loss * self.scale + sum(losses)
            gradients = [tf.convert_to_tensor(part) for part in tape.gradient(loss, weights)]
            rate = adam_rate(self.optimizer, done + index + 1)
            state = [
                adam_step(self.optimizer, part, gradient, tf.square(gradient), rate)
                for part, gradient in zip(state, gradients, strict=True)
            ]
            return index + 1, total + data_loss, terms + count, state, rest

        variables = (self.trainable_variables, self.optimizer._momentums, self.optimizer._velocities)
        state = [tuple(tf.convert_to_tensor(part.value) for part in parts) for parts in zip(*variables, strict=True)]
        rest = [tf.convert_to_tensor(part.value) for part in self.non_trainable_variables]
        start = (0, 0.0, 0.0, state, rest)
        _, total, terms, state, rest = tf.while_loop(lambda index, *_: index < steps, step, start)
        for parts, values in zip(zip(*variables, strict=True), state, strict=True):
            for variable, value in zip(parts, values, strict=True):
                variable.assign(value)
        for variable, value in zip(self.non_trainable_variables, rest, strict=True):
            variable.assign(value)
        self.optimizer.iterations.assign_add(tf.cast(steps, self.optimizer.iterations.dtype))
        self._loss_tracker.update_state(tf.math.divide_no_nan(total, terms), sample_weight=terms)
        return {"loss": self._loss_tracker.result()}

    def test_step(self, data: tuple[Any, ...]) -> dict[str, Tensor]:
        """Add the data losses of an ordinary batch, or of a stack, to the mean over all terms."""
        if tf.nest.flatten(data)[0].shape.rank == 1:
            data = tf.nest.map_structure(lambda part: part[None], data)
        steps = tf.shape(data[1])[0]

        def step(index: Tensor, total: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            inputs, targets = tf.nest.map_structure(lambda part: part[index], data)
            loss, count = self.data_loss(targets, self(inputs, training=False))
            return index + 1, total + loss, terms + count

        _, total, terms = tf.while_loop(lambda index, *_: index < steps, step, (0, 0.0, 0.0))
        self._loss_tracker.update_state(tf.math.divide_no_nan(total, terms), sample_weight=terms)
        return {"loss": self._loss_tracker.result()}
