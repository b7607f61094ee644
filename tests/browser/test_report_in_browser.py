"""The report in a real browser, on a phone's and a laptop's width, in light and in dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recommender.paths import REPORT
from tests.browser.conftest import HEIGHT, WIDTHS, Seen, overflowing, watch

if TYPE_CHECKING:  # installed for these tests alone
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
CHARTS = 18
# The ratio of two colours' luminance by the Web Content Accessibility Guidelines 2.2.
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


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: "Browser", trained: Path) -> Iterator["Page"]:
    """The page, opened from disk, which must cause no errors and ask for no other file."""
    opened = browser.new_page(color_scheme=request.param, viewport={"width": WIDTHS[0], "height": HEIGHT})
    seen = watch(opened)
    opened.goto((trained / REPORT).as_uri())
    yield opened
    opened.close()
    assert seen == Seen()


@pytest.mark.parametrize("width", WIDTHS)
def test_charts_are_drawn_and_all_text_fits(width: int, page: "Page") -> None:
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


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_accessible(width: int, page: "Page") -> None:
    from axe_playwright_python.sync_playwright import Axe  # installed by `make test-browser` alone

    page.set_viewport_size({"width": width, "height": HEIGHT})
    result = Axe().run(page)
    assert len(result.response["passes"]) > 20
    assert [(found["id"], found["nodes"][0]["html"]) for found in result.response["violations"]] == []


def test_text_and_drawing_contrast_with_the_background(page: "Page") -> None:
    for name in ("ink", "muted", "accent", *(f"series-{number}" for number in range(1, 7))):
        assert page.evaluate(CONTRAST, name) >= (3 if name.startswith("series") else 4.5), name  # the guidelines' least


def test_the_page_reads_without_scripts(browser: "Browser", trained: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((trained / REPORT).as_uri())
    assert page.locator("h1").inner_text() == "ml-1m: what the recommender learned"
    assert page.locator("article").count() == 5
    page.close()


def test_pointing_at_a_movie_on_the_map_names_it(page: "Page") -> None:
    titles = page.locator("svg[aria-labelledby='map-title'] use title").all_text_contents()
    assert len(titles) == 80
    assert all(text.endswith(")") for text in titles)
