"""Number users and items and divide the ratings into train, validation and test."""

import sys

from recommender.data.splitting import split_at_once
from recommender.environment import check_environment
from recommender.errors import run
from recommender.parallel.sharding import split_in_parts
from recommender.params_file import load_params
from recommender.paths import GIVEN, SPLIT_METRICS
from recommender.storage import remove, write_json


def main() -> None:
    """Split the extracted ratings and describe the parts."""
    check_environment("tables")
    params = load_params()
    remove(GIVEN)  # of an earlier run: not every method has it
    split = split_in_parts if params.engine.parts > 1 else split_at_once
    described, removed = split(params)
    write_json(SPLIT_METRICS, described | ({"removed": removed} if removed else {}))
    for name, count in removed.items():
        print(f"data.{name}: {count:,} ratings removed, {described['ratings']:,} are left", file=sys.stderr)


if __name__ == "__main__":
    run(main)
