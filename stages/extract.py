"""Parse the archive's ratings and items into two checked tables, from a release or from own files."""

from recommender.data.movielens import RELEASES
from recommender.data.own.files import files as own_files
from recommender.data.own.items import read_items
from recommender.data.own.ratings import read_ratings
from recommender.data.tables import extract
from recommender.environment import check_environment
from recommender.errors import run
from recommender.params_file import load_params
from recommender.paths import ARCHIVE, LISTED_ITEMS, RATINGS
from recommender.storage import write_table


def main() -> None:
    """Parse the fetched archive in the layout of the release that ``params.yaml`` names."""
    check_environment("tables")
    data = load_params().data
    if data.dataset == "own":
        listed = own_files(data.own, ARCHIVE)
        ratings = read_ratings(listed[0], data.own)
        items = read_items(listed[1] if len(listed) > 1 else None, data.own, ratings["item_id"])
        write_table(RATINGS, ratings)
    else:
        items = extract(ARCHIVE, RELEASES[data.dataset], RATINGS)
    write_table(LISTED_ITEMS, items)


if __name__ == "__main__":
    run(main)
