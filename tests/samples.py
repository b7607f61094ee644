"""The same four ratings of three movies in every layout, by the name of a release; any ratings as split writes them."""

import zipfile
from pathlib import Path

import pyarrow as pa

from recommender.data.movielens import GENRES, RELEASES
from recommender.data.tables import extract
from recommender.paths import ITEMS, USERS
from recommender.storage import read_table, write_table

ITEM_ROWS = [
    (3, "Amélie, the (2001)", "Comedy|Romance"),
    (1, "Toy: Story (1995)", "Animation"),
    (7, "unknown", "unknown"),
]


def flags(*genres: str) -> str:
    """Return the columns of genres in u.item."""
    return "|".join(str(int(genre in genres)) for genre in GENRES)


ITEM_TEXT = {
    "ml-100k": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "3\tAmélie, the\t2001\tComedy Romance\n1\tToy: Story\t1995\tAnimation\n7\tunknown\t\tunknown\n"
    ),
    "ml-latest-small": (
        "movieId,title,genres\n"
        '3,"Amélie, the (2001)",Comedy|Romance\n1,Toy: Story (1995),Animation\n7,unknown,unknown\n'
    ),
    "ml-1m": "3::Amélie, the (2001)::Comedy|Romance\n1::Toy: Story (1995)::Animation\n7::unknown::unknown\n",
    "ml-10m": "3::Amélie, the (2001)::Comedy|Romance\n1::Toy: Story (1995)::Animation\n7::unknown::unknown\n",
    "ml-100k-zip": (
        f"3|Amélie, the (2001)|01-Jan-2001||http://us.imdb.com/Title?Amelie+(2001)|{flags('Comedy', 'Romance')}\n"
        f"1|Toy: Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story|{flags('Animation')}\n"
        f"7|unknown||||{flags('unknown')}\n"
    ),
}
RATING_ROWS = [(9, 3, 4.0, 978300760), (9, 1, 3.0, 978302109), (2, 3, 5.0, 978301968), (2147483647, 7, 1.0, 0)]
RATING_TEXT = {
    "ml-100k": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "9\t3\t4\t978300760\n9\t1\t3\t978302109\n2\t3\t5\t978301968\n2147483647\t7\t1\t0\n"
    ),
    "ml-latest-small": (
        "userId,movieId,rating,timestamp\n9,3,4.0,978300760\n9,1,3.0,978302109\n2,3,5.0,978301968\n2147483647,7,1.0,0\n"
    ),
    "ml-1m": "9::3::4::978300760\n9::1::3::978302109\n2::3::5::978301968\n2147483647::7::1::0\n",
    "ml-10m": "9::3::4::978300760\n9::1::3::978302109\n2::3::5::978301968\n2147483647::7::1::0\n",
    "ml-100k-zip": "9\t3\t4\t978300760\n9\t1\t3\t978302109\n2\t3\t5\t978301968\n2147483647\t7\t1\t0\n",
}


def pack(path: Path, name: str, items: str | bytes | None = None, ratings: str | bytes | None = None) -> Path:
    """Write an archive of these texts, or of the ones above, in the release's encoding."""
    release = RELEASES[name]
    texts = {
        release.items: ITEM_TEXT[name] if items is None else items,
        release.ratings: RATING_TEXT[name] if ratings is None else ratings,
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in texts.items():
            archive.writestr(member, text if isinstance(text, bytes) else text.encode(release.layout.encoding))
    return path


def extracted(path: Path, name: str) -> tuple[pa.Table, pa.Table]:
    """Return the ratings and the items in an archive in the layout of a release."""
    ratings = path.with_suffix(".parquet")
    items = extract(path, RELEASES[name], ratings)
    return read_table(ratings), items


def rows(table: pa.Table) -> list[tuple[object, ...]]:
    """Return a table's rows."""
    return [tuple(row.values()) for row in table.to_pylist()]


def write_split(parts: dict[Path, list[tuple[int, int, float]]], shape: tuple[int, int]) -> None:
    """Write what split would write of these parts, each of (user, item, rating), for so many users and items."""
    write_table(USERS, pa.table({"user_id": range(shape[0])}))
    write_table(ITEMS, pa.table({"item_id": range(shape[1])}))
    types = {"user": pa.int32(), "item": pa.int32(), "rating": pa.float32()}
    for path, ratings in parts.items():
        columns = zip(*ratings, strict=True) if ratings else ((), (), ())
        arrays = (pa.array(column, kind) for column, kind in zip(columns, types.values(), strict=True))
        write_table(path, pa.table(dict(zip(types, arrays, strict=True))))
