"""Users and items that a model has not learned: what is listed for the ones, and for nobody the others."""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from recommender.data.interactions import COLUMNS, Interactions
from recommender.evaluation.at_once import measure_factors
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.lists import ListMeasures
from recommender.evaluation.metrics import summary
from recommender.evaluation.results import Summed
from recommender.paths import BASELINES, GIVEN, ITEMS, METRICS, RECOMMENDATIONS, TEST, TRAIN, USERS, VALIDATION
from recommender.ranking.baselines import ease_top_k, ease_weights, liked
from recommender.ranking.factors import Factors
from recommender.ranking.fold_in import RatingLoss, fold_in
from recommender.ranking.learned import DECIMALS, Learned, with_new_users
from recommender.ranking.recommender import Recommender, as_text
from recommender.ranking.topk import top_k_of_all
from recommender.storage import read_json, read_table, write_table
from stages import baselines, recommend, split
from stages import evaluate as evaluate_stage
from tests import reference
from tests.conftest import set_params
from tests.samples import write_split

# User 2 and item 2 are in test alone. Every user's scores are 0, 1, 9 and 2: item 2 would be the best.
KNOWN = [(0, 0, 4.0), (0, 1, 3.0), (1, 0, 5.0), (1, 3, 1.0)]
HELD_OUT = [(0, 2, 5.0), (0, 3, 5.0), (1, 1, 2.0), (2, 0, 4.0), (2, 2, 4.0)]
SHAPE = 3, 4


def interactions(rows: list[tuple[int, int, float]], shape: tuple[int, int] = SHAPE) -> Interactions:
    users, items, ratings = zip(*rows, strict=True) if rows else ((), (), ())
    return Interactions(np.array(users, np.int32), np.array(items, np.int32), np.array(ratings, np.float32), shape)


def model(interaction: str = "dot") -> Factors:
    users, items = np.zeros((3, 2), np.float32), np.zeros((4, 2), np.float32)
    bias = np.array([0, 1, 9, 2], np.float32)
    return Factors(users, items, np.zeros(3, np.float32), bias, np.arange(4, dtype=np.int32), interaction=interaction)


def summed(held_out: HeldOut, factors: Factors, k: int) -> dict[str, Any]:
    """Return what evaluate writes."""
    found = Summed(k, held_out.ratings.num_items)
    found.add(*measure_factors("mf", factors, ListMeasures(held_out, None, k)))
    return found.metrics()


@pytest.mark.parametrize("interaction", ["dot", "batch_sum"])
def test_metrics_worked_out_by_hand(interaction: str) -> None:
    held_out = HeldOut.of(interactions(HELD_OUT), interactions(KNOWN), 0.0)
    factors = model(interaction)
    # User 2 gets items 0 and 1, which have 2 ratings and 1; item 3 has 1 too and comes later.
    assert held_out.lists(factors.top_k, 2).tolist() == [[3, -1], [1, -1], [0, 1]]
    assert held_out.cold.tolist() == [False, False, True]
    ranking, errors = evaluate(factors, held_out, 2)
    expected = {"precision": 0.5, "recall": 2 / 3, "map": 2 / 3, "mrr": 1.0, "hit_rate": 1.0, "coverage": 0.75}
    best = 1 / (1 + 1 / np.log2(3))  # of user 0 and of user 2: the first of two
    expected |= {"users": 3, "ndcg": (2 * best + 1) / 3}
    # Errors 9 - 5, 2 - 5, 1 - 2, 0 - 4 and 9 - 4.
    expected |= {"mae": (4 + 3 + 1 + 4 + 5) / 5, "rmse": np.sqrt((16 + 9 + 1 + 16 + 25) / 5)}
    found = summary(ranking, errors)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    known = summed(held_out, factors, 2)
    expected = {"precision": 0.5, "recall": 0.75, "map": 0.75, "mrr": 1.0, "hit_rate": 1.0, "coverage": 0.5}
    expected |= {"users": 2, "ndcg": (best + 1) / 2, "mae": (4 + 3 + 1) / 3, "rmse": np.sqrt((16 + 9 + 1) / 3)}
    assert {name: known["known_users"][name] for name in expected} == pytest.approx(expected)


def test_where_all_or_none_are_known_there_is_nothing_to_tell_apart() -> None:
    none = HeldOut.of(interactions(HELD_OUT[3:]), interactions(KNOWN), 0.0)
    every = HeldOut.of(interactions(HELD_OUT[:3]), interactions(KNOWN), 0.0)
    for held_out in (none, every):
        assert "known_users" not in summed(held_out, model(), 2)


def test_a_user_with_ratings_given_is_known() -> None:
    given = interactions([(2, 1, 5.0)])
    learned = Learned.of(interactions(KNOWN), given)
    assert learned.users.tolist() == [True, True, True]
    assert learned.item_counts.tolist() == [2, 1, 0, 1]  # what is given is not learned
    held_out = HeldOut.of(interactions(HELD_OUT), interactions(KNOWN).joined(given), 0.0, learned)
    assert held_out.lists(model().top_k, 2).tolist() == [[3, -1], [1, -1], [3, 0]]


def test_ease_lists_what_is_popular_for_a_user_without_ratings() -> None:
    known = interactions(KNOWN)
    held_out = HeldOut.of(interactions(HELD_OUT), known, 0.0)
    rated = liked(known, 0)
    weights = ease_weights(rated, 1.0)
    found, scores = held_out.learned.lists(partial(ease_top_k, rated, weights), held_out.users, held_out.seen, 4)
    assert found.tolist() == [[3, -1, -1, -1], [1, -1, -1, -1], [0, 1, 3, -1]]
    assert scores[2].tolist() == [2, 1, 1, -np.inf]


def test_the_same_for_all_leaves_out_what_was_not_learned() -> None:
    seen, users = interactions(KNOWN).matrix(), np.arange(3, dtype=np.int32)
    scores = np.array([1.0, 2.0, 9.0, 2.0])
    listed = top_k_of_all(users, seen, 4, scores, np.array([True, True, False, True]))
    assert listed.tolist() == [[3, -1, -1, -1], [1, -1, -1, -1], [1, 3, 0, -1]]
    nothing = top_k_of_all(users, seen, 2, scores, np.zeros(4, dtype=bool))
    assert (nothing == -1).all()


def test_new_users_are_folded_in_and_unknown_ones_are_0() -> None:
    random = np.random.default_rng(5)
    users, items = (random.normal(0, 0.5, (count, 2)).astype(np.float32) for count in (4, 6))
    bias = np.full(4, 7, np.float32)
    factors = Factors(users, items, bias, np.zeros(6, np.float32), np.arange(6, dtype=np.int32), global_mean=3.0)
    known, given = (interactions(rows, (4, 6)) for rows in ([(0, 1, 4.0), (3, 0, 2.0)], [(2, 4, 5.0), (2, 0, 1.0)]))
    loss = RatingLoss(2, 0.1, 1.0)
    found = with_new_users(factors, loss, known, given)
    assert_array_equal(found.user_factors[[0, 3]], users[[0, 3]])
    assert_array_equal(found.user_bias, [7, 0, found.user_bias[2], 7])
    assert not found.user_factors[1].any()
    expected = fold_in(factors, loss, sp.csr_array(([5, 1], ([0, 0], [4, 0])), shape=(1, 6), dtype=np.float32))
    assert_array_equal(found.user_factors[2], np.round(expected.user_factors[0], DECIMALS))
    assert found.user_bias[2] == np.round(expected.user_bias[0], DECIMALS)
    assert found.user_factors[2].any()
    everybody = interactions([(user, 0, 3.0) for user in range(4)], (4, 6))
    assert with_new_users(factors, loss, everybody, interactions([], (4, 6))) is factors
    batch_sum = dataclasses.replace(factors, interaction="batch_sum")
    assert not with_new_users(batch_sum, loss, known, interactions([], (4, 6))).user_factors[[1, 2]].any()


@pytest.mark.usefixtures("workspace")
def test_users_join_what_is_learned_with_all_that_is_given_of_them() -> None:
    measured = {VALIDATION: [(1, 1, 2.0)], TEST: [(2, 2, 3.0)]}
    write_split({TRAIN: [(0, 0, 1.0)], GIVEN: [(2, 0, 4.0), (1, 2, 5.0)], **measured}, (3, 3))
    rows = {}
    for names in (("train",), ("train", "validation"), ("train", "validation", "test")):
        parts = Interactions.read_learned(names)
        rows[names[-1]] = [list(zip(part.users.tolist(), part.items.tolist(), strict=True)) for part in parts]
    assert rows == {
        "train": [[(0, 0)], [(2, 0), (1, 2)]],
        "validation": [[(0, 0), (1, 1), (1, 2)], [(2, 0)]],
        "test": [[(0, 0), (1, 1), (2, 2), (2, 0), (1, 2)], []],
    }
    assert HeldOut.read(0.0).seen.toarray().tolist() == [[1, 0, 0], [0, 2, 5], [4, 0, 0]]
    GIVEN.unlink()
    assert [len(part) for part in Interactions.read_learned(("train",))] == [1, 0]


# The synthetic ratings are in the order of users, and so are their times: the last users are in test alone.


@pytest.fixture
def divided_by_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a model, divided anew by time."""
    monkeypatch.setattr(sys, "argv", ["stage"])
    set_params(here, split__method="temporal")
    split.main()
    return here


@pytest.mark.usefixtures("divided_by_time")
def test_the_stages_write_what_the_slow_reference_finds() -> None:
    for stage in (evaluate_stage, baselines, recommend):
        stage.main()
    train, test = (read_table(path).to_pandas().astype({"rating": np.float64}) for path in (TRAIN, TEST))
    assert set(test["user"]) - set(train["user"])
    assert set(test["user"]) & set(train["user"])
    known = test[test["user"].isin(train["user"])]
    factors = Factors.load()
    for part, written in ((test, read_json(METRICS)), (known, read_json(METRICS)["known_users"])):
        assert written.pop("users") == part["user"].nunique()
        expected = reference.evaluate(train, part, factors, 0.85, 25)[-1]
        assert {name: written[name] for name in expected} == pytest.approx(expected, abs=6e-7, rel=0)
    counts = train["item"].value_counts().to_dict()
    for name, values in read_json(BASELINES).items():
        assert {*values["known_users"], "known_users"} == set(values), name
    for part, written in ((test, read_json(BASELINES)), (known, read_json(BASELINES)["popularity"])):
        found = written["popularity"] if "popularity" in written else written["known_users"]
        relevant = reference.relevant_items(part, 0.85)
        ranked = reference.lists(train, sorted(relevant), 80, 25, lambda _, items: {i: counts.get(i, 0) for i in items})
        expected = reference.measure(ranked, relevant, 80, 25)
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=6e-7, rel=0)


@pytest.mark.usefixtures("workspace")
def test_the_recommender_knows_what_the_metrics_take_as_learned() -> None:
    write_split({TRAIN: [(0, 0, 3), (1, 2, 4)], VALIDATION: [(3, 2, 1)], TEST: [(2, 3, 5)]}, (5, 6))
    given = pa.table({"user": [1, 2, 2], "item": [4, 1, 2], "rating": [5, 4, 2]}, COLUMNS)
    write_table(GIVEN, given)
    factors = Factors(*(np.ones(each, np.float32) for each in ((5, 2), (6, 2), 5, 6)), np.arange(6, dtype=np.int32))
    factors.save()
    named = read_table(ITEMS).append_column("title", pa.array(list("abcdef")))
    write_table(ITEMS, named.append_column("categories", pa.array(["x"] * 6)))
    for names in (("train",), ("train", "validation")):
        found, expected = Recommender.read(names), Learned.of(*Interactions.read_learned(names))
        assert np.array_equal(found.learned.item_counts, expected.item_counts)
        assert np.array_equal(found.learned.users, expected.users)
        assert found.folded.tolist() == [False, False, True, False, False]
        assert found.known.toarray()[1].tolist() == [0, 0, 4, 0, 5, 0]


@pytest.mark.usefixtures("divided_by_time")
def test_the_stage_recommends_the_most_rated_items_to_whom_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    recommend.main()
    train, test = (read_table(path).to_pandas() for path in (TRAIN, TEST))
    unknown = sorted(set(test["user"]) - set(train["user"]))[-1]
    user_id = int(read_table(USERS)["user_id"][unknown].as_py())
    recommended = read_table(RECOMMENDATIONS).to_pandas()
    own = recommended[recommended["user_id"] == user_id]
    recommender = Recommender.read()
    counts = pd.Series(np.bincount(train["item"], minlength=80), index=recommender.items["item_id"].to_numpy())
    rated = recommender.items["item_id"].to_numpy()[test.loc[test["user"] == unknown, "item"]]
    best = counts.drop(rated).sort_values(ascending=False, kind="stable")[:10]
    assert own["score"].tolist() == best.tolist()
    assert counts[own["item_id"]].tolist() == best.tolist()
    shown = recommender.show_user(str(user_id), 10)
    assert shown["scores"] == "popularity"
    assert [item["item_id"] for item in shown["recommendations"]] == own["item_id"].tolist()
    assert "Top 10 recommendations (rank, number of ratings: " in as_text(shown)
    assert recommender.show_user("1", 10)["scores"] == "ratings"
    capsys.readouterr()
    sys.argv += ["--user", str(user_id), "--json"]
    recommend.main()
    assert json.loads(capsys.readouterr().out) == shown
