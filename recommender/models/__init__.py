"""Keras models, one file each. The only room that imports TensorFlow."""
