"""Number users and movies and divide the ratings into train, validation and test."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from stages.lib.errors import UserError, run
from stages.lib.params import Split, load_params
from stages.lib.storage import CURE, read_table, write_json, write_table

RATINGS = Path("data/interim/ratings.parquet")
MOVIES = Path("data/interim/movies.parquet")
PROCESSED = Path("data/processed")
METRICS = Path("metrics/split.json")


def main() -> None:
    """Split the extracted ratings and describe the parts."""
    split = load_params().split
    ratings = read_table(RATINGS, ["user_id", "movie_id", "rating"])
    movies = read_table(MOVIES, ["movie_id", "title", "genres"])
    indexed, users, rated = encode(ratings, movies)
    train, validation, test = split_rows(len(indexed), split)
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        write_table(PROCESSED / f"{name}.parquet", indexed.take(pa.array(rows)))
    write_table(PROCESSED / "users.parquet", users)
    write_table(PROCESSED / "movies.parquet", rated)
    write_json(METRICS, describe(indexed, train, validation, test, len(users), len(rated)))


def encode(ratings: pa.Table, movies: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Replace ids by indices that count up from 0 in order of first appearance in the ratings.

    Args:
        ratings: user_id, movie_id (int32), rating (float32).
        movies: movie_id (int32), title, genres.

    Returns:
        ``ratings`` as user, movie (int32 indices) and rating; ``users`` as user (index), user_id; and the rated
        ``movies`` as movie (index), movie_id, title, genres: row number and index are the same.

    Raises:
        UserError: a rated movie is not listed.
    """
    user, user_ids = pd.factorize(ratings["user_id"].to_numpy())
    movie, movie_ids = pd.factorize(ratings["movie_id"].to_numpy())
    indexed = pa.table({"user": user.astype(np.int32), "movie": movie.astype(np.int32), "rating": ratings["rating"]})
    users = pa.table({"user": np.arange(len(user_ids), dtype=np.int32), "user_id": user_ids})
    listed = movies["movie_id"].to_numpy()
    if not np.isin(movie_ids, listed).all():
        raise UserError(f"{MOVIES}: lacks movies that are rated in {RATINGS}; {CURE}")
    order = np.argsort(listed, kind="stable")
    rows = order[np.searchsorted(listed, movie_ids, sorter=order)]
    rated = movies.take(pa.array(rows)).add_column(0, "movie", pa.array(np.arange(len(movie_ids), dtype=np.int32)))
    return indexed, users, rated


def split_rows(rows: int, split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Choose the rows of train, validation and test with scikit-learn's `train_test_split`.

    Validation is taken out of train with a seed of its own, so that test is the same with and without it.

    Args:
        rows: how many ratings there are.
        split: the shares of test and validation, and the seed.

    Returns:
        The row numbers of train, validation and test, int64, in the shuffled order that scikit-learn gives.

    Raises:
        UserError: there are too few ratings for all parts.
    """
    train, test = _divide(np.arange(rows), "test_size", split.test_size, split.seed)
    if split.validation_size == 0:
        return train, train[:0], test
    seed = int(np.random.SeedSequence([split.seed, 1]).generate_state(1)[0])
    train, validation = _divide(train, "validation_size", split.validation_size, seed)
    return train, validation, test


def _divide(rows: NDArray[np.int64], name: str, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.model_selection import train_test_split

    try:
        kept, held_out = train_test_split(rows, test_size=share, random_state=seed)
    except ValueError:
        raise UserError(
            f"split.{name}: {share} of {len(rows)} ratings leaves one of the parts empty; choose another share"
        ) from None
    return kept, held_out


def describe(
    indexed: pa.Table,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
    users: int,
    movies: int,
) -> dict[str, Any]:
    """Count what the parts hold.

    Args:
        indexed: user, movie, rating: all ratings.
        train: row numbers of the train part.
        validation: row numbers of the validation part.
        test: row numbers of the test part.
        users: how many users there are.
        movies: how many rated movies there are.

    Returns:
        Counts, the lowest and highest rating, and the density: ratings / (users x movies).
    """
    user, rating = indexed["user"].to_numpy(), indexed["rating"].to_numpy()
    return {
        "users": users,
        "movies": movies,
        "ratings": len(indexed),
        "train_ratings": len(train),
        **({"validation_ratings": len(validation)} if len(validation) else {}),
        "test_ratings": len(test),
        "min_rating": rating.min(),
        "max_rating": rating.max(),
        "density": len(indexed) / (users * movies),
        "users_without_train": users - np.count_nonzero(np.bincount(user[train], minlength=users)),
        "users_without_test": users - np.count_nonzero(np.bincount(user[test], minlength=users)),
    }


if __name__ == "__main__":
    run(main)
