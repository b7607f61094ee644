"""The page of a run: what is on it, that it needs no other file, and that its bytes are always the same."""

import dataclasses
import html.parser
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recommender.data.interactions import Interactions
from recommender.data.sampling import Sample
from recommender.errors import UserError
from recommender.evaluation.metrics import CURVES, RANKING
from recommender.evaluation.statistics import statistics
from recommender.params_file import load_params
from recommender.paths import (
    BASELINES_AT_K,
    HISTORY,
    ITEMS,
    METRICS,
    RATINGS,
    RECOMMENDATIONS,
    REPORT,
    TEST,
    TRAIN,
    USER_METRICS,
)
from recommender.ranking.recommender import Recommender, as_text
from recommender.report import charts, page
from recommender.report import lists as list_charts
from recommender.report.drawing import style
from recommender.report.page import Run
from recommender.storage import read_json, read_table, write_table
from stages import baselines, evaluate, recommend, report, split
from tests.conftest import set_params, sha256, stage

CHARTS = {"values", "tail", "users", "time", "loss", "popularity", "recall", "error", "map"}
CHARTS |= {"novelty", "exposure", "by-items", "by-users", "calibration", *(f"curve-{n}" for n in CURVES)}


class Page(html.parser.HTMLParser):
    """The elements of a page, each closed in order, and its ids."""

    VOID = ("meta", "link", "br")

    def __init__(self, text: str) -> None:
        """Read the page."""
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add an element."""
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add an element that closes itself."""
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that the element that ends is the last that began."""
        assert self.open.pop() == tag


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(trained)
    return Run(load_params())


@pytest.fixture
def text(trained: Path) -> str:
    return (trained / REPORT).read_text()


def test_the_page_is_well_formed_small_and_needs_no_other_file(text: str) -> None:
    parsed = Page(text)
    assert len(text.encode()) < 2_000_000
    assert len(parsed.ids) == len(set(parsed.ids))
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(key)
            assert value in (None, "data:,") or (value[0] == "#" and value[1:] in parsed.ids), (tag, value)
        assert not any(key.startswith("on") for key in attributes)
    assert "@import" not in text
    for reference in re.findall(r"url\(([^)]*)\)", text):
        assert reference[0] == "#"
        assert reference[1:] in parsed.ids


def test_every_chart_has_a_title_and_words(text: str) -> None:
    drawn = [attributes for tag, attributes in Page(text).tags if tag == "svg"]
    assert {attributes["aria-labelledby"] for attributes in drawn} == {f"{name}-title" for name in CHARTS}
    for attributes in drawn:
        assert attributes["role"] == "img"
        assert not {"width", "height"} & set(attributes)
        title = re.search(rf'<h3 id="{attributes["aria-labelledby"]}">(.+)</h3>', text)
        words = re.search(rf'<figcaption id="{attributes["aria-describedby"]}">(.+)</figcaption>', text)
        assert title
        assert words
        assert len(words[1]) > 30
        assert "nan" not in words[1]


def test_every_colour_is_defined_by_the_page_for_light_and_dark(text: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert re.findall(r"#[0-9a-f]{6}\b", svg) == []
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", text))
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    for definitions in (light, dark):
        assert used <= set(re.findall(r"--([a-z0-9-]+):", definitions))


def test_the_bytes_depend_on_no_settings_of_the_user(finished: Path, tmp_path: Path) -> None:
    before = sha256(finished / REPORT)
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: path\nlines.linewidth: 9\n")
    env = {"MPLCONFIGDIR": str(settings), "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1", "PYTHONHASHSEED": "5"}
    result = stage(finished, "report", env=env)
    assert result.returncode == 0, result.stderr
    assert sha256(finished / REPORT) == before


def test_the_last_bits_of_vectors_do_not_change_the_drawing() -> None:
    vectors = np.random.default_rng(7).standard_normal((40, 5))
    titles, genres = [f"Movie {number} (1953)" for number in range(40)], ["Drama", "Comedy"] * 20
    with style():
        drawn, again = (charts.item_map(moved, titles, genres).svg for moved in (vectors, vectors * (1 + 1e-12)))
    assert drawn == again


def test_parameters_are_those_that_the_run_depends_on(text: str, trained: Path) -> None:
    params = load_params(trained / "params.yaml")
    assert str(params.data.archive) not in text
    assert str(trained) not in text
    listed = dict(re.findall(r"<code>([a-z0-9_.]+)</code> <span[^>]*>(.*?)</span>", text))
    names = {
        "data.dataset",
        "data.sha256",
        "data.min_rating_value",
        "train.model",
        "train.seed",
        "train.final_fit",
        "recommend.k",
    }
    sections = ("data.min_ratings", "split", "train.early_stopping", "train.mf", "evaluate", "baselines", "recommend")
    assert names <= set(listed)
    assert {name.rpartition(".")[0] for name in set(listed) - names} <= set(sections)
    assert listed["train.early_stopping.patience"] == "0"
    assert listed["train.mf.global_mean"] == "false"
    assert listed["split.seed"] == "7"


def test_the_best_of_each_column_is_found_where_models_compete() -> None:
    metrics = {name: dict.fromkeys(RANKING, value) for name, value in (("this", 0.1), ("mean", 0.3), ("ease", 0.2))}
    metrics["this"] |= {"rmse": 0.9, "mae": 0.8}
    metrics["mean"] |= {"rmse": 1.1}
    users = {name: {"map": np.repeat(row["map"], 9)} for name, row in metrics.items()}
    users["mean"]["map"] = np.linspace(-1, 1.6, 9)
    found = statistics(users, ["map"], np.ones(9, np.int32))
    best = page.best(metrics, found)
    assert best["map"] == ["mean", "ease", "this"]  # with so few users neither is known to be worse
    assert (best["coverage"], best["rmse"], best["mae"]) == (["mean"], ["this"], [])
    assert list(page.best({"this": metrics["this"]}, found).values()) == [[]] * len(best)


def test_the_table_marks_the_best_and_shows_a_dash_for_what_is_missing(text: str, trained: Path) -> None:
    marked = re.findall(r'<td class="best">([0-9.]+) <span aria-label="best">★</span>', text)
    assert re.search(r"★</span><small>\.\d{4}\N{EN DASH}\.\d{4}</small>", text)
    metrics = [read_json(trained / "metrics/evaluate.json"), *read_json(trained / "metrics/baselines.json").values()]
    assert f"{max(model['map'] for model in metrics):.4f}" in marked
    assert f"{min(model['rmse'] for model in metrics if 'rmse' in model):.4f}" in marked
    assert text.count("<td>-</td>") == 4  # RMSE and MAE of popularity and EASE


def test_the_figures_at_the_top_are_compared_with_the_strongest_baseline_and_with_popularity(run: Run) -> None:
    metrics = {
        "this model": dict.fromkeys(RANKING, 0.3) | {"rmse": 0.9},
        "popularity": dict.fromkeys(RANKING, 0.2) | {"recall": 0.6},
        "item_mean": dict.fromkeys(RANKING, 0.1) | {"rmse": 1.0},
        "ease": dict.fromkeys(RANKING, 0.4) | {"recall": 0.5},
    }
    run.metrics = metrics
    figures = {figure["name"]: figure["beside"] for figure in page.headline(run)}
    assert figures["MAP@25"] == "25 % below EASE, 50 % above popularity"
    assert figures["Recall@25"] == "50 % below popularity"
    assert figures["RMSE"] == "10 % below the item mean"
    run.measured = False
    assert page.headline(run) == []


@pytest.mark.parametrize(
    ("value", "other", "words"),
    [
        (0.12, 0.1, "20 % above"),
        (0.08, 0.1, "20 % below"),
        (0.1, 0.1, "level with"),
        (0.1, 0.0, "above the 0 of"),
        (0.0, 0.0, "level with"),
    ],
)
def test_change_in_words(value: float, other: float, words: str) -> None:
    assert page.change(value, other) == words


def test_nearest_movies_are_those_of_highest_cosine_with_enough_ratings(run: Run, trained: Path) -> None:
    ratings = read_table(trained / "data/interim/ratings.parquet")["item_id"].to_pylist()
    rated = [ratings.count(item_id) for item_id in run.items["item_id"].to_pylist()]
    vectors = run.factors.item_factors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    listed, _ = page.nearest(run)
    assert [movie["title"] for movie in listed] == [run.titles[item] for item in run.popular[:10]]
    for entry in listed:
        item = run.titles.index(entry["title"])
        others = [other for other, count in enumerate(rated) if count >= 20 and other != item]
        assert len(others) > 5
        expected = sorted(others, key=lambda other: -vectors[item] @ vectors[other])[:5]
        assert [near["title"] for near in entry["near"]] == [run.titles[other] for other in expected]
        for near, other in zip(entry["near"], expected, strict=True):
            assert near["cosine"] == pytest.approx(vectors[item] @ vectors[other])


def test_users_are_shown_with_their_best_rated_and_recommended_movies(run: Run, trained: Path) -> None:
    ratings = read_table(trained / "data/interim/ratings.parquet").to_pandas()
    titles = read_table(trained / "data/interim/items.parquet").to_pandas().set_index("item_id")["title"]
    recommended = read_table(trained / RECOMMENDATIONS).to_pandas()
    listed = page.users(run)
    assert len({user["id"] for user in listed}) == 5
    for user in listed:
        own = ratings[ratings["user_id"] == user["id"]]
        assert user["ratings"] == len(own)
        rated = dict(zip(titles[own["item_id"]], own["rating"], strict=True))
        favourites = [movie["rating"] for movie in user["favourites"]]
        assert favourites == [rated[movie["title"]] for movie in user["favourites"]]
        assert favourites == sorted(own["rating"], reverse=True)[: page.FAVOURITES]
        expected = recommended[recommended["user_id"] == user["id"]].sort_values("rank")["title"].tolist()
        assert [movie["title"] for movie in user["recommendations"]] == expected
        assert not set(expected) & set(rated)


def test_titles_are_text_and_never_markup(finished: Path) -> None:
    items = read_table(finished / ITEMS)
    titles = [f"<script>\"&'{number}</script>" for number in range(len(items))]
    write_table(finished / ITEMS, items.set_column(items.column_names.index("title"), "title", pa.array(titles)))
    result = stage(finished, "report")
    assert result.returncode == 0, result.stderr
    text = (finished / REPORT).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    Page(text)


def test_a_ranking_model_is_shown_without_rating_errors(finished: Path) -> None:
    set_params(finished, train__model="softmax_mf", train__softmax_mf__epochs=2, split__validation_size=0.2)
    for name in ("split", "train", "evaluate", "baselines", "recommend", "report"):
        result = stage(finished, name)
        assert result.returncode == 0, result.stderr
    text = (finished / REPORT).read_text()
    assert 'id="error-title"' not in text
    assert 'id="recall-title"' in text
    assert "predicts no ratings" in text
    assert "<dt>RMSE</dt>" not in text
    assert "cross entropy (nats)" in text
    assert "have learned from train, and are measured on" in text
    assert "to choose parameters by" in text
    assert "train.softmax_mf.user_l2" in text
    assert "train.mf." not in text


def test_a_model_in_closed_form_is_shown_without_losses(finished: Path) -> None:
    set_params(finished, train__model="kernel", train__kernel__embedding_size=8)
    for name in ("train", "evaluate", "recommend", "report"):
        result = stage(finished, name)
        assert result.returncode == 0, result.stderr
    text = (finished / REPORT).read_text()
    assert "with vectors of 8 numbers, solved to rank\n    in closed form." in text
    assert 'id="map-title"' in text
    assert "Loss" not in text
    assert "train.kernel.item_ridge" in text


def test_a_page_without_ease_is_drawn(finished: Path) -> None:
    set_params(finished, baselines__ease_max_items=1)
    for name in ("baselines", "report"):
        assert stage(finished, name).returncode == 0
    assert ">ease<" not in (finished / REPORT).read_text()


@pytest.mark.parametrize("size", [1, 2])
def test_vectors_of_one_or_two_numbers_make_a_map(size: int) -> None:
    vectors = np.random.default_rng(7).standard_normal((30, size))
    with style():
        chart = charts.item_map(vectors, [f"Movie {number} (1953)" for number in range(30)], ["Drama"] * 30)
    assert "explain 100% of the variance" in chart.text


def test_errors_are_grouped_by_the_number_of_ratings() -> None:
    counts = np.array([0, 1, 4, 5, 200, 900])
    with style():
        chart = charts.error_by_popularity(np.array([4.0, 1.0, 9.0, 16.0, 25.0, 25.0]), counts)
    assert chart.text == (
        "RMSE of items with 0 ratings 2.000 (1 test ratings), 1-4 ratings 2.236 (2 test ratings), "
        "5-19 ratings 4.000 (1 test ratings), 200+ ratings 5.000 (2 test ratings)."
    )


def test_shares_of_recommendations_are_counted_from_the_most_popular_on() -> None:
    popular = np.array([3, 1, 0, 2, *range(4, 20)])
    kinds = {"recommended": np.array([3, 3, 1, 0]), "liked in test": np.array([0, 2]), "rated in train": popular}
    with style():
        chart = charts.share_by_popularity(popular, kinds)
    assert chart.text == (
        "The most popular tenth of the items makes up 75% of the items recommended, 0% of the items liked in test "
        "and 10% of the items rated in train. 3 of 20 items are recommended to somebody."
    )


def test_half_of_the_places_are_shared_by_as_many_items_as_it_takes() -> None:
    lists = {"popular": np.array([[0, 1], [0, 1], [1, 0]]), "item_mean": np.array([[0, 1], [2, 3], [4, -1]])}
    with style():
        chart = list_charts.exposure(lists, 10)
    assert chart.text == "Items that share half of all places in a model's lists, of 10: popular 1, item mean 3."


def test_categories_are_compared_with_those_of_the_users() -> None:
    shares = {"known ratings": np.array([0.5, 0.3, 0.2]), "ease": np.array([0.4, 0.6, 0.0])}
    found = statistics({"ease": {"miscalibration": np.full(3, 0.25)}}, ["miscalibration"], np.ones(3, np.int32))
    with style():
        chart = list_charts.calibration(shares, ["Drama", "War", ""], found)
    assert "ease 0.25 (War +30%, none -20%)" in chart.text


def test_groups_of_too_few_users_are_left_out(run: Run) -> None:
    known = np.zeros_like(run.results.known_ratings)
    known[:20], known[20:25] = 30, 1
    with style():
        chart = list_charts.by_users(dataclasses.replace(run.results, known_ratings=known), 25)
    assert chart.text.startswith(
        f"Users: {len(known) - 25} with 0, 20 with 20-49 ratings. Recall from left to right: this"
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("path", [HISTORY, BASELINES_AT_K, RECOMMENDATIONS, USER_METRICS])
def test_a_missing_input_is_named_and_the_old_page_stays(path: Path) -> None:
    before = sha256(REPORT)
    path.unlink()
    with pytest.raises(UserError, match=f"^{path}: not found; run `dvc repro`"):
        report.main()
    assert sha256(REPORT) == before


def test_the_span_of_time_and_the_busiest_month() -> None:
    days = np.array(["2003-12-31", "2004-02-29", "2004-02-01", "2005-01-01"], "datetime64[s]").astype(np.int64)
    with style():
        assert charts.ratings_over_time(days).text == (
            "From 2003-12-31 to 2005-01-01; 50% of the ratings are of 2004-02, the busiest month."
        )
        once = charts.ratings_over_time(np.zeros(3, np.int64))
        late = charts.ratings_over_time(np.array([0, 10**11]))
    assert once.text == "From 1970-01-01 to 1970-01-01; 100% of the ratings are of 1970-01, the busiest month."
    assert "From 1970-01-01 to 5138-11-16" in late.text


def test_without_times_there_is_no_chart_of_them(here: Path) -> None:
    table = read_table(RATINGS)
    write_table(RATINGS, table.set_column(3, "timestamp", pa.nulls(len(table), pa.int64())))
    report.main()
    assert "time-title" not in (here / REPORT).read_text()


def test_users_who_were_not_learned_are_counted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stage"])
    set_params(here, split__method="temporal")
    for each in (split, evaluate, baselines, recommend, report):
        each.main()
    text = re.sub(r"\s+", " ", (here / REPORT).read_text())
    found = re.search(r"(\d+) of the (\d+) users have no rating that was learned", text)
    assert found
    assert int(found[1]) == read_json(METRICS)["users"] - read_json(METRICS)["known_users"]["users"]
    assert f"For the others MAP is {read_json(METRICS)['known_users']['map']:.4f} (this model), " in text
    assert "For users without a rating that was learned, they are numbers of ratings." in text


def test_what_a_spreadsheet_takes_for_a_formula_is_text(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stage"])
    formulas = ["=1+1", '=HYPERLINK("http://example.org","Toy")', "+1", "-1", "@SUM(1)", "=cmd|' /C calc'!A0"]
    items = read_table(ITEMS)
    titles = [formulas[item % len(formulas)] for item in range(len(items))]
    write_table(ITEMS, items.set_column(2, "title", pa.array(titles)))
    recommend.main()
    report.main()
    text = (here / REPORT).read_text()
    shown = as_text(Recommender.read().show_user("1", len(items)))
    for formula in formulas:
        assert f"<span>{html.escape(formula).replace('&#x27;', '&#39;').replace('&quot;', '&#34;')}<small>" in text
        assert f"  {formula} : " in shown
    assert set(read_table(RECOMMENDATIONS)["title"].to_pylist()) == set(formulas)


def test_very_many_ratings_are_drawn_from_a_sample_and_the_page_says_so(
    trained: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setattr(page, "MOST_RATINGS", 500)
    whole, sampled = Interactions.read(TRAIN, TEST), Run(load_params())
    drawn = Sample(1 / 3, 7).has(whole.users)
    assert 0.2 < np.mean(drawn) < 0.5
    np.testing.assert_array_equal(sampled.ratings.items, whole.items[drawn])
    assert set(sampled.held_out.users) < set(whole.users[drawn])
    assert len(sampled.times) == 500
    said = "drawn from those of 33 % of the users, chosen by a hash"
    found = page.render(sampled)
    assert said in found
    assert said not in text
    for count in ("1,500 ratings", "300 of them held out"):  # which are those of all
        assert count in text
        assert count in found
    Page(found)
