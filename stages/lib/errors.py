"""The one way a stage ends when something the user can mend is wrong."""

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

CURES: Final = {
    errno.EEXIST: "a file is in place of its folder: move it away",
    errno.ENOTDIR: "a file is in place of its folder: move it away",
    errno.EISDIR: "a folder has its name: move it away",
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "allow larger files (`ulimit -f unlimited`)",
    errno.EACCES: "give yourself write access to its folder",
    errno.EROFS: "move the project to a disk that can be written",
}
SMALLER: Final = "free some, or lower train.batch_size, train.embedding_size or baselines.ease_max_movies"


def one_line(text: str) -> str:
    """Make a text fit to be shown, which may quote what a stranger wrote.

    Args:
        text: any text.

    Returns:
        One line, without the names and passwords in addresses (``https://me:word@host/`` becomes ``https://host/``),
        and with escapes for characters that could command a terminal.
    """
    line = " ".join(re.sub(r"(?<=://)[^\s/?#]*@", "", text).split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


class UserError(Exception):
    """A mistake in the user's parameters, data or environment, told in one line that says what to do about it."""

    def __init__(self, message: str) -> None:
        """Make one line of the message."""
        super().__init__(one_line(message))


def cannot_write(path: Path, error: OSError) -> UserError:
    """Make the error for a file that cannot be written.

    Args:
        path: the file.
        error: what the system says.

    Returns:
        The error, with the cure where the reason is one of the usual ones.
    """
    # Pooch raises one of its own over a closed folder, without a number and with the folder's whole path.
    number = error.errno or (errno.EACCES if isinstance(error, PermissionError) else 0)
    reason = os.strerror(number) if number else str(error)
    return UserError(f"{path}: cannot be written: {reason}; {CURES.get(number, 'mend that')}, then retry")


def run(main: Callable[[], None]) -> None:
    """Run a stage and exit: status 1 and one line on stderr for a `UserError`, 130 for Ctrl-C.

    Any other exception is a bug and keeps its traceback.

    Args:
        main: the stage's entry point.

    Raises:
        SystemExit: with status 1 or 130, as above.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except MemoryError as error:
        print(f"error: there is not enough memory ({error}); {SMALLER}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End in one line after Ctrl-C while modules are loading, too, before `run` is there."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


sys.excepthook = _show
