"""Tables in README.md and docs/ are those of the files that they come from, and links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tools.docs import PAGES, fill


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text, None) == text, "run `make docs`"


def test_a_changed_figure_is_noticed() -> None:
    text = Path("docs/benchmarks.md").read_text(encoding="utf-8")
    assert fill(text.replace("0.2114", "0.2115"), None) == text
    assert "0.2114" in text


def test_outputs_are_filled_by_commands() -> None:
    page = "a\n<!-- output: echo hello -->\nold\n<!-- end -->\nb\n"
    assert fill(page, None) == page
    expected = "a\n<!-- output: echo hello -->\nhello!\n<!-- end -->\nb\n"
    assert fill(page, lambda command: command.removeprefix("echo ") + "!") == expected


@pytest.mark.parametrize("page", (*PAGES, Path("CONTRIBUTING.md"), Path("SECURITY.md")), ids=str)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:recommender|stages|tools|tests|benchmarks)/[\w/.]+)`", text):
        assert Path(path).exists() or path == "recommender/models/biases.py", path  # an example to add


def test_the_readme_is_short() -> None:
    assert len(Path("README.md").read_text(encoding="utf-8").splitlines()) <= 150
