"""The one way a stage ends when something the user can mend is wrong."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in the user's parameters, data or environment, told in one line that says what to do about it."""


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
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
