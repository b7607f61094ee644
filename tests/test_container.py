"""The image, the dev container and the Makefile agree, and no rating gets into an image."""

import fnmatch
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    """Return the arguments of an instruction, in order."""
    return re.findall(rf"^{name} +(.+)$", DOCKERFILE, re.MULTILINE)


def left_out(path: str) -> bool:
    """Return whether a pattern of .dockerignore leaves out a path, itself or with a folder that it is in."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.split("/") for line in lines if line and not line.startswith("#")]
    parts = path.split("/")
    ends = [parts[:end] for end in range(1, len(parts) + 1)]

    def matches(pattern: list[str]) -> bool:
        anywhere = pattern[0] == "**"
        wanted, found = pattern[anywhere:], [end[-1:] for end in ends] if anywhere else ends
        return any(len(wanted) == len(part) and all(map(fnmatch.fnmatchcase, part, wanted)) for part in found)

    return any(map(matches, patterns))


def test_the_user_is_not_root_and_owns_the_clone() -> None:
    user = instructions("USER")
    assert user == [json.loads((REPOSITORY / ".devcontainer/devcontainer.json").read_text())["remoteUser"]]
    assert f" {user[0]}" in instructions("RUN")[0]
    assert "useradd" in instructions("RUN")[0]
    assert all(copied.startswith(f"--chown={user[0]}:{user[0]} ") for copied in instructions("COPY"))
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nCOPY ")


def test_packages_come_from_the_locks_and_the_default_is_the_two_commands() -> None:
    assert instructions("COPY")[0].split()[1:-1] == ["Makefile", "requirements.lock", "requirements-explore.lock"]
    assert not re.search(r"pip\d* +install|curl|wget|^ADD ", DOCKERFILE, re.MULTILINE)
    [(made, *_)] = [run.split()[1:] for run in instructions("RUN") if run.startswith("make ")]
    assert Path(made).name == ".installed-explore"
    assert json.loads(instructions("CMD")[0]) == ["make", "repro", "test"]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\$ make (\w+) +#", readme, re.MULTILINE)[:2] == ["repro", "test"]


def test_the_makefile_takes_the_environment_of_the_image(tmp_path: Path) -> None:
    result = subprocess.run(
        ["make", "--dry-run", "report"],
        cwd=shutil.copytree(REPOSITORY, tmp_path / "clone", ignore=lambda _, names: set(names) - {"Makefile"}),
        env={"PATH": "/usr/bin:/bin", "VENV": "/elsewhere/venv"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "/elsewhere/venv/.installed" in result.stderr + result.stdout


def test_the_dev_container_is_that_image() -> None:
    folder = REPOSITORY / ".devcontainer"
    found: dict[str, Any] = json.loads((folder / "devcontainer.json").read_text(encoding="utf-8"))
    assert (folder / found["build"]["dockerfile"]).resolve() == REPOSITORY / "Dockerfile"
    assert (folder / found["build"]["context"]).resolve() == REPOSITORY
    assert [str(port) for port in found["forwardPorts"]] == instructions("EXPOSE") == list(found["portsAttributes"])
    editor = found["customizations"]["vscode"]
    assert "iterative.dvc" in editor["extensions"]
    environment = dict(line.split("=", 1) for line in instructions("ENV"))
    assert set(editor["settings"].values()) == {f"{environment['VENV']}/bin/python"}
    assert environment["STREAMLIT_SERVER_ADDRESS"] == "0.0.0.0"  # noqa: S104 - in the container
    assert found["remoteEnv"]["STREAMLIT_SERVER_ADDRESS"] == "127.0.0.1"  # which VS Code forwards


def test_an_image_has_the_clone_and_nothing_else() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert [path for path in tracked.splitlines() if left_out(path)] == []
    assert not left_out(".git/HEAD")  # DVC and the tests need it
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    cached = [out if isinstance(out, str) else next(iter(out)) for stage in stages for out in stage["outs"]]
    ignored = [
        line.strip("/").replace("*", "a") for line in (REPOSITORY / ".gitignore").read_text().splitlines() if line
    ]
    ignored += [f"recommender/{name}/a" for name in ignored if name == "__pycache__"]
    dvc = [f".dvc/{line.strip('/')}" for line in (REPOSITORY / ".dvc/.gitignore").read_text().split()]
    assert len(cached) > 10
    for path in (*cached, *ignored, *dvc, ".dvc/cache/files/md5/aa/bb", "data/processed/test.parquet"):
        assert left_out(path), path
    for path in ("data/own/ratings.csv", "models/kernel.py", "recommender/models/mf.py"):
        assert not left_out(path), path
