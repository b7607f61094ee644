"""What the tests in a real browser share: an installed browser, and what a page must not do."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest

from tests.browser.pictures import chromium

if TYPE_CHECKING:  # installed for these tests alone
    from playwright.sync_api import Browser, ConsoleMessage, Page

WIDTHS: Final = (390, 1280)  # of a phone and of a laptop, in CSS pixels
HEIGHT: Final = 900

# Every visible text must lie in the box of its element, and in every box around it that cuts off what sticks out. A box
# with a scroll bar of its own may contain wider text, but not the page, nor a part of it that is as high as the window.
OVERFLOWING: Final = """() => {
  const found = [];
  const root = document.scrollingElement;
  if (root.scrollWidth > innerWidth + 1) found.push(`the page is ${root.scrollWidth} pixels wide`);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode, parent = node.parentElement, text = node.textContent.trim();
    if (!text || !parent.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const {left, right, top, bottom, width, height} = range.getBoundingClientRect();
    if (!width || !height || right <= 0) continue;  // nothing, or moved out of the window as a closed menu is
    let loose = null, cut = null, inside = true, scrolled = false;
    for (let box = parent; box && box !== document.documentElement; box = box.parentElement) {
      const style = getComputedStyle(box), edges = box.getBoundingClientRect();
      if (style.display === "contents" || style.display === "inline" && box.tagName !== "svg") continue;
      const cutsWidth = ["hidden", "clip"].includes(style.overflowX);
      const cutsHeight = !scrolled && ["hidden", "clip"].includes(style.overflowY);
      const unseen = (cutsWidth || cutsHeight) && (edges.width <= 2 || edges.height <= 2);  // for screen readers alone
      if (unseen || cutsHeight && (top >= edges.bottom || bottom <= edges.top)) { loose = cut = null; break; }
      const out = Math.max(edges.left - left, right - edges.right);
      const scrolls = ["auto", "scroll"].includes(style.overflowX);
      const high = box.clientHeight >= 0.9 * innerHeight && box.clientHeight <= innerHeight;
      if (scrolls && !high) { loose = null; break; }
      if (out > 1 && inside) loose = `is ${Math.ceil(out)} pixels wider than its box`;
      if (out > 1 && (cutsWidth || scrolls)) cut ??= `is ${Math.ceil(out)} pixels wider than its box`;
      const below = Math.max(edges.top - top, bottom - edges.bottom);
      if (cutsHeight && below > 2) cut ??= `is ${Math.ceil(below)} pixels higher than its box`;
      inside = false;
      scrolled ||= ["auto", "scroll"].includes(style.overflowY);
    }
    if (cut || loose) found.push(`${JSON.stringify(text.slice(0, 60))} ${cut || loose}`);
  }
  return found;
}"""


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A browser without a window."""
    with chromium() as started:
        yield started


@dataclass
class Seen:
    """What a page did that it must not: errors in its console, and requests to other machines."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def watch(page: "Page") -> Seen:
    """Collect a page's errors and its requests to other machines, from now on."""
    seen = Seen()

    def message(said: "ConsoleMessage") -> None:
        if said.type == "error":
            seen.errors.append(said.text)

    def request(address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("file", "data", "blob") and parts.hostname != "127.0.0.1":
            seen.foreign.append(address)

    page.on("console", message)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda made: request(made.url))
    page.on("websocket", lambda opened: request(opened.url))
    return seen


def overflowing(page: "Page", width: int) -> list[str]:
    """Set the window's width in CSS pixels and return a line for each text that does not fit into its box."""
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.wait_for_timeout(300)  # for layouts that follow the width by a script
    found: list[str] = page.evaluate(OVERFLOWING)
    return found
