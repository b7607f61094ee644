"""The checks that the tests in a browser share notice what they are for."""

from typing import TYPE_CHECKING

import pytest

from recommender.errors import UserError
from tests.browser.conftest import overflowing, watch
from tests.browser.pictures import chromium

if TYPE_CHECKING:  # installed for these tests alone
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def test_a_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.browser.pictures.shutil.which", lambda _: None)
    with pytest.raises(UserError, match="none of chromium, chromium-browser, google-chrome is installed"), chromium():
        pass


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


def test_errors_and_foreign_requests_are_noticed(browser: "Browser") -> None:
    page = browser.new_page()
    seen = watch(page)
    page.route("**", lambda route: route.abort())
    page.set_content("<script>console.error('wrong')</script><img src='https://other.example/x.png'>")
    page.wait_for_timeout(200)
    assert seen.foreign == ["https://other.example/x.png"]
    assert "wrong" in seen.errors
    page.close()
