"""An experiment gives the same bytes in the workspace, in a folder of its own and from the queue."""

import pytest
import yaml

from recommender.paths import STAGES
from tests.conftest import Repository, set_params

pytestmark = pytest.mark.slow


def locked(text: str) -> dict[str, dict[str, str]]:
    """Return the checksum of every output of every stage in a ``dvc.lock``."""
    stages = yaml.safe_load(text)["stages"]
    return {name: {output["path"]: output["md5"] for output in stages[name]["outs"]} for name in STAGES}


@pytest.fixture(scope="module")
def plain(started: tuple[Repository, str]) -> dict[str, dict[str, str]]:
    """The outputs of `dvc repro` with another seed."""
    repository, _ = started
    before = locked((repository.folder / "dvc.lock").read_text())
    set_params(repository.folder, train__seed=11)
    repository("dvc", "repro")
    made = locked((repository.folder / "dvc.lock").read_text())
    assert made["split"] == before["split"]
    assert made["train"]["models/factors.npz"] != before["train"]["models/factors.npz"]
    return made


@pytest.mark.parametrize("place", ["workspace", "temp", "queue"])
def test_the_same_bytes_wherever_it_runs(place: str, plain: dict[str, dict[str, str]], repository: Repository) -> None:
    # --force: the run cache has the results of `plain`.
    command = ["dvc", "exp", "run", "--force", "--name", place, "--set-param", "train.seed=11"]
    if place == "queue":
        repository(*command, "--queue")
        repository("dvc", "exp", "run", "--run-all")
        while "0 active, 0 idle" not in repository("dvc", "queue", "status"):  # the workers stop after some seconds
            pass
        output = repository("dvc", "queue", "logs", place)
    else:
        output = repository(*command, *(["--temp"] if place == "temp" else []))
    assert repository.ran(output) == list(STAGES)
    reference = repository("git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{place}").strip()
    assert locked(repository("git", "show", f"{reference}:dvc.lock")) == plain
