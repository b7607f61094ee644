"""The stages of the pipeline, in a module each: run one with ``python -m stages.NAME``."""
