"""Take the README's pictures of the report and of the app as the pipeline left them: `make pictures`."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from stages.lib.errors import UserError, run
from tools.results import REPORT

if TYPE_CHECKING:  # installed by `make pictures` alone
    from playwright.sync_api import FloatRect, Page

FOLDER: Final = Path("docs")
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
LIKED: Final = ("Star Wars (1977)", "Fargo (1996)", "Toy Story (1995)")
TOP: "Final[FloatRect]" = {"x": 0, "y": 0, "width": 1280, "height": 1200}  # of the report: the figures and two curves
PATIENCE: Final = 60  # seconds for the app to start


def main() -> None:
    """Take the pictures, in light and in dark."""
    from playwright.sync_api import sync_playwright

    path = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if path is None:
        raise UserError(f"none of {', '.join(BROWSERS)} is installed: apt-get install chromium")
    if not REPORT.is_file():
        raise UserError(f"{REPORT}: not found; run `make repro` first")
    FOLDER.mkdir(exist_ok=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    app = subprocess.Popen(  # noqa: S603 - no shell
        [sys.executable, "-m", "tools.explore", "--port", str(port)],
        env={**os.environ, "STREAMLIT_SERVER_HEADLESS": "true"},
        stdout=sys.stderr,
    )
    try:
        wait_for(f"{address}/_stcore/health", app)
        with sync_playwright() as playwright:
            # Chromium's own sandbox needs a user that is not root, and these pages are our own.
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for scheme in SCHEMES:
                page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
                page.goto(REPORT.resolve().as_uri())
                page.screenshot(path=FOLDER / f"report-{scheme}.png", full_page=True, clip=TOP)
                page.goto(address)
                like(page)
                page.screenshot(path=FOLDER / f"explore-{scheme}.png")
            browser.close()
    finally:
        app.terminate()
        app.wait()


def like(page: "Page") -> None:
    """Be a new person who likes some movies, in the app."""
    page.get_by_role("tab", name="A new person").click()
    field = page.get_by_role("combobox", name="Movies you like")
    for count, title in enumerate(LIKED):
        field.click()
        field.fill(title)
        page.get_by_role("option").filter(has_text=title).first.click()
        page.keyboard.press("Escape")
        page.locator('[data-list="liked"] li').nth(count).wait_for()
    page.get_by_role("heading", name="Explore").click()
    page.locator('[data-list="person"] li').first.wait_for()
    page.wait_for_timeout(1000)  # for the list of all that are liked to take the place of the one before


def wait_for(address: str, app: "subprocess.Popen[bytes]") -> None:
    """Wait until an address answers.

    Raises:
        UserError: the app ended, or does not answer in time.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and app.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()  # noqa: S310 - our own
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise UserError(f"{address}: the app does not answer; see what it printed above")


if __name__ == "__main__":
    run(main)
