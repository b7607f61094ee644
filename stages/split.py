"""Number users and items and divide the ratings into train, validation and test."""

import pyarrow as pa

from recommender.data.splitting import METHODS, describe, encode
from recommender.environment import check_environment
from recommender.errors import run
from recommender.params_file import load_params
from recommender.paths import ITEMS, LISTED_ITEMS, PROCESSED, RATINGS, SPLIT_METRICS, USERS
from recommender.storage import read_table, write_json, write_table


def main() -> None:
    """Split the extracted ratings and describe the parts."""
    check_environment("tables")
    params = load_params().split
    ratings = read_table(RATINGS, ["user_id", "item_id", "rating", "timestamp"])
    listed = read_table(LISTED_ITEMS, ["item_id", "title", "categories"])
    indexed, users, items = encode(ratings, listed)
    parts = METHODS[params.method](indexed, params)
    columns = indexed.select(["user", "item", "rating"])
    for name, rows in parts.items():
        write_table(PROCESSED / f"{name}.parquet", columns.take(pa.array(rows)))
    write_table(USERS, users)
    write_table(ITEMS, items)
    write_json(SPLIT_METRICS, describe(indexed, parts, len(users), len(items)))


if __name__ == "__main__":
    run(main)
