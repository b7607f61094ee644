"""What a user can ask of a trained model that it cannot give ends in one line."""

import sys
from pathlib import Path

import pytest

from stages import recommend
from stages.lib.factors import PATH, Factors
from tests.conftest import Ending, set_params

CASES = {
    "a user who is not there": ["--user", "61"],
    "no movies": ["--user", "1", "--k", "0"],
    "more movies than there are": ["--user", "1", "--k", "81"],
    "a title in another year": ["--likes", "Movie 3 (1954)"],
    "a slip in a title": ["--likes", "Movei 3 (1953)"],
    "a title like none": ["--likes", "zzzzzzzz"],
    "no title": ["--likes", ""],
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("case", CASES)
def test_recommend(case: str, ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recommend", *CASES[case]])
    assert CASES[case][1] in ending(recommend.main)


@pytest.mark.usefixtures("here")
def test_a_new_person_where_scores_depend_on_others(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = Factors.load()
    arrays = {name: getattr(factors, name) for name in factors.__dataclass_fields__} | {"interaction": "batch_sum"}
    Factors(**arrays).save()
    monkeypatch.setattr(sys, "argv", ["recommend", "--likes", "Movie 3 (1953)"])
    assert "train.interaction" in ending(recommend.main)


def test_a_new_person_after_a_change_of_parameters(here: Path, ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(here, train__embedding_size=11)
    monkeypatch.setattr(sys, "argv", ["recommend", "--likes", "Movie 3 (1953)"])
    assert str(PATH) in ending(recommend.main)
