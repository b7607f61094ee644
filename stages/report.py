"""Write a page that shows the data, what the model learned, how it compares and what it recommends."""

from recommender.environment import check_environment
from recommender.errors import run
from recommender.params_file import load_params
from recommender.paths import REPORT
from recommender.report.page import Run, render
from recommender.storage import write_text


def main() -> None:
    """Read what the other stages wrote and write the page."""
    check_environment("drawing")
    write_text(REPORT, render(Run(load_params())))


if __name__ == "__main__":
    run(main)
