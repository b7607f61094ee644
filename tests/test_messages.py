"""tests/messages.txt holds a message for every mistake that the stages know, and README.md in tests counts right."""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from stages.lib.errors import UserError, one_line
from tests.conftest import REPOSITORY, read_messages, run

NAMES = (
    "bad_command_lines",
    "broken_params",
    "broken_archives",
    "broken_data",
    "bad_network",
    "disk_and_process",
    "numbers",
)
FAMILIES = [Path(__file__).with_name(f"test_{name}.py") for name in NAMES]
# Held by tests/test_train.py and tests/test_fetch.py in processes of their own.
ELSEWHERE = ("train.{name}: needs", "training diverged", "{requirement}: pip cannot")


def templates() -> list[tuple[str, str]]:
    """Give every message that a stage can raise, as a place in the code and a pattern."""
    found = []
    for path in sorted((REPOSITORY / "stages").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                source = ast.unparse(node.args[0])
                if not any(words in source for words in ELSEWHERE):
                    found.append((f"{path.name}:{node.lineno}", pattern(node.args[0])))
    return found


def pattern(node: ast.expr) -> str:
    """Give a regular expression for the text that an expression makes."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return pattern(node.left) + pattern(node.right)
    return ".*"


def test_every_message_of_the_stages_is_in_the_list() -> None:
    known = [line.removeprefix("error: ") for messages in read_messages().values() for line in messages.values()]
    places = templates()
    assert len(places) > 40
    missing = [place for place, text in places if not any(re.fullmatch(text, line) for line in known)]
    assert missing == [], "add a test with the fixture `ending` for these"


@pytest.fixture(scope="module")
def collected() -> Counter[str]:
    """Count the tests of every family as pytest collects them."""
    result = run(REPOSITORY, sys.executable, "-m", "pytest", "--collect-only", "-q", *map(str, FAMILIES))
    assert result.returncode == 0, result.stdout
    counts = re.findall(r"^tests/(\w+)\.py: (\d+)$", result.stdout, re.MULTILINE)
    return Counter({name: int(count) for name, count in counts})


def test_the_readme_counts_the_cases_of_every_family(collected: Counter[str]) -> None:
    text = Path(__file__).with_name("README.md").read_text()
    told = {name: int(count) for name, count in re.findall(r"^\| `(\w+)\.py` \|.*\| (\d+) \|$", text, re.MULTILINE)}
    assert told == dict(collected)
    assert sum(told.values()) >= 100
    assert f"{sum(told.values())} cases" in text


def test_no_message_is_left_of_a_test_that_is_gone(collected: Counter[str]) -> None:
    messages = read_messages()
    assert set(messages) == {path.name for path in FAMILIES}
    for name, lines in messages.items():
        assert len(lines) <= collected[name.removesuffix(".py")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:word@host/a b", "https://host/a b"),
        ("https://me:w@rd@host:80/a@b", "https://host:80/a@b"),
        ("two\nlines\tand\x85more", "two lines and more"),
        ("\x1b[2Jred\x07", r"\x1b[2Jred\x07"),
        ("right\u202eto left", r"right\u202eto left"),
        ("Amélie 東京", "Amélie 東京"),
        ("\udcff", r"\udcff"),
    ],
)
def test_a_message_is_one_printable_line_without_secrets(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert str(UserError(text)) == shown
