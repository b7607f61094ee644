"""Number users and items and divide the ratings into train, validation and test."""

import sys

import pyarrow as pa
import pyarrow.compute as pc

from recommender.data.filters import filter_ratings
from recommender.data.interactions import with_scale
from recommender.data.splitting import METHODS, describe, encode
from recommender.environment import check_environment
from recommender.errors import run
from recommender.params_file import load_params
from recommender.paths import GIVEN, ITEMS, LISTED_ITEMS, PROCESSED, RATINGS, SPLIT_METRICS, USERS
from recommender.storage import read_table, remove, write_json, write_table


def main() -> None:
    """Split the extracted ratings and describe the parts."""
    check_environment("tables")
    params = load_params()
    ratings = read_table(RATINGS, ["user_id", "item_id", "rating", "timestamp"])
    ratings, removed = filter_ratings(ratings, params.data)
    indexed, users, items = encode(ratings, read_table(LISTED_ITEMS, ["item_id", "title", "categories"], others=True))
    parts = METHODS[params.split.method](indexed, params.split)
    columns = indexed.select(["user", "item", "rating"])
    if params.data.dataset == "own":
        found = pc.min_max(columns["rating"]).as_py()
        columns = with_scale(columns, params.data.own.scale or (found["min"], found["max"]))
    remove(GIVEN)  # of an earlier run: not every method has it
    for name, rows in parts.items():
        write_table(PROCESSED / f"{name}.parquet", columns.take(pa.array(rows)))
    write_table(USERS, users)
    write_table(ITEMS, items)
    removals = {"removed": removed} if removed else {}
    write_json(SPLIT_METRICS, describe(indexed, parts, len(users), len(items)) | removals)
    for name, count in removed.items():
        print(f"data.{name}: {count:,} ratings removed, {len(ratings):,} are left", file=sys.stderr)


if __name__ == "__main__":
    run(main)
