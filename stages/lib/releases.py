"""The catalogue of MovieLens releases: where each archive is, its checksum, and how its files are laid out."""

from dataclasses import dataclass
from typing import Final

RATING_COLUMNS: Final = ("user_id", "movie_id", "rating", "timestamp")
LARGER: Final = 40  # times as much as the release itself a copy may hold: 25 million ratings laid out as ml-1m fit


@dataclass(frozen=True)
class Layout:
    """How the files inside an archive are written.

    Attributes:
        separator: between columns.
        encoding: of the text.
        header: the names in the ratings' and movies' first lines, or None where the data starts at once.
        quoted: whether values may be quoted, as CSV does.
        columns: the movie file's columns; `year` is appended to `title` where it stands apart.
        genre_separator: between the genres of one movie.
    """

    separator: str
    encoding: str
    header: tuple[tuple[str, ...], tuple[str, ...]] | None
    quoted: bool
    columns: tuple[str, ...]
    genre_separator: str


@dataclass(frozen=True)
class Release:
    """One MovieLens release.

    Attributes:
        source: an https address, or ``pip:NAME==VERSION`` for a wheel on the package index.
        sha256: of the archive, in lower-case hexadecimal digits.
        ratings: the archive's member that holds the ratings.
        movies: the archive's member that holds the movies.
        layout: how those two are written.
        scale: the lowest rating, the highest, and the step between ratings.
        size: about how many bytes the ratings are when unpacked.
    """

    source: str
    sha256: str
    ratings: str
    movies: str
    layout: Layout
    scale: tuple[float, float, float]
    size: int

    @property
    def limit(self) -> int:
        """Bytes that an archive, and each of its two members, may have at most."""
        return LARGER * self.size


CSV: Final = Layout(
    separator=",",
    encoding="utf-8",
    header=(("userId", "movieId", "rating", "timestamp"), ("movieId", "title", "genres")),
    quoted=True,
    columns=("movie_id", "title", "genres"),
    genre_separator="|",
)
COLONS: Final = Layout(
    separator="::",
    encoding="latin-1",
    header=None,
    quoted=False,
    columns=("movie_id", "title", "genres"),
    genre_separator="|",
)
RECBOLE: Final = Layout(
    separator="\t",
    encoding="utf-8",
    header=(
        ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
    ),
    quoted=False,
    columns=("movie_id", "title", "year", "genres"),
    genre_separator=" ",
)

RELEASES: Final = {
    # The ratings in this wheel are GroupLens's u.data byte for byte, and every package index serves it.
    "ml-100k": Release(
        source="pip:recbole==1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        ratings="recbole/dataset_example/ml-100k/ml-100k.inter",
        movies="recbole/dataset_example/ml-100k/ml-100k.item",
        layout=RECBOLE,
        scale=(1.0, 5.0, 1.0),
        size=2_000_000,
    ),
    "ml-latest-small": Release(
        source="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
        sha256="696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        ratings="ml-latest-small/ratings.csv",
        movies="ml-latest-small/movies.csv",
        layout=CSV,
        scale=(0.5, 5.0, 0.5),
        size=2_500_000,
    ),
    "ml-1m": Release(
        source="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        ratings="ml-1m/ratings.dat",
        movies="ml-1m/movies.dat",
        layout=COLONS,
        scale=(1.0, 5.0, 1.0),
        size=24_600_000,
    ),
}
