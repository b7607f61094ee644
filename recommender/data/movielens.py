"""The catalogue of MovieLens releases: where each archive is, its checksum, and how its files are laid out."""

from dataclasses import dataclass
from typing import Final

RATING_COLUMNS: Final = ("user_id", "item_id", "rating", "timestamp")
LARGER: Final = 40  # times the size of the release that an archive may have, such as a synthetic one in its layout,
LARGEST: Final = 2**32  # up to so many bytes
GENRES: Final = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


@dataclass(frozen=True)
class Layout:
    """How the files inside an archive are written."""

    separator: str  # between columns of the ratings
    header: tuple[tuple[str, ...], tuple[str, ...]] | None  # the first lines of the ratings and of the items
    encoding: str = "utf-8"
    quoted: bool = False  # whether values may be quoted, as in CSV
    # Of the items' file; `year` is appended to `title` where it is a column of its own, and flags are in place of
    # `categories` where each of `GENRES` is one.
    columns: tuple[str, ...] = ("item_id", "title", "categories")
    category_separator: str = "|"  # between the categories of one item
    item_separator: str | None = None  # between columns of the items, where it is another

    @property
    def separators(self) -> tuple[str, str]:
        """The separators in the ratings and in the items."""
        return self.separator, self.item_separator or self.separator

    @property
    def first_line(self) -> int:
        """The number of the first line with values."""
        return 2 if self.header else 1


@dataclass(frozen=True)
class Release:
    """One MovieLens release."""

    source: str  # an https URL, or ``pip:NAME==VERSION`` for a wheel on the package index
    sha256: str | None  # of the archive, in lower-case hexadecimal digits; None: only its MD5 is known
    ratings: str  # the archive's member with the ratings
    items: str  # the archive's member with the movies
    layout: Layout
    scale: tuple[float, float, float]  # the lowest rating, the highest, and the step between ratings
    size: int  # bytes of the unpacked ratings, about
    md5: str | None = None  # published by GroupLens: it shows damage, and would not stop a forger

    @property
    def limit(self) -> int:
        """The most bytes that an archive, and each of its two members, may have."""
        return min(LARGER * self.size, LARGEST)

    @property
    def checksum(self) -> str:
        """The algorithm and the digits of the archive's checksum: ``sha256:...``, or ``md5:...`` where that is all."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}"


CSV: Final = Layout(
    separator=",",
    header=(("userId", "movieId", "rating", "timestamp"), ("movieId", "title", "genres")),
    quoted=True,
)
COLONS: Final = Layout(separator="::", header=None, encoding="latin-1")
COLONS_UTF8: Final = Layout(separator="::", header=None)
FLAGS: Final = Layout(
    separator="\t",
    header=None,
    encoding="latin-1",
    columns=("item_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES),
    item_separator="|",
)
RECBOLE: Final = Layout(
    separator="\t",
    header=(
        ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
    ),
    columns=("item_id", "title", "year", "categories"),
    category_separator=" ",
)


def _csv(name: str, sha256: str | None, size: int, md5: str | None = None) -> Release:
    """Return a release in the layout that GroupLens has used since 2015."""
    source = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return Release(source, sha256, f"{name}/ratings.csv", f"{name}/movies.csv", CSV, (0.5, 5.0, 0.5), size, md5)


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
    "ml-latest-small": _csv(
        "ml-latest-small", "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436", 2_500_000
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
    "ml-100k-zip": Release(
        source="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        sha256=None,
        ratings="ml-100k/u.data",
        items="ml-100k/u.item",
        layout=FLAGS,
        scale=(1.0, 5.0, 1.0),
        size=2_000_000,
        md5="0e33842e24a9c977be4e0107933c0723",
    ),
    "ml-10m": Release(
        source="https://files.grouplens.org/datasets/movielens/ml-10m.zip",
        sha256="813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862",
        ratings="ml-10M100K/ratings.dat",
        items="ml-10M100K/movies.dat",
        layout=COLONS_UTF8,
        scale=(0.5, 5.0, 0.5),
        size=265_000_000,
    ),
    "ml-20m": _csv("ml-20m", "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3", 533_000_000),
    "ml-25m": _csv("ml-25m", "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa", 678_000_000),
    "ml-32m": _csv("ml-32m", None, 877_000_000, md5="d472be332d4daa821edc399621853b57"),
}
