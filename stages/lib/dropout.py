"""Dropout whose random numbers are the same on every machine, and fast where XLA compiles them."""

from typing import Any

from stages.lib.backend import keras, ops, tf

Tensor = Any  # TensorFlow ships no types


@keras.saving.register_keras_serializable("movielens")
class Dropout(keras.layers.Dropout):
    """Keras' dropout with numbers from Philox (Salmon et al., Parallel random numbers, SC 2011).

    Keras leaves the choice of the generator to the device, and XLA's own for processors takes fifty times as long.
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Set a random share of the inputs to 0 and scale up the rest.

        Args:
            inputs: any shape, float32.
            training: whether to; inputs are given back as they are otherwise.

        Returns:
            The same shape.
        """
        if not training or self.rate == 0:
            return inputs
        seed = ops.cast(self.seed_generator.next(), "int32")
        uniform = tf.random.stateless_uniform(ops.shape(inputs), seed=seed, alg="philox")
        return inputs * ops.cast(uniform >= self.rate, "float32") / (1 - self.rate)
