"""What the tools run and print."""

import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from recommender.errors import UserError

PIPE_WIDTH: Final = 130  # a pipe has no width of its own, and rich's default of 80 would cut some tables


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)) -> None:
    """Print a table of cells in rich's markup; columns are aligned right, except those with the numbers in `left`."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _print(table)


def show_markdown(text: str) -> None:
    """Print Markdown, laid out for a terminal."""
    _print(Markdown(text))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Return a table of cells as Markdown, aligned like that of `show_table`."""
    rule = ["---" if number in left else "---:" for number in range(len(columns))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, rule, *rows))


def _print(content: Table | Markdown) -> None:
    Console(width=None if Console().is_terminal else PIPE_WIDTH).print(content)


def call(*command: str, cwd: Path | None = None) -> None:
    """Run a command with its output on stderr; one that fails raises a `UserError`."""
    try:
        subprocess.run(command, cwd=cwd, stdout=sys.stderr, check=True)  # noqa: S603 - no shell
    except OSError as error:
        raise UserError(f"`{command[0]}` cannot be run: {error.strerror}; install it or name another") from None
    except subprocess.CalledProcessError:
        raise UserError(f"`{' '.join(command)}` failed: see above") from None
