"""Movies found by title."""

import pytest

from stages.lib.errors import UserError
from stages.lib.titles import find_movie, search

TITLES = ["Heat (1995)", "Dead Heat (1988)", "Sting, The (1973)", "Twins (1988)", "Twins (1988)", "Amélie (2001)"]
POPULARITY = [50, 3, 20, 2, 9, 7]


def find(title: str) -> int:
    return find_movie(title, TITLES, POPULARITY, "--likes")


def suggested(title: str) -> str:
    with pytest.raises(UserError) as refusal:
        find(title)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("title", "movie"), [("Heat (1995)", 0), ("HEAT (1995)", 0), ("  sting, the (1973)", 2), ("AMÉLIE (2001)", 5)]
)
def test_a_whole_title_is_found_in_capitals_or_not(title: str, movie: int) -> None:
    assert find(title) == movie


def test_of_several_movies_of_one_title_the_one_rated_most_is_meant() -> None:
    assert find("Twins (1988)") == 4


def test_part_of_a_title_suggests_all_that_hold_it_rated_most_first() -> None:
    assert suggested("heat") == "--likes: there is no movie 'heat'; did you mean 'Heat (1995)' or 'Dead Heat (1988)'?"
    assert suggested("twins").endswith("did you mean 'Twins (1988)'?")
    assert suggested("The Sting").endswith("did you mean 'Sting, The (1973)'?")


def test_a_slip_suggests_what_is_close() -> None:
    assert suggested("Heta (1995)").endswith("did you mean 'Heat (1995)'?")
    assert suggested("heat (1994)").endswith("did you mean 'Heat (1995)' or 'Dead Heat (1988)'?")
    assert suggested("The Sting (1974)").endswith("did you mean 'Sting, The (1973)'?")
    assert suggested("The Stnig").endswith("did you mean 'Sting, The (1973)'?")
    assert suggested("Amelie (2001)").endswith("did you mean 'Amélie (2001)'?")


def test_the_same_name_in_another_year_comes_before_names_that_hold_it() -> None:
    titles, popularity = ["Dead Heat (1988)", "Heat (1995)"], [9, 1]
    for wanted in ("Heat (1994)", "heat"):
        with pytest.raises(UserError, match=r"did you mean 'Heat \(1995\)' or 'Dead Heat \(1988\)'\?"):
            find_movie(wanted, titles, popularity, "--likes")


def test_what_is_like_nothing_is_told_so() -> None:
    expected = "--likes: there is no movie 'zzzzzzzz' and no title like it; give a title with its year"
    assert suggested("zzzzzzzz") == expected
    assert "no movie ' '" in suggested(" ")


def test_many_suggestions_are_cut() -> None:
    titles = [f"Part {number} (2000)" for number in range(9)]
    with pytest.raises(UserError, match=r"'Part 0 \(2000\)' or .* or 'Part 4 \(2000\)' or one of 4 others\?"):
        find_movie("part", titles, [1] * 9, "--likes")


def test_search_takes_words_in_any_order() -> None:
    assert search("the STING", TITLES) == [2]
    assert search("1988", TITLES) == [1, 3, 4]
    assert search("", TITLES) == list(range(6))
    assert search("heat 1973", TITLES) == []
