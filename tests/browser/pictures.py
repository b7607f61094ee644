"""Take the pictures in docs of the report and of the app, as the pipeline left them: `make pictures`."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TextIO

from recommender.errors import UserError, run
from recommender.paths import REPORT

if TYPE_CHECKING:  # installed by `make pictures` alone
    from playwright.sync_api import Browser, FloatRect, Page

HOST: Final = "127.0.0.1"
FOLDER: Final = Path("docs")
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
LIKED: Final = ("Star Wars (1977)", "Fargo (1996)", "Toy Story (1995)")
TOP: "Final[FloatRect]" = {"x": 0, "y": 0, "width": 1280, "height": 1200}  # of the report: the figures and two curves
PATIENCE: Final = 60  # seconds for the app to start


def main() -> None:
    """Take the pictures, in light and in dark."""
    if not REPORT.is_file():
        raise UserError(f"{REPORT}: not found; run `make repro` first")
    with chromium() as browser, running_app(Path(), sys.stderr) as address:
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
            page.goto(REPORT.resolve().as_uri())
            page.screenshot(path=FOLDER / f"report-{scheme}.png", full_page=True, clip=TOP)
            page.goto(address)
            for title in LIKED:
                like(page, title)
            page.get_by_role("heading", name="Explore").click()
            page.wait_for_timeout(1000)  # until the list for all that are liked has replaced the one before
            page.screenshot(path=FOLDER / f"explore-{scheme}.png")


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start an installed browser without a window.

    Raises:
        UserError: none is installed.
    """
    from playwright.sync_api import sync_playwright

    path = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if path is None:
        raise UserError(f"none of {', '.join(BROWSERS)} is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def running_app(folder: Path, output: TextIO) -> Iterator[str]:
    """Run the app on a free port, in a folder where the pipeline ran, and yield its address once it answers.

    Raises:
        UserError: the app ended, or does not answer in time.
    """
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "tools/explore.py", "--server.headless=true"]
    command.append(f"--server.port={port}")
    app = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    address = f"http://{HOST}:{port}"
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=5).close()  # noqa: S310 - our own
                break
            except OSError:
                if time.monotonic() > end or app.poll() is not None:
                    raise UserError(f"{address}: the app does not answer; see what it printed") from None
                time.sleep(0.2)
        yield address
    finally:
        app.terminate()
        app.wait()


def like(page: "Page", title: str) -> None:
    """Choose one more movie that a new user likes, in the app, and wait for the list of recommendations."""
    page.get_by_role("tab", name="A new user").click()
    chosen = page.locator('[data-list="liked"] li')
    count = chosen.count()
    field = page.get_by_role("combobox", name="Items you like")
    field.click()
    field.fill(title)
    page.get_by_role("option").filter(has_text=title).first.click()
    page.keyboard.press("Escape")
    chosen.nth(count).wait_for()
    page.locator('[data-list="new user"] li').first.wait_for()


if __name__ == "__main__":
    run(main)
