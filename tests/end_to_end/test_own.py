"""Own files through every stage: the same results as a release's, and ids, titles and ratings of any kind."""

import csv
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recommender.data.movielens import RELEASES
from recommender.data.synthetic import make_ratings
from recommender.paths import STAGES
from tests.conftest import Repository, copy_project, run, set_params, sha256, stage

SCALE = (1.0, 5.0, 1.0)
TITLES = ['=HYPERLINK("http://x")', "[red]x[/red]", "<script>alert(1)</script>", "$x^2", "a\x1b[2Jb", "**bold** :fire:"]


def set_own(folder: Path, ratings: Path, items: Path | None = None, **own: object) -> None:
    """Select files in a folder's parameters."""
    values: dict[str, object] = {"ratings": str(ratings), "sha256": sha256(ratings), **own}
    if items:
        values |= {"items": str(items), "items_sha256": sha256(items)}
    set_params(folder, data__dataset="own", **{f"data__own__{name}": value for name, value in values.items()})


def run_all(folder: Path) -> None:
    for name in STAGES:
        result = stage(folder, name)
        assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> Path:
    """A project where every stage has run on a release in the layout of ml-100k."""
    folder = copy_project(tmp_path_factory.mktemp("release") / "project", archives["ml-100k"], "ml-100k")
    run_all(folder)
    return folder


@pytest.mark.slow
def test_a_release_given_as_an_own_file_has_the_same_results(release: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(release, tmp_path / "own"))
    with zipfile.ZipFile(folder / "data/raw/archive.zip") as archive:
        ratings, items = tmp_path / "ml-100k.inter", tmp_path / "ml-100k.item"
        ratings.write_bytes(archive.read(RELEASES["ml-100k"].ratings))
        items.write_bytes(archive.read(RELEASES["ml-100k"].items))
    set_own(folder, ratings, items)
    run_all(folder)
    same = ["models/factors.npz", "models/fold_in.npz", "models/mf.keras"]
    same += [f"data/processed/{name}.parquet" for name in ("train", "validation", "test")]
    for path in [*same, *(str(path.relative_to(release)) for path in (release / "metrics").iterdir())]:
        if path.endswith(".parquet"):  # its metadata has the scale
            assert pq.read_table(folder / path).equals(pq.read_table(release / path)), path
        else:
            assert sha256(folder / path) == sha256(release / path), path
    found, expected = (pq.read_table(each / "data/recommendations.parquet") for each in (folder, release))
    for name in ("user_id", "rank", "item_id", "score"):
        assert found[name].cast(expected[name].type).equals(expected[name]), name


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ratings of books by people: text ids, 1 to 10, ISO dates; and a list of most books, with titles that attack."""
    folder = tmp_path_factory.mktemp("books")
    users, items, values = make_ratings(60, 50, 1200, scale=SCALE)
    with (folder / "ratings.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "isbn", "score", "date"])
        for number, (user, item, value) in enumerate(zip(users, items, values, strict=True)):
            rows.writerow([f"u {user}", f"{item:03d}", int(2 * value), f"2004-05-{1 + number % 28:02d}T10:00:00"])
    with (folder / "books.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["isbn", "title", "author"])
        rows.writerows([f"{item:03d}", f"{TITLES[item % len(TITLES)]} {item}", f"<i>{item}"] for item in range(1, 49))
    return folder / "ratings.csv", folder / "books.csv"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mf", "softmax_mf"])
def test_text_ids_and_titles_go_through_every_stage(tmp_path: Path, books: tuple[Path, Path], model: str) -> None:
    folder = copy_project(tmp_path / "project", books[0])
    set_params(folder, train__model=model, train__softmax_mf__embedding_size=8, train__softmax_mf__epochs=2)
    set_own(folder, *books)
    run_all(folder)
    lists = pq.read_table(folder / "data/recommendations.parquet")
    assert lists.schema.field("user_id").type == lists.schema.field("item_id").type == pa.string()
    rated = {tuple(row[:2]) for row in csv.reader(books[0].open(encoding="utf-8"))}
    assert not rated & set(zip(lists["user_id"].to_pylist(), lists["item_id"].to_pylist(), strict=True))
    shown = json.loads(stage(folder, "recommend", "--user", "u 17", "--k", "3", "--json").stdout)
    own = lists.filter(np.array(lists["user_id"]) == "u 17").to_pylist()[:3]
    assert shown["user_id"] == "u 17"
    assert [row["item_id"] for row in shown["recommendations"]] == [row["item_id"] for row in own]
    printed = stage(folder, "recommend", "--user", "u 17").stdout
    assert printed.startswith("User u 17\n")
    assert printed.replace("\n", "").isprintable()
    assert " : " not in printed
    page = (folder / "reports/index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "author: &lt;i&gt;" in page
    assert "<title>ratings.csv: what the recommender learned</title>" in page
    assert "MovieLens" not in page
    missing = stage(folder, "recommend", "--user", "u 1700")
    assert missing.stderr == "error: --user: there is no user u 1700; ids are text, the closest 'u 10'\n"


@pytest.mark.slow
def test_make_own_sets_the_parameters_and_runs(repository: Repository, books: tuple[Path, Path]) -> None:
    before = (repository.folder / "params.yaml").read_text()
    for path in books:
        shutil.copy(path, repository.folder)
    implicit = repository.folder / "implicit.tsv"
    implicit.write_text("".join(f"{user}\t{item}\n" for user in range(40) for item in range(30) if (user + item) % 3))
    command = (sys.executable, "-m", "tools.own")
    shutil.copy(Path(__file__).parents[2] / "presets.yaml", repository.folder)
    output = repository(*command, "--items", "books.csv", "--columns", "item=isbn", "--", "ratings.csv")
    for words in (
        "ratings.csv: text, separated by ',', with a header; columns item: isbn, user: user, rating: score, time",
        "books.csv: text, separated by ',', with a header; columns item: isbn, title: title",
        "1,200 ratings of 50 items by 60 users; 50 items are listed",
        "Ratings are 2 to 10; the largest user has",
        "Times are 2004-05-01 to 2004-05-28",
        "this model",
    ):
        assert words in output
    params = yaml.safe_load((repository.folder / "params.yaml").read_text())
    assert params["data"]["own"]["sha256"] == sha256(books[0])
    assert params["train"]["model"] == "mf"
    (repository.folder / "ratings.csv").write_text("user,item,rating\n")
    changed = repository.attempt(sys.executable, "-m", "tools.environment", "--check")
    assert "error: ratings.csv: has changed: its SHA-256 is" in changed.stderr
    (repository.folder / "broken.csv").write_text("user,item,rating\n1,2,x\n")
    saved, locked = ((repository.folder / name).read_text() for name in ("params.yaml", "dvc.lock"))
    failed = repository.attempt(*command, "--", "broken.csv")
    assert failed.returncode == 1
    assert "error: broken.csv: line 2: rating must be a number; found 'x'" in failed.stderr
    assert (repository.folder / "params.yaml").read_text() == saved != before
    assert (repository.folder / "dvc.lock").read_text() == locked
    absent = repository.attempt(*command, "--", "absent.csv")
    assert re.search("^error: absent.csv: cannot be read: No such file", absent.stderr)
    unlisted = repository.attempt(*command, "--items", "absent.csv", "--", "broken.csv")
    assert (
        "error: absent.csv: cannot be read: No such file or directory; give the path of a file with items"
        in unlisted.stderr
    )
    output = repository(*command, "--", "implicit.tsv")
    assert "All ratings are the same (implicit data), which mf cannot predict: kernel ranks" in output
    assert "There are no times" in output
    assert yaml.safe_load((repository.folder / "params.yaml").read_text())["train"]["model"] == "kernel"


@pytest.mark.parametrize("columns", ["user", "user=", "reader=user", "user=a item"])
def test_wrong_columns_are_named(project: Path, columns: str) -> None:
    result = run(project, sys.executable, "-m", "tools.own", "--columns", columns, "--", "ratings.csv")
    assert result.returncode == 1
    assert re.match(
        r"error: COLUMNS: '.+' must have one of user, item, .* a column's name or number after it", result.stderr
    )
