"""Requests to a trained model that it cannot answer end in one line."""

import dataclasses
import re
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recommender.paths import FACTORS, FOLD_IN, ITEMS
from recommender.ranking import fold_in
from recommender.ranking.factors import Factors
from recommender.ranking.user_kernel import UserKernel
from recommender.storage import read_table, write_arrays, write_table
from stages import recommend
from tests.conftest import Ending

pytestmark = pytest.mark.usefixtures("here")

CASES = {
    "an unknown user": ["--user", "61"],
    "a negative user": ["--user", "-3"],
    "a user beyond all integers": ["--user", "99999999999999999999999"],
    "no items": ["--user", "1", "--k", "0"],
    "more items than there are": ["--user", "1", "--k", "81"],
    "items beyond all integers": ["--likes", "Movie 3 (1953)", "--k", "99999999999999999999999"],
    "a title in another year": ["--likes", "Movie 3 (1954)"],
    "a typing error in a title": ["--likes", "Movei 3 (1953)"],
    "words of several titles": ["--likes", "letter"],
    "a title like none": ["--likes", "zzzzzzzz"],
    "no title": ["--likes", ""],
    "an unknown category": ["--user", "1", "--category", "Comedy", "Comdey"],
    "an unknown item left out": ["--user", "1", "--exclude", "Movie 3 (1953)", "Movie 3 (1954)"],
    "an unknown id left out": ["--user", "1", "--exclude", "99999"],
    "a year that is no number": ["--user", "1", "--from-year", "the nineties"],
    "the year 0": ["--user", "1", "--from-year", "0"],
    "a year with a sign": ["--user", "1", "--from-year", "+1990"],
    "a year after every item": ["--user", "1", "--from-year", "2999"],
    "a year beyond all integers": ["--user", "1", "--from-year", "99999999999999999999999"],
}


@pytest.mark.parametrize("case", CASES)
def test_recommend(case: str, ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recommend", *CASES[case]])
    option = next(word for word in reversed(CASES[case]) if word.startswith("--"))
    assert re.search(f"^{option}: .*{re.escape(CASES[case][-1])}", ending(recommend.main))


@pytest.mark.parametrize("option", ["--category", "--from-year"])
def test_filters_for_items_without_categories_and_years(
    option: str, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = read_table(ITEMS)
    plain = {"title": [f"Item {item}" for item in range(len(items))], "categories": [""] * len(items)}
    for name, values in plain.items():
        items = items.set_column(items.column_names.index(name), name, pa.array(values))
    write_table(ITEMS, items)
    monkeypatch.setattr(sys, "argv", ["recommend", "--user", "1", option, "1990"])
    assert ending(recommend.main).startswith(f"{option}: ")


def test_a_new_user_where_scores_depend_on_others(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    dataclasses.replace(Factors.load(), interaction="batch_sum").save()
    monkeypatch.setattr(sys, "argv", ["recommend", "--likes", "Movie 3 (1953)"])
    assert "train.mf.interaction" in ending(recommend.main)


def test_a_new_user_with_the_loss_of_another_model(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    fold_in.save(fold_in.SoftmaxLoss(2.0, 0.1, ensemble_size=3))
    monkeypatch.setattr(sys, "argv", ["recommend", "--likes", "Movie 3 (1953)"])
    assert str(FOLD_IN) in ending(recommend.main)


def test_a_new_user_with_the_kernel_of_another_model(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        field.name: 1.0 if field.type is float else np.ones((3, 3), np.float32)
        for field in dataclasses.fields(UserKernel)
    }
    fold_in.save(UserKernel(**values))
    monkeypatch.setattr(sys, "argv", ["recommend", "--likes", "Movie 3 (1953)"])
    assert ending(recommend.main).startswith(f"{FOLD_IN}: belongs to other vectors than {FACTORS}; ")


def test_a_new_user_with_another_file_of_arrays(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrays(FOLD_IN, {"loss": np.array("hinge")})
    monkeypatch.setattr(sys, "argv", ["recommend", "--likes", "Movie 3 (1953)"])
    assert str(FOLD_IN) in ending(recommend.main)
