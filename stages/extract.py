"""Parse the archive's ratings and items into two checked tables."""

from recommender.data.movielens import RELEASES
from recommender.data.tables import extract
from recommender.environment import check_environment
from recommender.errors import run
from recommender.params_file import load_params
from recommender.paths import ARCHIVE, LISTED_ITEMS, RATINGS
from recommender.storage import write_table


def main() -> None:
    """Parse the fetched archive in the layout of the release that ``params.yaml`` names."""
    check_environment("tables")
    ratings, items = extract(ARCHIVE, RELEASES[load_params().data.dataset])
    write_table(RATINGS, ratings)
    write_table(LISTED_ITEMS, items)


if __name__ == "__main__":
    run(main)
