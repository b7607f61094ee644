"""The trained model as a TensorFlow SavedModel, which serves requests by ids without any code of this repository."""
