"""Run the default training's arithmetic in plain C, with nothing around it, and print the time as JSON.

python -m benchmarks.floor, in a folder where the pipeline has run. The compiler comes from the package index (ziglang).
"""

import ctypes
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.params import load_params
from stages.lib.ratings import TEST, TRAIN, Ratings

SOURCE = Path("benchmarks/floor.c")


def main() -> None:
    """Compile the C code and train."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "floor.so"
        command = [sys.executable, "-m", "ziglang", "cc", "-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True)  # noqa: S603 - no shell
        print(json.dumps(train(ctypes.CDLL(str(library)))))


def train(library: ctypes.CDLL) -> dict[str, Any]:
    """Train as ``params.yaml`` says, from a start of the same kind and over the same batches as the train stage.

    Args:
        library: the compiled code.

    Returns:
        ``seconds`` of each epoch without validation; ``val_loss`` of the last.
    """
    params = load_params().train
    train, test = Ratings.read(TRAIN), Ratings.read(TEST)
    users, movies = train.shape
    rows, size = users + movies, params.embedding_size
    random = np.random.default_rng(params.seed)
    weights = np.zeros(rows * (size + 1), dtype=np.float32)
    weights[: rows * size] = random.normal(0, np.sqrt(2 / rows), rows * size)
    momentum, velocity, gradient = (np.zeros_like(weights) for _ in range(3))
    squares, iteration = np.zeros(rows, dtype=np.float32), np.zeros(1, dtype=np.int64)
    pairs = np.stack([train.users, train.movies + users], axis=1).astype(np.int32)

    def pointers(*arrays: NDArray[Any]) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(array.ctypes.data) for array in arrays]

    library.epoch.restype = ctypes.c_double
    seconds = []
    for epoch in range(1, params.epochs + 1):
        order = np.random.default_rng([params.seed, epoch]).permutation(len(pairs))
        start = time.perf_counter()
        library.epoch(
            *pointers(pairs, train.values, order),
            *map(ctypes.c_long, (len(pairs), rows)),
            *map(ctypes.c_int, (size, params.batch_size)),
            *map(ctypes.c_float, (params.learning_rate, params.l2)),
            *pointers(weights, momentum, velocity, gradient, squares, iteration),
        )
        seconds.append(time.perf_counter() - start)
    table, bias = weights[: rows * size].reshape(rows, size), weights[rows * size :]
    movie = test.movies + users
    predicted = (table[test.users] * table[movie]).sum(axis=1) + bias[test.users] + bias[movie]
    loss = np.mean((predicted - test.values) ** 2, dtype=np.float64) + params.l2 * np.sum(table**2, dtype=np.float64)
    return {"seconds": seconds, "val_loss": float(loss)}


if __name__ == "__main__":
    main()
