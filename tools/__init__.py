"""Commands behind the make targets that no stage of the pipeline needs."""
