"""The catalogue of MovieLens releases: where each archive is, its checksum, and how its files are laid out."""

from dataclasses import dataclass
from typing import Final

RATING_COLUMNS: Final = ("user_id", "item_id", "rating", "timestamp")
LARGER: Final = 40  # times the size of the release that an archive may have: 25 million ratings laid out as ml-1m fit


@dataclass(frozen=True)
class Layout:
    """How the files inside an archive are written."""

    separator: str  # between columns
    header: tuple[tuple[str, ...], tuple[str, ...]] | None  # the first lines of the ratings and of the items
    encoding: str = "utf-8"
    quoted: bool = False  # whether values may be quoted, as in CSV
    # Of the items' file; `year` is appended to `title` where it is a column of its own.
    columns: tuple[str, ...] = ("item_id", "title", "categories")
    category_separator: str = "|"  # between the categories of one item

    @property
    def first_line(self) -> int:
        """The number of the first line with values."""
        return 2 if self.header else 1


@dataclass(frozen=True)
class Release:
    """One MovieLens release."""

    source: str  # an https URL, or ``pip:NAME==VERSION`` for a wheel on the package index
    sha256: str  # of the archive, in lower-case hexadecimal digits
    ratings: str  # the archive's member with the ratings
    items: str  # the archive's member with the movies
    layout: Layout
    scale: tuple[float, float, float]  # the lowest rating, the highest, and the step between ratings
    size: int  # bytes of the unpacked ratings, about

    @property
    def limit(self) -> int:
        """The most bytes that an archive, and each of its two members, may have."""
        return LARGER * self.size


CSV: Final = Layout(
    separator=",",
    header=(("userId", "movieId", "rating", "timestamp"), ("movieId", "title", "genres")),
    quoted=True,
)
COLONS: Final = Layout(separator="::", header=None, encoding="latin-1")
RECBOLE: Final = Layout(
    separator="\t",
    header=(
        ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
    ),
    columns=("item_id", "title", "year", "categories"),
    category_separator=" ",
)

RELEASES: Final = {
    # The ratings in this wheel are GroupLens's u.data byte for byte, and every package index serves it.
    "ml-100k": Release(
        source="pip:recbole==1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        ratings="recbole/dataset_example/ml-100k/ml-100k.inter",
        items="recbole/dataset_example/ml-100k/ml-100k.item",
        layout=RECBOLE,
        scale=(1.0, 5.0, 1.0),
        size=2_000_000,
    ),
    "ml-latest-small": Release(
        source="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
        sha256="696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        ratings="ml-latest-small/ratings.csv",
        items="ml-latest-small/movies.csv",
        layout=CSV,
        scale=(0.5, 5.0, 0.5),
        size=2_500_000,
    ),
    "ml-1m": Release(
        source="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        ratings="ml-1m/ratings.dat",
        items="ml-1m/movies.dat",
        layout=COLONS,
        scale=(1.0, 5.0, 1.0),
        size=24_600_000,
    ),
}
