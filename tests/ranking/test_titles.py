"""Items found by title."""

import pytest

from recommender.errors import UserError
from recommender.ranking.titles import find_item, search

TITLES = ["Heat (1995)", "Dead Heat (1988)", "Sting, The (1973)", "Twins (1988)", "Twins (1988)", "Amélie (2001)"]
POPULARITY = [50, 3, 20, 2, 9, 7]


@pytest.mark.parametrize(
    ("title", "item"),
    [
        ("Heat (1995)", 0),
        ("HEAT (1995)", 0),
        ("  sting, the (1973)", 2),
        ("AMÉLIE (2001)", 5),
        ("Twins (1988)", 4),  # of two, the one rated most
        ("heat", 0),  # a title without its year, though another has that word too
        ("the sting", 2),  # words that one title has
        ("amélie", 5),
    ],
)
def test_a_title_or_words_of_only_one_are_found_in_any_case(title: str, item: int) -> None:
    assert find_item(title, TITLES, POPULARITY, "--likes") == item


@pytest.mark.parametrize(
    ("title", "end"),
    [
        ("twins", "did you mean 'Twins (1988)'?"),
        ("Heta (1995)", "did you mean 'Heat (1995)'?"),
        ("heat (1994)", "did you mean 'Heat (1995)' or 'Dead Heat (1988)'?"),
        ("The Sting (1974)", "did you mean 'Sting, The (1973)'?"),
        ("The Stnig", "did you mean 'Sting, The (1973)'?"),
        ("Amelie (2001)", "did you mean 'Amélie (2001)'?"),
        ("zzzzzzzz", "--likes: there is no item 'zzzzzzzz' and no title like it"),
        ("", "no item '' and no title like it"),
        (" ", "no item ' ' and no title like it"),
    ],
)
def test_another_title_is_refused_with_the_closest(title: str, end: str) -> None:
    with pytest.raises(UserError) as refusal:
        find_item(title, TITLES, POPULARITY, "--likes")
    assert str(refusal.value).startswith("--likes: there is no item ")
    assert str(refusal.value).endswith(end)


def test_of_many_close_titles_five_are_suggested() -> None:
    titles = [f"Part {number} (2000)" for number in range(9)]
    with pytest.raises(UserError) as refusal:
        find_item("part", titles, [1] * 9, "--likes")
    assert str(refusal.value).count("'Part ") == 5


def test_search_takes_words_in_any_order() -> None:
    assert search("the STING", TITLES) == [2]
    assert search("1988", TITLES) == [1, 3, 4]
    assert search("", TITLES) == list(range(6))
    assert search("heat 1973", TITLES) == []
