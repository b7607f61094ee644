"""The app in a browser."""

import dataclasses
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pytest

from recommender.paths import FACTORS, ITEMS
from recommender.ranking.factors import Factors
from recommender.storage import read_table, write_table
from tests.browser.conftest import HEIGHT, WIDTHS, Seen, overflowing, watch
from tests.browser.pictures import PATIENCE, like, running_app
from tests.conftest import REPOSITORY

if TYPE_CHECKING:  # installed for these tests alone
    from playwright.sync_api import Browser, Locator, Page

LONG: Final = "Movie 3, or: How I Learned to Make a Title Longer than Any Box on a Phone Has Room for on a Line (1953)"


def test_the_app_is_for_this_machine_only_and_reports_nothing() -> None:
    config = tomllib.loads((REPOSITORY / ".streamlit/config.toml").read_text())
    assert config["server"]["address"] == "127.0.0.1"
    assert config["browser"]["gatherUsageStats"] is False


@pytest.fixture(scope="module")
def address(browser: "Browser", trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app of a trained project with one long title."""
    del browser  # without one, the app need not start
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("app") / "project"))
    items = read_table(folder / ITEMS)
    titles = [LONG if title == "Movie 3 (1953)" else title for title in items["title"].to_pylist()]
    write_table(folder / ITEMS, items.set_column(items.column_names.index("title"), "title", pa.array(titles)))
    log = folder.with_name("log")
    with log.open("w") as output, running_app(folder, output) as found:
        yield found
    assert f"URL: {found}" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def app(browser: "Browser", address: str) -> "Iterator[Page]":
    page = browser.new_page(viewport={"width": WIDTHS[1], "height": HEIGHT})
    seen = watch(page)
    page.goto(address)
    listed(page, "user")
    yield page
    page.close()
    assert seen == Seen()


def listed(page: "Page", name: str) -> list[str]:
    """Return the rows of a list once the app has come to rest."""
    page.wait_for_timeout(300)
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    rows = page.locator(f'[data-list="{name}"] li')
    rows.first.wait_for()
    return rows.all_inner_texts()


def changed(page: "Page", name: str, before: list[str]) -> list[str]:
    """Return the rows of a list once they are others than before."""
    deadline = time.monotonic() + PATIENCE
    while (found := listed(page, name)) == before:
        assert time.monotonic() < deadline, f"the list of {name} stays as it is: {before}"
    return found


def tab(page: "Page", name: str) -> "Locator":
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel", name=name)


def choose(page: "Page", name: str, text: str) -> None:
    """Choose the first option of a field that contains a text."""
    field = page.get_by_role("combobox", name=name)
    field.click()
    field.fill(text)
    page.get_by_role("option").filter(has_text=text).first.click()


@pytest.mark.browser
def test_picking_a_user_changes_history_and_recommendations(app: "Page") -> None:
    before = listed(app, "history"), listed(app, "user")
    assert len(before[0]) == len(before[1]) == 10
    choose(app, "User", "42 (")
    after = changed(app, "history", before[0]), changed(app, "user", before[1])
    titles = [{row.split("\n")[index] for row in rows} for rows, index in zip(after, (0, 1), strict=True)]
    assert titles[0].isdisjoint(titles[1])


@pytest.mark.browser
def test_titles_are_shown_as_they_are_where_streamlit_takes_markdown() -> None:
    from tools.explore import markdown

    assert markdown("M*A*S*H [x](y) $1 :fire: É 1.") == r"M\*A\*S\*H \[x\]\(y\) \$1 \:fire\: É 1\."


@pytest.mark.browser
def test_liking_three_movies_changes_the_list_each_time(app: "Page") -> None:
    tab(app, "A new user").get_by_text("Choose some items").wait_for()
    lists = []
    for title in ("Movie 3, or", "Movie 14 (", "Movie 27 ("):
        like(app, title)
        lists.append(listed(app, "new user"))
        assert not [row for row in lists[-1] if title in row]
    assert lists[0] != lists[1] != lists[2]
    assert [len(rows) for rows in lists] == [10, 10, 10]


@pytest.mark.browser
def test_titles_are_searched_and_similar_movies_shown(app: "Page") -> None:
    panel = tab(app, "Items")
    before = listed(app, "similar")
    panel.get_by_role("textbox", name="Words of a title").fill("LETTER the")
    app.keyboard.press("Enter")
    panel.get_by_text("8 of 8").wait_for()
    assert panel.get_by_role("radio").count() == 8
    first = changed(app, "similar", before)
    panel.locator("label").filter(has_text="Letter, The").nth(1).click()
    changed(app, "similar", first)


@pytest.mark.browser
def test_lists_are_filtered_by_genre(app: "Page") -> None:
    before = listed(app, "user")
    genre = before[0].split("\n")[-2].split(" · ")[0]
    choose(app, "Categories", genre)
    app.keyboard.press("Escape")
    changed(app, "user", before)
    for name in ("history", "user"):
        assert all(genre in row for row in listed(app, name))


@pytest.mark.browser
def test_an_item_that_is_left_out_makes_room_for_another(app: "Page") -> None:
    before = listed(app, "user")
    title = before[0].split("\n")[1]
    choose(app, "Leave out", title)
    app.keyboard.press("Escape")
    after = changed(app, "user", before)
    assert len(after) == len(before)
    assert not [row for row in after if title in row]


@pytest.mark.browser
def test_the_shares_behind_a_recommendation_add_up_to_its_score(app: "Page") -> None:
    titles = ("Movie 14 (", "Movie 27 (")
    for title in titles:
        like(app, title)
    panel = app.get_by_role("tabpanel", name="A new user")
    first = listed(app, "new user")[0].split("\n")
    choose(app, "Why this item?", first[1].strip())
    rows = listed(app, "why new user")
    assert {title in row for title in titles for row in rows} == {True, False}
    panel.get_by_text("what each rated item adds to the score").wait_for()
    sums = panel.get_by_text("Without ratings:").inner_text()
    parts = [float(row.split("★ ")[1]) for row in rows]
    base, rest = (float(part.split(" ")[-1].rstrip(".")) for part in sums.split(". "))
    assert sum(parts) + base + rest == pytest.approx(float(first[-1]), abs=0.01)


@pytest.mark.browser
def test_a_user_s_recommendation_has_its_nearest_rated_items(app: "Page") -> None:
    panel = app.get_by_role("tabpanel", name="A user")
    choose(app, "Why this item?", listed(app, "user")[0].split("\n")[1].strip())
    rows = listed(app, "why user")
    assert 0 < len(rows) <= 5
    panel.get_by_text("no parts of the score").wait_for()


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_overflows(app: "Page", width: int) -> None:
    assert overflowing(app, width) == []
    like(app, "Movie 3, or")
    assert overflowing(app, width) == []
    tab(app, "Items")
    listed(app, "similar")
    assert overflowing(app, width) == []


@pytest.mark.browser
@pytest.mark.usefixtures("here")
def test_mistakes_are_shown_on_the_page() -> None:
    from streamlit.testing.v1 import AppTest  # installed by `make test-browser` alone

    app = AppTest.from_file(str(Path("tools/explore.py").resolve()), default_timeout=PATIENCE)
    app.run()
    next(field for field in app.multiselect if field.label == "Items you like").select(5).run()
    assert not app.error
    assert not app.exception
    factors = Factors.load()
    dataclasses.replace(factors, interaction="batch_sum").save()
    app.run()
    assert len(app.error) == 1
    assert "batch_sum" in app.error[0].value
    assert app.text_input  # of another tab
    FACTORS.unlink()
    app.run()
    assert len(app.error) == 1
    assert "models/factors.npz: not found; run `dvc repro`" in app.error[0].value
    assert not app.exception
