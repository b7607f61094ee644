"""Keras on TensorFlow, set up for identical results on every machine. Import them from here, never directly."""

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator

import stages.lib.errors  # noqa: F401 - before TensorFlow, which takes long to load: Ctrl-C is told in one line

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # results must not depend on the hardware at hand
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # oneDNN's kernels differ from one processor to the next
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "xla_cpu_max_isa" not in os.environ.get("XLA_FLAGS", ""):
    # Every x86-64 machine in question has these instructions; wider ones could add in another order.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2".strip()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to stderr while TensorFlow loads, and show it only when that fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except BaseException:
            noise.seek(0)
            os.write(kept, noise.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _without(*modules: str) -> Iterator[None]:
    """Make optional imports fail: Keras looks for these to wrap them, which takes a second and is not used here."""
    absent = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None makes an import fail
    try:
        yield
    finally:
        for module in absent:
            del sys.modules[module]


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep Python from searching what is being imported for garbage, again and again: a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


with _quiet_stderr(), _without("pandas", "scipy", "sklearn"), _without_collecting():
    import keras
    import tensorflow as tf
    from keras import ops

__all__ = ["keras", "ops", "tf"]
