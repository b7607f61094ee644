"""The library that the stages are written with: one folder a subject."""
