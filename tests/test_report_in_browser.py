"""The report in a real browser, on a phone's and a laptop's width, in light and in dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import HEIGHT, WIDTHS, Seen, chromium, overflowing, watch

if TYPE_CHECKING:  # installed for these tests alone
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
CHARTS = 12


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as started:
        yield started


@pytest.fixture(params=["light", "dark"])
def opened(request: pytest.FixtureRequest, browser: "Browser", trained: Path) -> Iterator[tuple["Page", Seen]]:
    """The page, opened from disk, and what it did meanwhile."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": WIDTHS[0], "height": HEIGHT})
    page = context.new_page()
    seen = watch(page)
    page.goto((trained / "reports/index.html").as_uri())
    yield page, seen
    context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_charts_are_drawn_and_all_text_fits(width: int, opened: tuple["Page", Seen]) -> None:
    page, seen = opened
    assert overflowing(page, width) == []
    charts = page.locator("svg").all()
    assert len(charts) == CHARTS
    for chart in charts:
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 120
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    assert (seen.errors, seen.foreign) == ([], [])


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_accessible(width: int, opened: tuple["Page", Seen]) -> None:
    from axe_playwright_python.sync_playwright import Axe  # installed by `make test-browser` alone

    page, _ = opened
    page.set_viewport_size({"width": width, "height": HEIGHT})
    result = Axe().run(page)
    assert len(result.response["passes"]) > 20
    assert [(found["id"], found["nodes"][0]["html"]) for found in result.response["violations"]] == []


def test_words_and_drawing_differ_from_their_ground(opened: tuple["Page", Seen]) -> None:
    page, _ = opened
    names = ["ink", "muted", "accent", *(f"series-{number}" for number in range(1, 7))]
    for name in names:
        ratio = page.evaluate(CONTRAST, name)
        # The Web Content Accessibility Guidelines 2.2 ask for 4.5 in text and 3 in drawings.
        assert ratio >= (3 if name.startswith("series") else 4.5), name


CONTRAST = """(name) => {
  const style = getComputedStyle(document.documentElement);
  const light = (variable) => {
    const hex = style.getPropertyValue(variable).trim().slice(1);
    const [r, g, b] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = [light(`--${name}`), light("--card")].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""


def test_the_page_reads_without_scripts(browser: "Browser", trained: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((trained / "reports/index.html").as_uri())
    assert page.locator("h1").inner_text() == "ml-1m: what the recommender learned"
    assert page.locator("article").count() == 5
    context.close()


def test_pointing_at_a_movie_on_the_map_names_it(opened: tuple["Page", Seen]) -> None:
    page, _ = opened
    titles = page.locator("svg[aria-labelledby^='map-'] use title").all_text_contents()
    assert len(titles) == 80
    assert all(text.endswith(")") for text in titles)
