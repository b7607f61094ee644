"""Movies alike by their vectors."""

import numpy as np
from numpy.typing import NDArray


def cosines(vectors: NDArray[np.float32], movie: int) -> NDArray[np.float64]:
    """Give the cosine of the angle between a movie's vector and every movie's.

    Args:
        vectors: (movies, size) of a trained model.
        movie: an index.

    Returns:
        (movies,) from -1 to 1; 0 where one of the vectors is 0.
    """
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    products = wide @ wide[movie]
    scale = lengths * lengths[movie]
    found: NDArray[np.float64] = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return found.clip(-1, 1)
