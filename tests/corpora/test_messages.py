"""messages.txt has a message for every `UserError` in the code, and each message is of a test."""

import ast
import re
import sys
from pathlib import Path

import pytest

from recommender.errors import UserError, one_line
from tests.conftest import REPOSITORY, read_messages, run, title_of

# Messages of training, of pip, about the environment and of workers, which are tested with these.
ELSEWHERE = ("train.{name}: needs", "training diverged in", "{requirement}: pip cannot", "lists {name}", "environment`")
ELSEWHERE += ("{here}: ", "Dask", "scheduler")


def templates() -> dict[str, str]:
    """Return the pattern of every message in the code, by its place."""
    found = {}
    for room in ("recommender", "stages"):
        for path in (REPOSITORY / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                    source = ast.unparse(node.args[0])
                    if not any(words in source for words in ELSEWHERE):
                        found[f"{path.name}:{node.lineno}"] = pattern(node.args[0])
    return found


def pattern(node: ast.expr) -> str:
    """Return a regular expression for the text that an expression makes."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return pattern(node.left) + pattern(node.right)
    return ".*"


def test_every_message_in_the_code_is_in_the_list() -> None:
    known = [line.removeprefix("error: ") for messages in read_messages().values() for line in messages.values()]
    found = templates()
    assert len(found) > 50
    missing = [place for place, text in found.items() if not any(re.fullmatch(text, line) for line in known)]
    assert missing == [], "add a test with the fixture `ending` for these"


def test_every_message_is_of_a_test() -> None:
    result = run(REPOSITORY, sys.executable, "-m", "pytest", "--collect-only", str(Path(__file__).parent))
    assert result.returncode == 0, result.stdout
    tests = (line.partition("::") for line in result.stdout.splitlines())
    titles = {(Path(path).name, title_of(test)) for path, _, test in tests}
    assert {(name, title) for name, messages in read_messages().items() for title in messages} <= titles


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
