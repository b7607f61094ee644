"""The comment on a pull request, rendered as GitHub does: tables scroll by themselves, the page does not."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from tests.browser.conftest import WIDTHS, overflowing
from tests.conftest import Repository

if TYPE_CHECKING:  # installed for these tests alone
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
# Of GitHub's own style what decides the widths.
STYLE = """<!doctype html><html lang="en"><title>Comment</title><style>
body { font: 14px/1.5 sans-serif; margin: 16px; }
table { display: block; width: max-content; max-width: 100%; overflow: auto; }
td, th { border: 1px solid #d0d7de; padding: 6px 13px; } pre { overflow: auto; padding: 16px; }</style><main>"""


@pytest.fixture(scope="module")
def comment(started: tuple[Repository, str]) -> str:
    """What `make compare MARKDOWN=1` prints about a change of the learning rate."""
    repository = started[0]
    repository.reset()
    repository("dvc", "exp", "run", "--quiet", "-S", "train.mf.learning_rate=5e-5")
    output = repository.attempt(sys.executable, "-m", "tools.compare", "HEAD", "--markdown").stdout
    repository.reset()
    return output


@pytest.mark.parametrize("width", WIDTHS)
def test_the_comment_is_a_page_of_tables_and_charts(
    width: int, comment: str, browser: "Browser", tmp_path: Path
) -> None:
    path = tmp_path / "comment.html"
    path.write_text(STYLE + MarkdownIt("commonmark").enable("table").render(comment), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert overflowing(page, width) == []
    metrics, parameters = page.locator("table").all()
    assert metrics.locator("th").all_inner_texts()[:4] == ["file", "metric", "before", "now"]
    assert metrics.locator("td", has_text="worse").count() >= 1
    assert parameters.locator("td").all_inner_texts() == ["train.mf.learning_rate", "0.0005", "5e-05"]
    charts = page.locator("code.language-mermaid").all_inner_texts()
    assert len(charts) == 4
    assert all(text.startswith("xychart-beta\n") for text in charts)
    page.close()
