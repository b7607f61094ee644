"""The page of a run: what it holds, that it needs nothing else, and that its bytes are always the same."""

import html.parser
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest

from stages import report
from stages.lib.metrics import COLUMNS
from stages.lib.params import load_params
from stages.lib.storage import read_json, read_table, write_table
from tests.conftest import refused, set_params, sha256, stage

CHARTS = ("values", "tail", "users", "curve-precision", "curve-recall", "curve-map", "curve-ndcg", "loss")
CHARTS += ("popularity", "recall", "error", "map")


class Page(html.parser.HTMLParser):
    """What a page holds, and whether its elements are closed in order."""

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
        """Take note of an element."""
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of an element that holds nothing."""
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that the element that ends is the last that began."""
        assert self.open.pop() == tag


@pytest.fixture
def shown(trained: Path, monkeypatch: pytest.MonkeyPatch) -> report.Run:
    monkeypatch.chdir(trained)
    return report.read_run(load_params())


@pytest.fixture
def text(trained: Path) -> str:
    return (trained / "reports/index.html").read_text()


def test_the_page_is_well_formed_small_and_needs_no_other_file(text: str) -> None:
    page = Page(text)
    assert len(text.encode()) < 2_000_000
    assert len(page.ids) == len(set(page.ids))
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(key)
            assert value is None or value == "data:," or value[0] == "#", (tag, value)
            if value and value[0] == "#":
                assert value[1:] in page.ids
        assert not any(key.startswith("on") for key in attributes)
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text
    for reference in re.findall(r"url\(#([^)]*)\)", text):
        assert reference in page.ids


def test_every_chart_is_there_with_words_for_it(text: str) -> None:
    page = Page(text)
    drawn = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert sorted(str(attributes["aria-labelledby"]) for attributes in drawn) == sorted(
        f"{name}-title {name}-text" for name in CHARTS
    )
    for attributes in drawn:
        assert attributes["role"] == "img"
        assert not {"width", "height"} & set(attributes)
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        root = ET.fromstring(svg)  # noqa: S314 - our own
        title, words = root[0], root[1]
        assert title.tag.endswith("title")
        assert title.text
        assert words.tag.endswith("desc")
        assert words.text
        assert len(words.text) > 30
        assert "nan" not in words.text


def test_no_colour_is_left_that_the_page_cannot_change(text: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert re.findall(r"#[0-9a-f]{6}\b", svg) == []
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", text))
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    for definitions in (light, dark):
        assert used <= set(re.findall(r"--([a-z0-9-]+):", definitions))


def test_the_bytes_depend_on_no_settings_of_the_user(finished: Path, tmp_path: Path) -> None:
    before = sha256(finished / "reports/index.html")
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: path\nlines.linewidth: 9\n")
    env = {"MPLCONFIGDIR": str(settings), "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1", "PYTHONHASHSEED": "5"}
    result = stage(finished, "report", env=env)
    assert result.returncode == 0, result.stderr
    assert sha256(finished / "reports/index.html") == before


def test_the_archive_and_its_place_are_not_on_the_page(text: str, trained: Path) -> None:
    assert str(trained) not in text
    assert "data.archive" not in text
    assert str(load_params(trained / "params.yaml").data.archive) not in text


def test_every_other_parameter_is_on_the_page(text: str, trained: Path) -> None:
    names = dict(report.parameters(load_params(trained / "params.yaml")))
    assert names["train.early_stopping.patience"] == 0
    assert names["train.global_mean"] is False
    for name in names:
        assert f"<code>{name}</code>" in text


def test_the_best_of_each_column_is_marked() -> None:
    def row(value: float, rmse: float | None) -> dict[str, float | None]:
        return dict.fromkeys(COLUMNS, value) | {"rmse": rmse, "mae": None}

    rows = report.table({"this model": row(0.1, 0.9), "item_mean": row(0.3, 1.1), "ease": row(0.3, None)})
    assert [entry["name"] for entry in rows] == ["this model", "item mean", "ease"]
    best = [[cell["best"] for cell in entry["cells"]] for entry in rows]
    columns = list(COLUMNS)
    assert [entry[columns.index("map")] for entry in best] == [False, True, True]
    assert [entry[columns.index("rmse")] for entry in best] == [True, False, False]
    assert [entry[columns.index("mae")] for entry in best] == [False, False, False]
    assert [entry["cells"][columns.index("mae")]["text"] for entry in rows] == ["-", "-", "-"]


def test_one_model_alone_is_not_marked_as_the_best() -> None:
    rows = report.table({"this model": dict.fromkeys(COLUMNS, 0.5)})
    assert not any(cell["best"] for cell in rows[0]["cells"])


@pytest.mark.parametrize(
    ("value", "other", "words"),
    [(0.12, 0.1, "20 % above"), (0.08, 0.1, "20 % below"), (0.1, 0.1, "level with"), (0.1, 0.0, "beside 0 of")],
)
def test_change_in_words(value: float, other: float, words: str) -> None:
    assert report.change(value, other) == words


def test_neighbours_are_those_of_highest_cosine(shown: report.Run) -> None:
    vectors = shown.factors.movies.astype(np.float64)
    counts = np.bincount(shown.known.movies, minlength=len(vectors))
    order = sorted(range(len(vectors)), key=lambda movie: (-counts[movie], movie))
    half = order[: len(order) // 2]
    listed = report.neighbours(shown)
    assert [movie["title"] for movie in listed] == [shown.titles[movie] for movie in order[:10]]
    for movie, entry in zip(order, listed, strict=False):
        cosine = {
            other: vectors[movie] @ vectors[other] / np.linalg.norm(vectors[movie]) / np.linalg.norm(vectors[other])
            for other in half
            if other != movie
        }
        nearest = sorted(cosine, key=lambda other: -cosine[other])[:5]
        assert [near["title"] for near in entry["near"]] == [shown.titles[other] for other in nearest]
        assert [near["cosine"] for near in entry["near"]] == [f"{cosine[other]:.3f}" for other in nearest]


def test_users_are_shown_with_their_best_rated_and_their_recommendations(shown: report.Run, trained: Path) -> None:
    ratings = read_table(trained / "data/interim/ratings.parquet").to_pandas()
    titles = read_table(trained / "data/interim/movies.parquet").to_pandas().set_index("movie_id")["title"]
    recommended = read_table(trained / "data/recommendations.parquet").to_pandas()
    listed = report.users(shown)
    assert len({user["id"] for user in listed}) == 5
    for user in listed:
        own = ratings[ratings["user_id"] == user["id"]]
        assert user["ratings"] == len(own)
        best = sorted(own["rating"], reverse=True)[: report.FAVOURITES]
        assert [float(movie["rating"]) for movie in user["favourites"]] == best
        rated = dict(zip(titles[own["movie_id"]], own["rating"], strict=True))
        assert all(rated[movie["title"]] == float(movie["rating"]) for movie in user["favourites"])
        expected = recommended[recommended["user_id"] == user["id"]].sort_values("rank")["title"].tolist()
        assert [movie["title"] for movie in user["recommendations"]] == expected
        assert not set(expected) & set(rated)


def test_titles_are_text_and_never_markup(finished: Path) -> None:
    path = finished / "data/processed/movies.parquet"
    movies = read_table(path)
    titles = [f"<script>\"&'{number}</script>" for number in range(len(movies))]
    write_table(path, movies.set_column(movies.schema.get_field_index("title"), "title", pa.array(titles)))
    result = stage(finished, "report")
    assert result.returncode == 0, result.stderr
    text = (finished / "reports/index.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    Page(text)


def test_a_ranking_model_is_shown_without_rating_errors(finished: Path) -> None:
    set_params(finished, train__loss="softmax", train__epochs=2, split__validation_size=0.2)
    for name in ("split", "train", "evaluate", "baselines", "recommend", "report"):
        result = stage(finished, name)
        assert result.returncode == 0, result.stderr
    text = (finished / "reports/index.html").read_text()
    assert 'id="error-title"' not in text
    assert 'id="recall-title"' in text
    assert "predicts no ratings" in text
    assert f"{read_json(finished / 'metrics/evaluate.json')['rmse']:.4f}" not in text
    assert "to choose parameters by" in text


def test_a_page_without_ease_is_drawn(finished: Path) -> None:
    set_params(finished, baselines__ease_max_movies=1)
    for name in ("baselines", "report"):
        assert stage(finished, name).returncode == 0
    assert ">ease<" not in (finished / "reports/index.html").read_text()


@pytest.mark.parametrize("size", [1, 2])
def test_vectors_of_one_or_two_numbers_make_a_map(size: int, shown: report.Run) -> None:
    small: dict[str, Any] = {name: getattr(shown, name) for name in shown.__dataclass_fields__}
    factors = {name: getattr(shown.factors, name) for name in shown.factors.__dataclass_fields__}
    factors |= {name: factors[name][:, :size].copy() for name in ("users", "movies")}
    small["factors"] = type(shown.factors)(**factors)
    chart = report.movie_map(report.Run(**small))
    assert "holds 100% of their variance" in chart.text


@pytest.mark.parametrize("path", ["metrics/history.csv", "metrics/baselines_at_k.csv", "data/recommendations.parquet"])
def test_a_missing_input_is_named_and_the_old_page_stays(path: str, finished: Path) -> None:
    before = sha256(finished / "reports/index.html")
    (finished / path).unlink()
    refused(stage(finished, "report"), path, "not found", "run `dvc repro`")
    assert sha256(finished / "reports/index.html") == before
