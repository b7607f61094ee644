"""Recommendations for everybody and for one user."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from stages import recommend
from stages.lib.errors import UserError
from stages.lib.factors import Factors
from stages.lib.params import load_params
from stages.lib.ratings import Ratings
from stages.lib.storage import read_table
from tests.conftest import files, refused, set_params, stage

K = 10


def read(folder: Path, name: str) -> pd.DataFrame:
    return read_table(folder / f"data/{name}.parquet").to_pandas()


def rated_pairs(folder: Path) -> pd.DataFrame:
    """Give user_id, movie_id and rating of all ratings, of train and test."""
    users, movies = read(folder, "processed/users"), read(folder, "processed/movies")
    both = pd.concat([read(folder, "processed/train"), read(folder, "processed/test")])
    return both.merge(users, on="user").merge(movies, on="movie")[["user_id", "movie_id", "rating", "title", "genres"]]


def test_nobody_is_recommended_a_movie_rated_in_train_or_test(trained: Path) -> None:
    recommended, rated = read(trained, "recommendations"), rated_pairs(trained)
    assert len(rated) == 1500
    assert recommended.merge(rated, on=["user_id", "movie_id"]).empty


def test_everybody_gets_ranks_from_1_with_descending_scores(trained: Path) -> None:
    recommended, rated = read(trained, "recommendations"), rated_pairs(trained)
    users = read(trained, "processed/users")["user_id"]
    assert recommended["user_id"].unique().tolist() == users.tolist()
    unrated = 80 - rated.groupby("user_id").size()
    for user, rows in recommended.groupby("user_id"):
        assert rows["rank"].tolist() == list(range(1, min(K, unrated[user]) + 1))
        assert rows["score"].is_monotonic_decreasing
        assert rows["movie_id"].is_unique


def test_the_table_has_plain_columns_and_titles_of_its_movies(trained: Path) -> None:
    table = read_table(trained / "data/recommendations.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "user_id": "int32",
        "rank": "int32",
        "movie_id": "int32",
        "score": "float",
        "title": "string",
        "genres": "string",
    }
    movies = read(trained, "processed/movies")
    joined = table.to_pandas().merge(movies, on="movie_id", suffixes=("", "_known"))
    assert len(joined) == len(table)
    assert (joined["title"] == joined["title_known"]).all()
    assert (joined["genres"] == joined["genres_known"]).all()


def test_scores_are_the_factors_and_no_better_movie_is_passed_over(trained: Path) -> None:
    factors = Factors.load(trained / "models/factors.npz")
    users, rated = read(trained, "processed/users"), rated_pairs(trained)
    recommended = read(trained, "recommendations")
    table = factors.users.astype(np.float64) @ factors.movies.T.astype(np.float64)
    table += factors.user_bias[:, None] + factors.movie_bias[None, :]
    for index, user in enumerate(users["user_id"]):
        rows = recommended[recommended["user_id"] == user]
        scores = pd.Series(table[index], index=factors.movie_ids)
        assert_allclose(rows["score"], scores[rows["movie_id"]], rtol=0, atol=1e-6)
        others = scores.drop(rated.loc[rated["user_id"] == user, "movie_id"]).drop(rows["movie_id"])
        assert len(others) == 0 or others.max() <= rows["score"].min() + 1e-6


@pytest.fixture(scope="module")
def busiest(trained: Path) -> int:
    """The user with the most ratings."""
    return int(rated_pairs(trained)["user_id"].value_counts().index[0])


def test_json_shows_favourites_and_the_same_recommendations(trained: Path, busiest: int) -> None:
    before = files(trained)
    result = stage(trained, "recommend", "--user", str(busiest), "--json")
    assert (result.returncode, result.stderr) == (0, "")
    shown = json.loads(result.stdout)
    assert list(shown) == ["user_id", "favourites", "recommendations"]
    assert shown["user_id"] == busiest
    recommended = read(trained, "recommendations").query("user_id == @busiest")
    columns = ["rank", "movie_id", "title", "genres", "score"]
    assert [list(movie) for movie in shown["recommendations"]] == [columns] * len(recommended)
    found = pd.DataFrame(shown["recommendations"])
    exact = columns[:-1]
    assert found[exact].to_numpy().tolist() == recommended[exact].to_numpy().tolist()
    assert_allclose(found["score"], recommended["score"], rtol=0, atol=2e-6)
    own = rated_pairs(trained).query("user_id == @busiest").set_index("movie_id")
    assert len(shown["favourites"]) == 5
    assert [movie["rating"] for movie in shown["favourites"]] == own["rating"].nlargest(5).tolist()
    for movie in shown["favourites"]:
        known = own.loc[movie["movie_id"]]
        assert (movie["rating"], movie["title"], movie["genres"]) == (known["rating"], known["title"], known["genres"])
    assert files(trained) == before


def test_text_shows_the_same_as_json(trained: Path, busiest: int) -> None:
    before = files(trained)
    arguments = ("recommend", "--user", str(busiest), "--k", "3")
    shown = json.loads(stage(trained, *arguments, "--json").stdout)
    result = stage(trained, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"User {busiest}"
    favourites = [f"  {movie['rating']:5g}  {movie['title']} : {movie['genres']}" for movie in shown["favourites"]]
    assert lines[3:8] == favourites
    assert lines[9] == "Top 3 recommendations (rank, score)"
    assert lines[10:] == [
        f"  {rank:3}  {movie['score']:.4f}  {movie['title']} : {movie['genres']}"
        for rank, movie in enumerate(shown["recommendations"], start=1)
    ]
    assert len(lines) == 13
    assert files(trained) == before


def test_k_may_be_the_whole_catalogue_and_lists_what_is_left(trained: Path, busiest: int) -> None:
    rated = rated_pairs(trained).query("user_id == @busiest")
    result = stage(trained, "recommend", "--user", str(busiest), "--k", "80", "--json")
    listed = [movie["movie_id"] for movie in json.loads(result.stdout)["recommendations"]]
    assert sorted(listed) == sorted(set(read(trained, "processed/movies")["movie_id"]) - set(rated["movie_id"]))


@pytest.mark.parametrize("user", ["0", "61", "-3", "2147483648", "99999999999999999999999"])
def test_an_unknown_user_is_refused(trained: Path, user: str) -> None:
    result = stage(trained, "recommend", "--user", user)
    refused(result, f"--user: there is no user {user}; ids are 1 to 60")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("k", "words"),
    [
        ("81", "--k: must be at most 80, the number of rated movies; found 81"),
        ("99999999999999999999999", "--k: must be at most 80"),
        ("0", "--k: must be at least 1; found 0"),
        ("-1", "--k: must be at least 1; found -1"),
    ],
)
def test_a_k_out_of_range_is_refused(trained: Path, k: str, words: str) -> None:
    result = stage(trained, "recommend", "--user", "1", "--k", k)
    refused(result, f"error: {words}")


def test_lists_longer_than_the_catalogue_are_refused_and_the_table_is_kept(finished: Path) -> None:
    set_params(finished, recommend__k=81)
    before = files(finished)
    refused(stage(finished, "recommend"), "params.yaml: recommend.k: must be at most 80", "found 81")
    assert files(finished) == before


Printed = Callable[..., str]
LIKES = ("Movie 3 (1953)", "movie 14 (1964)", " Movie 27 (1977) ")


@pytest.fixture
def printed(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """Run the command in this process, where each run takes no start-up, and give what it prints."""
    monkeypatch.chdir(trained)

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["recommend", *arguments])
        recommend.main()
        return capsys.readouterr().out

    return command


def test_a_new_person_gets_movies_that_are_not_among_those_liked(trained: Path, printed: Printed) -> None:
    before = files(trained)
    shown = json.loads(printed("--likes", *LIKES, "--json"))
    assert list(shown) == ["likes", "recommendations"]
    titles = ["Movie 3 (1953)", "Movie 14 (1964)", "Movie 27 (1977)"]
    assert [movie["title"] for movie in shown["likes"]] == titles
    listed = shown["recommendations"]
    assert [list(movie) for movie in listed] == [["rank", "movie_id", "title", "genres", "score"]] * 10
    assert [movie["rank"] for movie in listed] == list(range(1, 11))
    assert not {movie["title"] for movie in listed} & set(titles)
    assert [movie["score"] for movie in listed] == sorted((movie["score"] for movie in listed), reverse=True)
    assert files(trained) == before
    everything = json.loads(printed("--likes", *LIKES, "--json", "--k", "80"))["recommendations"]
    assert len({movie["movie_id"] for movie in everything}) == 77
    assert everything[:10] == listed


def test_a_new_person_is_folded_in_with_the_best_rating(printed: Printed) -> None:
    shown = json.loads(printed("--likes", *LIKES, *LIKES[:1], "--json"))
    library, params = recommend.Library.read(), load_params().train
    movies = [library.find(title) for title in LIKES]
    wide = library.factors.movies.astype(np.float64)
    design = np.column_stack([wide[movies], np.ones(3)])
    penalty = np.diag([params.l2 * len(Ratings.read(recommend.TRAIN).values)] * params.embedding_size + [0.0])
    rest = 5 - library.factors.movie_bias[movies].astype(np.float64)
    vector = np.linalg.solve(design.T @ design + penalty, design.T @ rest)
    scores = wide @ vector[:-1] + vector[-1] + library.factors.movie_bias
    scores[movies] = -np.inf
    best = np.argsort(-scores)[:10]
    found = shown["recommendations"]
    assert [movie["movie_id"] for movie in found] == library.factors.movie_ids[best].tolist()
    assert_allclose([movie["score"] for movie in found], scores[best], atol=1e-4)


def test_final_fit_counts_the_validation_part_too(
    trained: Path,
    printed: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del printed
    library, params = recommend.Library.read(), load_params().train
    counts = []
    monkeypatch.setattr(recommend, "fold_in", lambda *given: counts.append(given[-1]))
    for final_fit in (False, True):
        monkeypatch.setattr(recommend, "VALIDATION", recommend.TEST)  # there is no validation part
        library.new_person([1], params.model_copy(update={"final_fit": final_fit}))
    split = json.loads((trained / "metrics/split.json").read_text())
    assert counts == [split["train_ratings"], 1500]


def test_text_shows_a_new_persons_likes(printed: Printed) -> None:
    lines = printed("--likes", *LIKES[:2], "--k", "2").splitlines()
    assert lines[0] == "A new person who likes"
    assert [re.split(r" : ", line.strip())[0] for line in lines[1:3]] == ["Movie 3 (1953)", "Movie 14 (1964)"]
    assert lines[3:5] == ["", "Top 2 recommendations (rank, score)"]
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Movie 3 (1954)", "--likes: there is no movie 'Movie 3 (1954)'; did you mean 'Movie 3 (1953)'"),
        ("movie 33", "did you mean 'Movie 33 (1983)'?"),
        ("The Letter 15 (1965)", "did you mean 'Letter, The 15 (1965)'?"),
        ("letter", "or one of 3 others?"),
        ("qqqqqqqqqq", "no movie 'qqqqqqqqqq' and no title like it"),
        ("", "no movie '' and no title like it"),
    ],
)
def test_a_title_that_is_not_there_is_refused_with_those_like_it(
    printed: Printed,
    title: str,
    words: str,
) -> None:
    with pytest.raises(UserError) as refusal:
        printed("--likes", LIKES[0], title)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json",),
        ("--k", "3"),
        ("--user", "one"),
        ("--user",),
        ("3",),
        ("--likes",),
        ("--user", "1", "--likes", "Heat"),
    ],
)
def test_wrong_arguments_end_with_the_usage(trained: Path, arguments: tuple[str, ...]) -> None:
    before = files(trained)
    result = stage(trained, "recommend", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: python -m stages.recommend")
    assert files(trained) == before
