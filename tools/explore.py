"""Open a local app to look at users, movies and recommendations: `make explore`."""

import argparse
import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Final

from stages.lib.errors import UserError, run
from stages.recommend import Library

APP: Final = Path(__file__).with_name("explore_app.py")
HOST: Final = "127.0.0.1"
PORT: Final = 8501
OPTIONS: Final = {
    "server.address": HOST,
    "server.showEmailPrompt": "false",
    "server.fileWatcherType": "none",
    "browser.serverAddress": HOST,
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorLinks": "false",
    "theme.paddingTop": "1rem",
    "theme.headingFontSizes": '["1.9rem", "1.5rem", "1.3rem"]',
    "theme.light.primaryColor": "#2f5d8a",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f3f5f8",
    "theme.light.textColor": "#1d2733",
    "theme.dark.primaryColor": "#4583c4",
    "theme.dark.backgroundColor": "#12171e",
    "theme.dark.secondaryBackgroundColor": "#1c232d",
    "theme.dark.textColor": "#e6eaf0",
}


def main() -> None:
    """Check that there is something to show and where to show it, and become Streamlit."""
    parser = argparse.ArgumentParser(prog="make explore", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"on {HOST}; {PORT} where not given")
    port = parser.parse_args().port
    if importlib.util.find_spec("streamlit") is None:
        raise UserError("the package streamlit is not installed; `make explore` installs it")
    try:
        Library.read()
    except UserError as error:
        raise UserError(f"there is nothing to explore yet; run `make repro` first ({error})") from None
    check_port(port)
    options = [f"--{name}={value}" for name, value in {**OPTIONS, "server.port": port}.items()]
    # The app's own imports start from the repository, as those of `python -m` do.
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(APP), *options])  # noqa: S606 - no shell


def check_port(port: int) -> None:
    """Refuse a port that cannot be listened on.

    Raises:
        UserError: it is out of range, taken, or not for this user.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"PORT: must be 1 to 65535; found {port}")
    with socket.socket() as listener:
        # As servers do, so that a port is free again at once after the last run.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"PORT: {HOST}:{port} cannot be listened on: {error.strerror}; "
                "end the other program or choose another: make explore PORT=8600"
            ) from None


if __name__ == "__main__":
    run(main)
