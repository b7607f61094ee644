"""Keras' Adam as functions of tensors, for steps that are taken inside one compiled program."""

from typing import Any

from stages.lib.backend import keras, tf

Tensor = Any  # TensorFlow ships no types
State = tuple[Tensor, Tensor, Tensor]


def adam_rate(adam: keras.optimizers.Adam, step: Tensor) -> Tensor:
    """Give the learning rate at a step, with the correction for moments that start at 0.

    Args:
        adam: the optimizer, with a fixed rate or a schedule.
        step: from 1, an integer.

    Returns:
        A scalar, float32.
    """
    count = tf.cast(step, tf.float32)
    correction = tf.sqrt(1 - tf.pow(adam.beta_2, count)) / (1 - tf.pow(adam.beta_1, count))
    rate = adam._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(step - 1)
    return tf.cast(rate, tf.float32) * correction


def adam_step(adam: keras.optimizers.Adam, state: State, gradient: Tensor, squares: Tensor, rate: Tensor) -> State:
    """Update weights and moments as `keras.optimizers.Adam` does (Kingma and Ba, 2015, end of section 2).

    Args:
        adam: the optimizer.
        state: weights, momentum and velocity, of one shape.
        gradient: of that shape.
        squares: what the velocity is a mean of: the squared gradient, but for sparse gradients with repeated rows.
        rate: from `adam_rate`.

    Returns:
        The new state.
    """
    weights, momentum, velocity = state
    momentum += (gradient - momentum) * (1 - adam.beta_1)
    velocity += (squares - velocity) * (1 - adam.beta_2)
    return weights - momentum * rate / (tf.sqrt(velocity) + adam.epsilon), momentum, velocity
