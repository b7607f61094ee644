"""One page about the data, the model and its recommendations."""
