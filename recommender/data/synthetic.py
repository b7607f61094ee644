"""Write archives in the MovieLens layouts with any number of ratings, where users have planted tastes.

python -m recommender.data.synthetic --layout ml-1m --users 6040 --items 3706 --ratings 1000000 archive.zip
"""

import argparse
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from recommender.data.movielens import GENRES, RATING_COLUMNS, RELEASES, Layout
from recommender.storage import atomic

CATEGORIES: Final = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi")
TASTES: Final = 4  # dimensions of the planted taste
FIRST_SECOND: Final = 900_000_000  # of the timestamps, which count up row by row
# Ids of users and of items, from 1, and ratings: (n,) each.
Ratings = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


def main() -> None:
    """Write one archive as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m recommender.data.synthetic", description=__doc__)
    parser.add_argument("--layout", choices=sorted(RELEASES), default="ml-1m", help="of which release")
    parser.add_argument("--users", type=int, default=6040)
    parser.add_argument("--items", type=int, default=3706)
    parser.add_argument("--ratings", type=int, default=1_000_000)
    parser.add_argument("--popularity", type=float, default=0.8, help="exponent of the popularity tail, 0 for none")
    parser.add_argument("--taste", type=float, default=1.5, help="strength of the planted taste, 0 for none")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pieces", type=int, default=1, help="draw the users in so many pieces, to save memory")
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    options = {"popularity": given.popularity, "taste": given.taste, "seed": given.seed}
    scale = RELEASES[given.layout].scale
    users, ratings = given.users // given.pieces, given.ratings // given.pieces
    pieces = (
        make_ratings(users, given.items, ratings, scale=scale, piece=piece, **options) for piece in range(given.pieces)
    )
    write_archive(given.path, given.layout, pieces, given.items)


def make_ratings(
    num_users: int,
    num_items: int,
    num_ratings: int,
    *,
    popularity: float = 0.8,
    taste: float = 1.5,
    scale: tuple[float, float, float] = (1.0, 5.0, 1.0),
    seed: int = 7,
    piece: int = 0,
) -> Ratings:
    """Draw distinct (user, item) pairs, at most half of all, and their ratings, by ascending user.

    Users differ in how much they rate (log-normal), items in how popular they are (rank to the power of -popularity).
    Each has a hidden vector; users rate more of the items along their own, and rate those higher: `taste` is how much.
    The next `piece` has other users with other ratings of the same items.
    """
    if num_ratings > num_users * num_items // 2:
        raise ValueError(f"{num_ratings} ratings are more than half of {num_users} x {num_items}")
    random = np.random.default_rng(seed)
    activity = np.cumsum(random.lognormal(0, 1, num_users))
    chance = np.cumsum(random.permutation(np.arange(1, num_items + 1, dtype=np.float64) ** -popularity))
    user_taste = random.standard_normal((num_users, TASTES), dtype=np.float32) / np.float32(TASTES**0.5)
    item_taste = random.standard_normal((num_items, TASTES), dtype=np.float32) / np.float32(TASTES**0.5)

    def affinity(user: NDArray[np.integer], item: NDArray[np.integer]) -> NDArray[np.float32]:
        total = np.zeros(len(user), dtype=np.float32)
        for axis in range(TASTES):
            total += user_taste[user, axis] * item_taste[item, axis]
        return total * np.float32(taste)

    if piece:
        random = np.random.default_rng([seed, piece])
    pairs = np.empty(0, dtype=np.int64)
    while len(pairs) < num_ratings:
        # At least a tenth: every round sorts all pairs, and what is left shrinks slowly towards the end.
        draws = max(2 * (num_ratings - len(pairs)), num_ratings // 10, 1024)
        user = np.searchsorted(activity, random.random(draws) * activity[-1]).clip(max=num_users - 1)
        item = np.searchsorted(chance, random.random(draws) * chance[-1]).clip(max=num_items - 1)
        liked = random.random(draws) < 1 / (1 + np.exp(-affinity(user, item)))
        pairs = np.union1d(pairs, user[liked] * num_items + item[liked])
    # Shuffled before and sorted by user after, so that the items of a user come in no particular order.
    kept = random.permutation(pairs)[:num_ratings]
    kept = kept[np.argsort(kept // num_items, kind="stable")]
    user, item = kept // num_items, kept % num_items
    low, high, step = scale
    stars = 3.5 + 0.8 * affinity(user, item) + 0.7 * random.standard_normal(num_ratings, dtype=np.float32)
    values = np.clip(np.round(stars / step) * step, low, high)
    user += piece * num_users
    return (user + 1).astype(np.int32), (item + 1).astype(np.int32), values.astype(np.float32)


def write_archive(path: Path, release: str, pieces: Iterable[Ratings], catalogue: int) -> None:
    """Write ratings and a list of `catalogue` items into a zip archive, as a release lays them out."""
    files = RELEASES[release]
    layout = files.layout
    ids = range(1, catalogue + 1)
    # One title in ten has a letter outside ASCII, and one in ten a comma, which CSV has to quote.
    titles = [f"{'Amélie' if i % 10 == 0 else 'Letter, The' if i % 10 == 5 else 'Movie'} {i}" for i in ids]
    years = [str(1950 + i % 50) for i in ids]
    if "year" not in layout.columns:
        titles = [f"{title} ({year})" for title, year in zip(titles, years, strict=True)]
    pairs = [sorted({CATEGORIES[i % 6], CATEGORIES[i // 6 % 6]}) for i in ids]
    categories = [layout.category_separator.join(pair) for pair in pairs]
    every = {"item_id": ids, "title": titles, "year": years, "categories": categories}
    every |= {genre: [int(genre in pair) for pair in pairs] for genre in GENRES}
    every["release_date"] = [f"01-Jan-{year}" for year in years]
    every["imdb_url"] = [f"http://us.imdb.com/M/title-exact?{i}" for i in ids]
    listed = pa.table({name: every.get(name, [""] * catalogue) for name in layout.columns})
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        packed = zipfile.ZipInfo(files.ratings)
        packed.compress_type = zipfile.ZIP_DEFLATED
        packed._compresslevel = 1  # type: ignore[attr-defined] # public from Python 3.13 on
        with archive.open(packed, "w", force_zip64=True) as member:
            second = FIRST_SECOND
            for users, items, values in pieces:
                seconds = np.arange(len(users)) + second
                ratings = values.astype(np.int32) if files.scale[2] == 1 else values
                columns = dict(zip(RATING_COLUMNS, (users, items, ratings, seconds), strict=True))
                member.write(_as_text(pa.table(columns), layout, 0, header=second == FIRST_SECOND))
                second += len(users)
        archive.writestr(zipfile.ZipInfo(files.items), _as_text(listed, layout, 1), zipfile.ZIP_DEFLATED, 1)


def _as_text(table: pa.Table, layout: Layout, which: int, *, header: bool = True) -> bytes:
    written = layout.separators[which]
    separator = written if len(written) == 1 else "\t"
    options = pyarrow.csv.WriteOptions(
        include_header=False, delimiter=separator, quoting_style="needed" if layout.quoted else "none"
    )
    buffer = io.BytesIO()
    if layout.header and header:
        buffer.write((separator.join(layout.header[which]) + "\n").encode())
    pyarrow.csv.write_csv(table, buffer, options)
    text = buffer.getvalue()
    if layout.encoding != "utf-8":
        text = text.decode().encode(layout.encoding)
    return text.replace(b"\t", written.encode()) if separator != written else text


if __name__ == "__main__":
    main()
