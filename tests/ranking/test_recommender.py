"""Recommendations for everybody, for one user, and for a new user."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from recommender.params_file import load_params
from recommender.paths import TRAIN
from recommender.ranking.factors import Factors
from recommender.ranking.recommender import Recommender
from recommender.storage import read_table
from stages import recommend
from tests.conftest import files, stage

K = 10
LIKES = ("Movie 3 (1953)", "movie 14 (1964)", " Movie 27 (1977) ")


def read(folder: Path, name: str) -> pd.DataFrame:
    return read_table(folder / f"data/{name}.parquet").to_pandas()


def rated_pairs(folder: Path) -> pd.DataFrame:
    """Return user_id, item_id, rating, title and categories of all ratings, of train and test."""
    users, items = read(folder, "processed/users"), read(folder, "processed/items")
    both = pd.concat([read(folder, "processed/train"), read(folder, "processed/test")])
    return both.merge(users, on="user").merge(items, on="item")[["user_id", "item_id", "rating", "title", "categories"]]


def test_everybody_gets_unrated_items_by_descending_score(trained: Path) -> None:
    recommended, rated = read(trained, "recommendations"), rated_pairs(trained)
    assert len(rated) == 1500
    assert recommended.merge(rated, on=["user_id", "item_id"]).empty
    assert recommended["user_id"].unique().tolist() == read(trained, "processed/users")["user_id"].tolist()
    unrated = 80 - rated.groupby("user_id").size()
    for user, rows in recommended.groupby("user_id"):
        assert rows["rank"].tolist() == list(range(1, min(K, unrated[user]) + 1))
        assert rows["score"].is_monotonic_decreasing
        assert rows["item_id"].is_unique


def test_the_table_has_plain_columns_and_titles_of_its_items(trained: Path) -> None:
    table = read_table(trained / "data/recommendations.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "user_id": "int32",
        "rank": "int32",
        "item_id": "int32",
        "score": "float",
        "title": "string",
        "categories": "string",
    }
    joined = table.to_pandas().merge(read(trained, "processed/items"), on="item_id", suffixes=("", "_known"))
    assert len(joined) == len(table)
    assert (joined["title"] == joined["title_known"]).all()
    assert (joined["categories"] == joined["categories_known"]).all()


def test_scores_are_the_factors_and_no_better_item_is_left_out(trained: Path) -> None:
    factors = Factors.load(trained / "models/factors.npz")
    recommended, rated = read(trained, "recommendations"), rated_pairs(trained)
    item_ids = read(trained, "processed/items")["item_id"]
    table = factors.user_factors.astype(np.float64) @ factors.item_factors.T.astype(np.float64)
    table += factors.user_bias[:, None] + factors.item_bias[None, :]
    for index, user in enumerate(read(trained, "processed/users")["user_id"]):
        rows = recommended[recommended["user_id"] == user]
        scores = pd.Series(table[index], index=item_ids)
        assert_allclose(rows["score"], scores[rows["item_id"]], rtol=0, atol=1e-6)
        others = scores.drop(rated.loc[rated["user_id"] == user, "item_id"]).drop(rows["item_id"])
        assert len(others) == 0 or others.max() <= rows["score"].min() + 1e-6


@pytest.fixture(scope="module")
def busiest(trained: Path) -> int:
    """The user with the most ratings."""
    return int(rated_pairs(trained)["user_id"].value_counts().index[0])


def test_json_and_text_show_a_users_favourites_and_the_same_recommendations(trained: Path, busiest: int) -> None:
    before = files(trained)
    results = [stage(trained, "recommend", "--user", str(busiest), *more) for more in (["--json"], ["--k", "3"])]
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 2
    shown = json.loads(results[0].stdout)
    assert list(shown) == ["user_id", "favourites", "scores", "recommendations"]
    assert shown["user_id"] == busiest
    recommended = read(trained, "recommendations").query("user_id == @busiest")
    columns = ["rank", "item_id", "title", "categories", "score"]
    assert [list(item) for item in shown["recommendations"]] == [columns] * len(recommended)
    found = pd.DataFrame(shown["recommendations"])
    exact = columns[:-1]
    assert found[exact].to_numpy().tolist() == recommended[exact].to_numpy().tolist()
    assert_allclose(found["score"], recommended["score"], rtol=0, atol=2e-6)
    own = rated_pairs(trained).query("user_id == @busiest").set_index("item_id")
    assert [item["rating"] for item in shown["favourites"]] == own["rating"].nlargest(5).tolist()
    for item in shown["favourites"]:
        known = own.loc[item["item_id"]]
        assert [item[key] for key in ("rating", "title", "categories")] == known.tolist()[1:]

    favourites = [f"  {item['rating']:5g}  {item['title']} : {item['categories']}" for item in shown["favourites"]]
    ranked = [
        f"  {rank:3}  {item['score']:.4f}  {item['title']} : {item['categories']}"
        for rank, item in enumerate(shown["recommendations"][:3], start=1)
    ]
    lines = results[1].stdout.splitlines()
    assert lines[0] == f"User {busiest}"
    assert lines[3:8] == favourites
    assert lines[9:] == ["Top 3 recommendations (rank, predicted rating, which may exceed the scale)", *ranked]
    assert files(trained) == before


Printed = Callable[..., str]


@pytest.fixture
def printed(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """Run the command in this process, where each run takes no start-up, and return its output."""
    monkeypatch.chdir(trained)

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["recommend", *arguments])
        recommend.main()
        return capsys.readouterr().out

    return command


def test_k_may_be_the_whole_catalogue_and_lists_what_is_unrated(trained: Path, printed: Printed, busiest: int) -> None:
    rated = rated_pairs(trained).query("user_id == @busiest")
    shown = json.loads(printed("--user", str(busiest), "--k", "80", "--json"))
    listed = [item["item_id"] for item in shown["recommendations"]]
    assert sorted(listed) == sorted(set(read(trained, "processed/items")["item_id"]) - set(rated["item_id"]))


def test_a_new_user_gets_items_that_are_not_among_the_liked_ones(trained: Path, printed: Printed) -> None:
    before = files(trained)
    shown = json.loads(printed("--likes", *LIKES, "--json"))
    assert list(shown) == ["likes", "scores", "recommendations"]
    titles = ["Movie 3 (1953)", "Movie 14 (1964)", "Movie 27 (1977)"]
    assert [item["title"] for item in shown["likes"]] == titles
    listed = shown["recommendations"]
    assert [list(item) for item in listed] == [["rank", "item_id", "title", "categories", "score"]] * 10
    assert [item["rank"] for item in listed] == list(range(1, 11))
    assert not {item["title"] for item in listed} & set(titles)
    assert [item["score"] for item in listed] == sorted((item["score"] for item in listed), reverse=True)
    assert files(trained) == before
    everything = json.loads(printed("--likes", *LIKES, "--json", "--k", "80"))["recommendations"]
    assert len({item["item_id"] for item in everything}) == 77
    assert everything[:10] == listed
    lines = printed("--likes", *LIKES[:2], "--k", "2").splitlines()
    assert lines[0] == "A new user who likes"
    assert [line.split(" : ")[0].strip() for line in lines[1:3]] == titles[:2]
    assert lines[3:5] == ["", "Top 2 recommendations (rank, predicted rating, which may exceed the scale)"]
    assert len(lines) == 7


def test_a_new_user_is_folded_in_with_the_best_rating(printed: Printed) -> None:
    shown = json.loads(printed("--likes", *LIKES, *LIKES[:1], "--json"))
    recommender, params = Recommender.read(), load_params().train.mf
    factors, items = recommender.factors, [recommender.find(title) for title in LIKES]
    wide = factors.item_factors.astype(np.float64)
    design = np.column_stack([wide[items], np.ones(3)])
    penalty = np.diag([params.l2 * len(read_table(TRAIN))] * params.embedding_size + [0.0])
    vector = np.linalg.solve(design.T @ design + penalty, design.T @ (5 - factors.item_bias[items].astype(np.float64)))
    scores = wide @ vector[:-1] + vector[-1] + factors.item_bias
    scores[items] = -np.inf
    best = np.argsort(-scores)[:10]
    found = shown["recommendations"]
    assert [item["item_id"] for item in found] == recommender.items["item_id"].to_numpy()[best].tolist()
    assert_allclose([item["score"] for item in found], scores[best], atol=1e-4)


def test_filters_leave_the_rest_of_the_whole_list(trained: Path, printed: Printed) -> None:
    everything = json.loads(printed("--user", "1", "--k", "80", "--json"))["recommendations"]
    years = [int(item["title"][-5:-1]) for item in everything]
    names = sorted({name for item in everything for name in item["categories"].split("|")})[:2]
    excluded = [everything[0]["title"], str(everything[3]["item_id"]), everything[5]["title"]]
    middle = sorted(years)[len(years) // 2]
    cases = {
        ("--category", names[0]): lambda item: names[0] in item["categories"].split("|"),
        ("--category", *map(str.upper, names)): lambda item: not set(names).isdisjoint(item["categories"].split("|")),
        ("--exclude", excluded[0], excluded[1], "--exclude", excluded[2]): (
            lambda item: item["title"] not in excluded and str(item["item_id"]) not in excluded
        ),
        ("--from-year", str(middle)): lambda item: int(item["title"][-5:-1]) >= middle,
        ("--from-year", "1"): lambda _: True,
        ("--category", names[0], "--from-year", str(middle)): (
            lambda item: names[0] in item["categories"].split("|") and int(item["title"][-5:-1]) >= middle
        ),
    }
    for options, keeps in cases.items():
        found = json.loads(printed("--user", "1", "--k", "5", "--json", *options))["recommendations"]
        expected = [item for item in everything if keeps(item)][:5]
        assert found == [{**item, "rank": rank} for rank, item in enumerate(expected, start=1)], options
    assert 0 < len([item for item in everything if cases["--category", names[0]](item)]) < len(everything)
    every = [str(item) for item in read(trained, "processed/items")["item_id"]]
    assert "Top 0 recommendations" in printed("--user", "1", "--explain", "--exclude", *every)


def test_the_shares_of_a_new_user_add_up_to_each_score(printed: Printed) -> None:
    plain = json.loads(printed("--likes", *LIKES, "--json"))
    shown = json.loads(printed("--likes", *LIKES, "--json", "--explain"))
    explanations = [item.pop("why") for item in shown["recommendations"]]
    assert shown == plain
    for item, why in zip(shown["recommendations"], explanations, strict=True):
        assert list(why) == ["kind", "base", "rest", "rated"]
        assert why["kind"] == "shares"
        assert {each["title"]: each["rating"] for each in why["rated"]} == {title.strip().title(): 5 for title in LIKES}
        assert why["base"] + why["rest"] + sum(each["share"] for each in why["rated"]) == pytest.approx(
            item["score"], abs=3e-6
        )
        assert abs(why["rest"]) <= 2e-6
    lines = printed("--likes", *LIKES, "--k", "2", "--explain").splitlines()
    assert lines[6] == "Below each: what each rated item adds to the score, and its rating"
    for first in (7, 12):
        title = shown["recommendations"][(first - 7) // 5]["title"]
        assert title in lines[first]
        parts = [float(line.split()[0]) for line in lines[first + 1 : first + 5]]
        assert sum(parts) == pytest.approx(float(lines[first].split()[1]), abs=3e-4)
    assert len(lines) == 17


def test_a_user_trained_on_is_explained_by_the_nearest_rated_items(trained: Path, printed: Printed) -> None:
    shown = json.loads(printed("--user", "1", "--k", "3", "--json", "--explain"))
    recommender = Recommender.read()
    own = read(trained, "processed/train").query("user == 0").set_index("item")["rating"]
    for item in shown["recommendations"]:
        assert item["why"]["kind"] == "nearest"
        ids = recommender.items["item_id"].to_pylist()
        wide = recommender.factors.item_factors.astype(np.float64)
        wide /= np.linalg.norm(wide, axis=1)[:, None]
        cosines = {each: float(wide[each] @ wide[ids.index(item["item_id"])]) for each in own.index}
        often = [each for each in own.index if recommender.item_counts[each] >= 20]
        best = sorted(often, key=lambda each: -cosines[each])[:5]
        assert [each["item_id"] for each in item["why"]["rated"]] == [ids[each] for each in best]
        assert [each["rating"] for each in item["why"]["rated"]] == own[best].tolist()
        assert_allclose([each["cosine"] for each in item["why"]["rated"]], [cosines[each] for each in best], atol=1e-6)
    lines = printed("--user", "1", "--k", "3", "--explain").splitlines()
    assert any("nearest rated items, which are no parts of the score" in line for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json",),
        ("--k", "3"),
        ("--user",),
        ("3",),
        ("--likes",),
        ("--user", "1", "--likes", "Heat"),
        ("--explain",),
        ("--category", "Drama"),
        ("--exclude", "1"),
        ("--from-year", "1990"),
    ],
)
def test_wrong_arguments_end_with_the_usage(
    printed: Printed, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[Any]
) -> None:
    with pytest.raises(SystemExit) as raised:
        printed(*arguments)
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m stages.recommend")
