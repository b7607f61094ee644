"""Make archives in the MovieLens layouts with any number of ratings and with taste planted in them.

python -m benchmarks.synthetic --layout ml-1m --users 6040 --movies 3706 --ratings 1000000 archive.zip
"""

import argparse
import io
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from stages.lib.releases import RATING_COLUMNS, RELEASES, Layout
from stages.lib.storage import atomic

GENRES: Final = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi")
TASTES: Final = 4  # dimensions of the planted taste
FIRST_SECOND: Final = 900_000_000  # of the timestamps, which count up row by row


def main() -> None:
    """Write one archive as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic", description=__doc__)
    parser.add_argument("--layout", choices=sorted(RELEASES), default="ml-1m", help="of which release")
    parser.add_argument("--users", type=int, default=6040)
    parser.add_argument("--movies", type=int, default=3706)
    parser.add_argument("--ratings", type=int, default=1_000_000)
    parser.add_argument("--popularity", type=float, default=0.8, help="exponent of the popularity tail, 0 for none")
    parser.add_argument("--taste", type=float, default=1.5, help="strength of the planted taste, 0 for none")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    users, movies, ratings = make_ratings(
        arguments.users,
        arguments.movies,
        arguments.ratings,
        popularity=arguments.popularity,
        taste=arguments.taste,
        scale=RELEASES[arguments.layout].scale,
        seed=arguments.seed,
    )
    write_archive(arguments.path, arguments.layout, users, movies, ratings, arguments.movies)


def make_ratings(
    users: int,
    movies: int,
    ratings: int,
    *,
    popularity: float = 0.8,
    taste: float = 1.5,
    scale: tuple[float, float, float] = (1.0, 5.0, 1.0),
    seed: int = 7,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Draw distinct (user, movie) pairs and their ratings.

    Users differ in how much they rate (log-normal), movies in how popular they are (rank to the power of -popularity).
    Each has a hidden vector; users rate more of the movies along their own, and rate those higher.

    Args:
        users: how many users.
        movies: how many movies.
        ratings: how many pairs, at most half of users x movies.
        popularity: exponent of the popularity tail.
        taste: strength of the hidden vectors.
        scale: the lowest rating, the highest, and the step between ratings.
        seed: of everything drawn.

    Returns:
        user ids and movie ids (int32, from 1) and ratings (float32), each (ratings,), by ascending user.

    Raises:
        ValueError: so many distinct pairs cannot be drawn.
    """
    if ratings > users * movies // 2:
        raise ValueError(f"{ratings} ratings are more than half of {users} x {movies}")
    random = np.random.default_rng(seed)
    activity = np.cumsum(random.lognormal(0, 1, users))
    chance = np.cumsum(random.permutation(np.arange(1, movies + 1, dtype=np.float64) ** -popularity))
    user_taste = random.standard_normal((users, TASTES), dtype=np.float32) / np.float32(TASTES**0.5)
    movie_taste = random.standard_normal((movies, TASTES), dtype=np.float32) / np.float32(TASTES**0.5)

    def affinity(user: NDArray[np.integer], movie: NDArray[np.integer]) -> NDArray[np.float32]:
        total = np.zeros(len(user), dtype=np.float32)
        for axis in range(TASTES):
            total += user_taste[user, axis] * movie_taste[movie, axis]
        return total * np.float32(taste)

    pairs = np.empty(0, dtype=np.int64)
    while len(pairs) < ratings:
        # At least a tenth: every round sorts all pairs, and what is left shrinks slowly towards the end.
        draws = max(2 * (ratings - len(pairs)), ratings // 10, 1024)
        user = np.searchsorted(activity, random.random(draws) * activity[-1]).clip(max=users - 1)
        movie = np.searchsorted(chance, random.random(draws) * chance[-1]).clip(max=movies - 1)
        liked = random.random(draws) < 1 / (1 + np.exp(-affinity(user, movie)))
        pairs = np.union1d(pairs, user[liked] * movies + movie[liked])
    # Shuffled before and sorted by user after, so that the movies of a user come in no particular order.
    kept = random.permutation(pairs)[:ratings]
    kept = kept[np.argsort(kept // movies, kind="stable")]
    user, movie = kept // movies, kept % movies
    low, high, step = scale
    stars = 3.5 + 0.8 * affinity(user, movie) + 0.7 * random.standard_normal(ratings, dtype=np.float32)
    values = np.clip(np.round(stars / step) * step, low, high)
    return (user + 1).astype(np.int32), (movie + 1).astype(np.int32), values.astype(np.float32)


def write_archive(
    path: Path,
    release: str,
    users: NDArray[np.int32],
    movies: NDArray[np.int32],
    ratings: NDArray[np.float32],
    catalogue: int,
) -> None:
    """Write ratings and a list of movies as a release lays them out.

    Args:
        path: the zip archive to write.
        release: whose members and layout to use.
        users: (n,) user ids.
        movies: (n,) movie ids.
        ratings: (n,) ratings.
        catalogue: how many movies to list.
    """
    files = RELEASES[release]
    layout = files.layout
    whole = files.scale[2] == 1
    columns = (users, movies, ratings.astype(np.int32) if whole else ratings, np.arange(len(users)) + FIRST_SECOND)
    table = pa.table(dict(zip(RATING_COLUMNS, columns, strict=True)))
    ids = np.arange(1, catalogue + 1)
    values = {
        "movie_id": ids,
        # One title in ten has a letter outside ASCII, and one in ten a comma, which CSV has to quote.
        "title": [
            f"{'Amélie' if i % 10 == 0 else 'Letter, The' if i % 10 == 5 else 'Movie'} {i}"
            + ("" if "year" in layout.columns else f" ({1950 + i % 50})")
            for i in ids.tolist()
        ],
        "year": [str(1950 + i % 50) for i in ids.tolist()],
        "genres": [layout.genre_separator.join(sorted({GENRES[i % 6], GENRES[i // 6 % 6]})) for i in ids.tolist()],
    }
    listed = pa.table({name: values[name] for name in layout.columns})
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for which, (name, part) in enumerate(((files.ratings, table), (files.movies, listed))):
            archive.writestr(zipfile.ZipInfo(name), _as_text(part, layout, which), zipfile.ZIP_DEFLATED, 1)


def _as_text(table: pa.Table, layout: Layout, which: int) -> bytes:
    separator = layout.separator if len(layout.separator) == 1 else "\t"
    options = pyarrow.csv.WriteOptions(
        include_header=False, delimiter=separator, quoting_style="needed" if layout.quoted else "none"
    )
    buffer = io.BytesIO()
    if layout.header:
        buffer.write((separator.join(layout.header[which]) + "\n").encode())
    pyarrow.csv.write_csv(table, buffer, options)
    text = buffer.getvalue()
    if layout.encoding != "utf-8":
        text = text.decode().encode(layout.encoding)
    return text.replace(b"\t", layout.separator.encode()) if separator != layout.separator else text


if __name__ == "__main__":
    main()
