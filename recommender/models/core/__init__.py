"""What every model shares: training, batches, the compiled steps, and Keras set up for identical results."""
