"""The app to explore in: what it says before it starts, and in a browser what it shows."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from stages.lib.errors import UserError
from stages.lib.factors import PATH, Factors
from stages.lib.ratings import MOVIES
from stages.lib.storage import read_table, write_table
from tests.browser import HEIGHT, WIDTHS, Seen, chromium, overflowing, watch
from tools import explore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PATIENCE: Final = 60  # seconds for the app to start
LONG: Final = "Movie 3, or: How I Learned to Make a Title Longer than Any Box on a Phone Has Room for on a Line (1953)"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(UserError, match=rf"PORT: must be 1 to 65535; found {port}"):
        explore.check_port(port)


def test_a_port_in_use_is_refused_and_a_free_one_is_not() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} cannot be listened on: .* in use; .* PORT=8600"):
            explore.check_port(port)
    explore.check_port(free_port())


def test_without_outputs_or_streamlit_one_line_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["explore"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explore.importlib.util, "find_spec", lambda _: object())
    with pytest.raises(UserError, match=r"run `make repro` first \(data/processed/users\.parquet: not found"):
        explore.main()
    monkeypatch.setattr(explore.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"streamlit is not installed; `make explore` installs it"):
        explore.main()


def test_nothing_is_listened_on_but_this_machine_and_nothing_is_reported() -> None:
    assert explore.OPTIONS["server.address"] == explore.HOST == "127.0.0.1"
    assert explore.OPTIONS["browser.gatherUsageStats"] == "false"


def test_a_missing_browser_skips_a_test_but_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.browser.importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("tests.browser.shutil.which", lambda _: None)
    for ci, outcome in (("", pytest.skip.Exception), ("true", pytest.fail.Exception)):
        monkeypatch.setenv("CI", ci)
        with pytest.raises(outcome, match="none of chromium, chromium-browser, google-chrome is installed"), chromium():
            pass


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(browser: "Browser", trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app of a trained project with one long title."""
    del browser  # where there is none, nothing needs to start
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("app") / "project"))
    movies = read_table(folder / MOVIES)
    titles = [LONG if title == "Movie 3 (1953)" else title for title in movies["title"].to_pylist()]
    write_table(folder / MOVIES, movies.set_column(movies.schema.get_field_index("title"), "title", [titles]))
    port = free_port()
    command = [sys.executable, "-m", "tools.explore", "--port", str(port)]
    environment = {**os.environ, "STREAMLIT_SERVER_HEADLESS": "true"}
    log = folder.with_name("log")
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    found = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{found}/_stcore/health", timeout=1).close()  # noqa: S310 - http
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "the app did not start"
                time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        process.wait()
    assert f"URL: {found}" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def opened(browser: "Browser", address: str) -> "Iterator[tuple[Page, Seen]]":
    page = browser.new_page(viewport={"width": WIDTHS[1], "height": HEIGHT})
    seen = watch(page)
    page.goto(address)
    listed(page, "user")
    yield page, seen
    page.close()
    assert seen == Seen()


def listed(page: "Page", name: str) -> list[str]:
    """Give the lines of a list once the app has come to rest."""
    page.wait_for_timeout(300)
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    rows = page.locator(f'[data-list="{name}"] li')
    rows.first.wait_for()
    return rows.all_inner_texts()


def changed(page: "Page", name: str, before: list[str]) -> list[str]:
    """Give the lines of a list once they are others than before."""
    deadline = time.monotonic() + PATIENCE
    while (found := listed(page, name)) == before:
        assert time.monotonic() < deadline, f"the list of {name} stays as it is: {before}"
    return found


def tab(page: "Page", name: str) -> "Locator":
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel", name=name)


def choose(page: "Page", field: "Locator", text: str) -> None:
    """Choose the first option that a text leaves."""
    field.click()
    field.fill(text)
    page.get_by_role("option").filter(has_text=text).first.click()


@pytest.mark.browser
def test_picking_a_user_changes_history_and_recommendations(opened: "tuple[Page, Seen]") -> None:
    page, _ = opened
    before = listed(page, "history"), listed(page, "user")
    assert len(before[0]) == len(before[1]) == 10
    choose(page, page.get_by_role("combobox", name="User"), "42 (")
    after = changed(page, "history", before[0]), changed(page, "user", before[1])
    titles = [{row.split("\n")[index] for row in rows} for rows, index in zip(after, (0, 1), strict=True)]
    assert titles[0].isdisjoint(titles[1])


@pytest.mark.browser
def test_liking_three_movies_changes_the_list_each_time(opened: "tuple[Page, Seen]") -> None:
    page, _ = opened
    panel = tab(page, "A new person")
    panel.get_by_text("Choose some movies").wait_for()
    lists = []
    for count, title in enumerate(("Movie 3, or", "Movie 14 (", "Movie 27 ("), start=1):
        choose(page, panel.get_by_role("combobox", name="Movies you like"), title)
        page.keyboard.press("Escape")
        page.locator('[data-list="liked"] li').nth(count - 1).wait_for()
        lists.append(listed(page, "person"))
        assert not [row for row in lists[-1] if title in row]
    assert lists[0] != lists[1] != lists[2]
    assert [len(rows) for rows in lists] == [10, 10, 10]


@pytest.mark.browser
def test_titles_are_searched_and_similar_movies_shown(opened: "tuple[Page, Seen]") -> None:
    page, _ = opened
    panel = tab(page, "Movies")
    before = listed(page, "similar")
    panel.get_by_role("textbox", name="Words of a title").fill("LETTER the")
    page.keyboard.press("Enter")
    panel.get_by_text("8 of 8").wait_for()
    options = panel.get_by_role("radio")
    assert options.count() == 8
    first = changed(page, "similar", before)
    panel.locator("label").filter(has_text="Letter, The").nth(1).click()
    changed(page, "similar", first)


@pytest.mark.browser
def test_lists_are_filtered_by_genre(opened: "tuple[Page, Seen]") -> None:
    page, _ = opened
    before = listed(page, "user")
    genre = before[0].split("\n")[-2].split(" · ")[0]
    choose(page, page.get_by_role("combobox", name="Genres"), genre)
    page.keyboard.press("Escape")
    changed(page, "user", before)
    for name in ("history", "user"):
        assert all(genre in row for row in listed(page, name))


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_overflows(opened: "tuple[Page, Seen]", width: int) -> None:
    page, _ = opened
    assert overflowing(page, width) == []
    choose(page, tab(page, "A new person").get_by_role("combobox", name="Movies you like"), "Movie 3, or")
    page.keyboard.press("Escape")
    listed(page, "person")
    assert overflowing(page, width) == []
    tab(page, "Movies")
    listed(page, "similar")
    assert overflowing(page, width) == []


@pytest.mark.browser
def test_mistakes_are_told_on_the_page(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.testing.v1 import AppTest  # installed by `make test-browser` alone

    monkeypatch.chdir(finished)
    app = AppTest.from_file(str(finished / "tools/explore_app.py"), default_timeout=PATIENCE)
    app.run()
    next(field for field in app.multiselect if field.label == "Movies you like").select(5).run()
    assert not app.error
    assert not app.exception
    factors = Factors.load()
    dataclasses.replace(factors, interaction="batch_sum").save()
    app.run()
    assert [error.value for error in app.error] == [
        "train.interaction: with batch_sum what a person is predicted depends on everybody else in the batch, so that "
        "nobody can be added; set it to dot and run `dvc repro`"
    ]
    assert app.text_input  # of another tab
    PATH.unlink()
    app.run()
    expected = "models/factors.npz: not found; run `dvc repro` to make it again, or `dvc checkout` to restore it"
    assert [error.value for error in app.error] == [expected]
    assert not app.exception


@pytest.mark.browser
def test_overflowing_text_is_noticed(browser: "Browser") -> None:
    page = browser.new_page()
    fits = "<p>short</p><div style='overflow-x: auto'><pre>" + "wide " * 200 + "</pre></div>"
    page.set_content(fits)
    assert overflowing(page, 390) == []
    for style in ("overflow: hidden; text-overflow: ellipsis", "overflow: visible", "overflow: clip"):
        box = f"<div style='width: 50px; white-space: nowrap; {style}'>longer than its box</div>"
        page.set_content(f"{fits}<div style='height: 0'>{box}</div>")
        assert ["longer than its box" in line for line in overflowing(page, 390)] == [True]
    page.set_content("<p style='position: absolute; overflow: hidden; width: 1px; height: 1px'>for screen readers</p>")
    assert overflowing(page, 390) == []
    high = "<div style='overflow: auto; position: absolute; inset: 0; white-space: nowrap'>"
    page.set_content(high + "in a part of the page that is as high as the window and no wider than it</div>")
    assert overflowing(page, 1280) == []
    assert ["as high as the window" in line for line in overflowing(page, 390)] == [True]
    page.set_content("<div style='width: 500px'>wider than the window</div>")
    assert overflowing(page, 390) == ["the page is 508 pixels wide"]
    assert overflowing(page, 1280) == []
    page.set_content("<svg width=60 height=20><text y=15>cut by its picture</text></svg>")
    assert ["cut by its picture" in line for line in overflowing(page, 1280)] == [True]
    page.close()


@pytest.mark.browser
def test_errors_and_foreign_requests_are_noticed(browser: "Browser") -> None:
    page = browser.new_page()
    seen = watch(page)
    page.route("**", lambda route: route.abort())
    page.set_content("<script>console.error('wrong')</script><img src='https://other.example/x.png'>")
    page.wait_for_timeout(200)
    assert seen.foreign == ["https://other.example/x.png"]
    assert "wrong" in seen.errors
    page.close()
