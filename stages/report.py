"""Write a page of the data, what the model learned, how it compares and what it recommends, and a card of each."""

from recommender.environment import check_environment
from recommender.errors import run
from recommender.params_file import load_params
from recommender.paths import DATA_CARD, MODEL_CARD, REPORT
from recommender.report.cards import data_card, model_card
from recommender.report.page import Run, render
from recommender.storage import write_text


def main() -> None:
    """Read what the other stages wrote and write the page and the cards."""
    check_environment("drawing")
    this = Run(load_params())
    write_text(REPORT, render(this))
    write_text(MODEL_CARD, model_card(this))
    write_text(DATA_CARD, data_card(this))


if __name__ == "__main__":
    run(main)
