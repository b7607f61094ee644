"""How a stage ends when the parameters, the data or the machine are at fault: one line on stderr, status 1."""

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

REMEDIES: Final = {
    errno.EEXIST: "a file is in place of its folder: move it away",
    errno.ENOTDIR: "a file is in place of its folder: move it away",
    errno.EISDIR: "a folder has its name: move it away",
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free space in your quota",
    errno.EFBIG: "allow larger files (`ulimit -f unlimited`)",
    errno.EACCES: "make its folder writable",
    errno.EROFS: "move the project to a writable disk",
}
LESS_MEMORY: Final = "free some, or lower batch_size or embedding_size in train, or baselines.ease_max_items"
RERUN: Final = "run `dvc repro` to write it again, or `dvc checkout` to restore it"


def one_line(text: str) -> str:
    """Return text as one printable line without credentials in URLs; control characters are escaped."""
    line = " ".join(re.sub(r"(?<=://)[^\s/?#]*@", "", text).split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


class UserError(Exception):
    """An error in parameters, data or environment, in one line that says what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the error for a file that cannot be written, with a remedy for the usual reasons."""
    reason = os.strerror(error.errno) if error.errno else str(error)  # Arrow's own words are longer
    return UserError(f"{path}: cannot be written: {reason}; {REMEDIES.get(error.errno or 0, 'fix that')}, then retry")


def run(main: Callable[[], None]) -> None:
    """Run a command's entry point. Exit with status 1 after a `UserError`, 130 after Ctrl-C.

    Any other exception is a bug and keeps its traceback.
    """
    try:
        main()
    except (UserError, MemoryError) as error:
        message = error if isinstance(error, UserError) else f"not enough memory ({error}); {LESS_MEMORY}"
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report Ctrl-C in one line while modules are still loading, too, before `run` is called."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


sys.excepthook = _show
