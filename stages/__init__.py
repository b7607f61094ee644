"""The stages of the pipeline, one module each: run one with ``python -m stages.NAME``."""
