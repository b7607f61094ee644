"""Keras on TensorFlow, set up for identical results on every machine: import them from here, never directly."""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import recommender.errors  # noqa: F401 - before TensorFlow, which takes long to load: its hook reports Ctrl-C in one line

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # results must not depend on the hardware at hand
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # oneDNN's kernels differ from one processor to the next
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Memory is kept for what comes next: to get it from the system anew for each large array takes a fifth of the time.
with contextlib.suppress(AttributeError):  # of the C library, which may be another than GNU's
    for parameter, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
        ctypes.CDLL(None).mallopt(parameter, value)
# Every x86-64 machine in question has the instructions of AVX2; wider ones could add in another order. YNNPACK, which
# multiplies matrices for XLA, uses the widest that it finds whatever XLA is set to, and is left out.
for flag in ("--xla_cpu_max_isa=AVX2", "--xla_cpu_experimental_ynn_fusion_type="):
    if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


@contextlib.contextmanager
def _quick_and_quiet(*unused: str) -> Iterator[None]:
    """Drop what native code writes to stderr while TensorFlow loads: that it finds no graphics card; and save a second.

    It loads without garbage collection, and without optional imports that Keras makes only to wrap them.
    """
    absent = [module for module in unused if module not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None makes an import fail
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        os.dup2(kept, 2)
        os.close(kept)
        for module in absent:
            del sys.modules[module]


with _quick_and_quiet("matplotlib", "pandas", "scipy", "sklearn"):
    import keras
    import tensorflow as tf
    from keras import ops


def leave() -> NoReturn:
    """End the process with status 0 once all is written: TensorFlow takes half a second to clear away what it takes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


tf.get_logger().setLevel("ERROR")  # it warns of functions that are compiled for several shapes

__all__ = ["keras", "leave", "ops", "tf"]
