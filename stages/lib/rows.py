"""What the two models that are trained on rows of the rating matrix share: training in stacks of batches."""

import abc
from typing import Any

from stages.lib.adam import adam_rate, adam_step
from stages.lib.backend import keras, tf

Tensor = Any  # TensorFlow ships no types


class RowModel(keras.Model):
    """Trained on batches of rows, or on stacks of such batches with one more axis before.

    A stack does in one compiled program what as many ordinary batches do one by one: weights and moments stay inside
    it, where Keras would copy them at every step. Rows are numbered; those with the number -1 are padding, and steps of
    padding alone count for nothing. Subclasses give `call`, `data_loss` and `scale`.
    """

    scale: float  # of the sum of a batch's data loss in the loss that is minimised

    @abc.abstractmethod
    def data_loss(self, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Give the sum of a batch's losses and how many terms it has."""

    def compute_loss(
        self,
        x: Any = None,  # noqa: ANN401 - Keras' own
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """Give the loss of an ordinary batch, with the terms that `call` has added."""
        del x, sample_weight, training
        return self.data_loss(y, y_pred)[0] * self.scale + sum(self.losses)

    def train_step(self, data: tuple[Any, Tensor]) -> dict[str, Tensor]:
        """Take one step of Adam for an ordinary batch, or one for each batch of a stack."""
        numbers = tf.nest.flatten(data)[0]
        if numbers.shape.rank == 1:
            return super().train_step(data)
        steps = tf.math.count_nonzero(tf.reduce_max(numbers, axis=1) >= 0, dtype=tf.int32)
        done = tf.cast(self.optimizer.iterations, tf.int32)

        def step(index: Tensor, total: Tensor, state: Any, rest: list[Tensor]) -> tuple[Any, ...]:  # noqa: ANN401
            inputs, targets = tf.nest.map_structure(lambda part: part[index], data)
            weights = [part[0] for part in state]
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs, rest, losses = self.stateless_call(weights, rest, inputs, training=True, return_losses=True)
                loss = self.data_loss(targets, outputs)[0] * self.scale + sum(losses)
            gradients = [tf.convert_to_tensor(part) for part in tape.gradient(loss, weights)]
            rate = adam_rate(self.optimizer, done + index + 1)
            state = [
                adam_step(self.optimizer, part, gradient, tf.square(gradient), rate)
                for part, gradient in zip(state, gradients, strict=True)
            ]
            return index + 1, total + loss, state, rest

        variables = (self.trainable_variables, self.optimizer._momentums, self.optimizer._velocities)
        state = [tuple(tf.convert_to_tensor(part.value) for part in parts) for parts in zip(*variables, strict=True)]
        rest = [tf.convert_to_tensor(part.value) for part in self.non_trainable_variables]
        _, total, state, rest = tf.while_loop(lambda index, *_: index < steps, step, (0, 0.0, state, rest))
        for parts, values in zip(zip(*variables, strict=True), state, strict=True):
            for variable, value in zip(parts, values, strict=True):
                variable.assign(value)
        for variable, value in zip(self.non_trainable_variables, rest, strict=True):
            variable.assign(value)
        self.optimizer.iterations.assign_add(tf.cast(steps, self.optimizer.iterations.dtype))
        count = tf.cast(steps, tf.float32)
        self._loss_tracker.update_state(total / count, sample_weight=count)
        return {"loss": self._loss_tracker.result()}

    def test_step(self, data: tuple[Any, Tensor]) -> dict[str, Tensor]:
        """Add the losses of an ordinary batch, or of a stack, to the mean over all terms; nothing else is added."""
        if tf.nest.flatten(data)[0].shape.rank == 1:
            data = tf.nest.map_structure(lambda part: part[None], data)
        steps = tf.shape(data[1])[0]

        def step(index: Tensor, total: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            inputs, targets = tf.nest.map_structure(lambda part: part[index], data)
            loss, count = self.data_loss(targets, self(inputs, training=False))
            return index + 1, total + loss, terms + count

        _, total, terms = tf.while_loop(lambda index, *_: index < steps, step, (0, 0.0, 0.0))
        self._loss_tracker.update_state(total / tf.maximum(terms, 1), sample_weight=terms)
        return {"loss": self._loss_tracker.result()}
