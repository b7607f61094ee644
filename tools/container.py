"""Build the image of HEAD, and run README's two commands and the app in a container: `make container`.

It writes the size and the times to `benchmarks/container.json`, from which `make docs` fills docs/start.md.
"""

import argparse
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from recommender.errors import UserError, run
from recommender.storage import write_json
from tools.console import call

RESULTS: Final = Path("benchmarks/container.json")
IMAGE: Final = "recommender"
PORT: Final = 8501
STEPS: Final = {
    "make repro": ("make", "repro"),
    "bytes as committed": ("git", "diff", "--exit-code", "--", "dvc.lock", "metrics"),
    "make test": ("make", "test"),
}
LONGEST: Final = 60  # seconds for the app to start
FACTS: Final = {  # what a command prints in the container
    "user": ("whoami",),
    "machine": ("uname", "--machine"),
    "debian": ("cat", "/etc/debian_version"),
    "python": ("python", "-c", "import platform; print(platform.python_version())"),
}


def main() -> None:
    """Build, run and record; stop the container whatever happens."""
    parser = argparse.ArgumentParser(prog="make container", description=__doc__)
    parser.add_argument("--engine", default="docker", help="command of docker or of one that is used like it: podman")
    engine = parser.parse_args().engine
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        clone = f"{folder}/clone"
        call("git", "clone", "--quiet", "--no-hardlinks", ".", clone)
        seconds["docker build"] = timed(engine, "build", "--no-cache", "--tag", IMAGE, clone)
    publish = f"127.0.0.1:{PORT}:{PORT}"
    container = output(engine, "run", "--detach", "--publish", publish, IMAGE, "sleep", "infinity")
    try:
        facts = {name: output(engine, "exec", container, *command) for name, command in FACTS.items()}
        for name, command in STEPS.items():
            seconds[name] = timed(engine, "exec", container, *command)
        call(engine, "exec", "--detach", container, "make", "explore")
        seconds["make explore"] = wait_for_app()
    finally:
        call(engine, "rm", "--force", container)
    found = {
        "engine": output(engine, "--version"),
        **facts,
        "bytes": int(output(engine, "image", "inspect", "--format", "{{.Size}}", IMAGE)),
        "seconds": seconds,
    }
    write_json(RESULTS, found)
    print(f"{RESULTS}: everything ran in the container, with the bytes that are committed")


def timed(*command: str) -> float:
    """Run a command that must succeed; return the seconds it took."""
    start = time.monotonic()
    call(*command)
    return time.monotonic() - start


def output(*command: str) -> str:
    """Return what a command prints, which must succeed."""
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - no shell
    if result.returncode:
        raise UserError(f"`{' '.join(command)}` failed: see above")
    return result.stdout.strip()


def wait_for_app() -> float:
    """Return how many seconds it took until the app answered on this machine's port."""
    start = time.monotonic()
    while (waited := time.monotonic() - start) < LONGEST:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=5) as answer:
                if answer.read() == b"ok":
                    return waited
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise UserError(f"the app does not answer on port {PORT} within {LONGEST} s: run `make explore` in the container")


if __name__ == "__main__":
    run(main)
