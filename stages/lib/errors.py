"""The one way a stage ends when something the user can mend is wrong."""

import re
import sys
from collections.abc import Callable
from typing import Final

SMALLER: Final = "free some, or lower train.batch_size, train.embedding_size or baselines.ease_max_movies"


def without_secrets(text: str) -> str:
    """Leave names and passwords out of the addresses in a text: ``https://me:word@host/`` becomes ``https://host/``."""
    return re.sub(r"(?<=://)[^\s/?#]*@", "", text)


class UserError(Exception):
    """A mistake in the user's parameters, data or environment, told in one line that says what to do about it.

    The line may quote what a stranger wrote: in it, secrets are left out and characters that could command a terminal
    are written as escapes.
    """

    def __init__(self, message: str) -> None:
        """Make one printable line of the message."""
        line = " ".join(without_secrets(message).split())
        super().__init__("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line))


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
