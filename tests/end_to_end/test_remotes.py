"""What was pushed to a remote comes out again: all in a fresh clone, and tagged versions of artifacts anywhere."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from recommender.paths import FACTORS, MODEL, RECOMMENDATIONS, SERVING
from tests.conftest import Repository, files, set_params, sha256

pytestmark = pytest.mark.slow
OUTPUTS = ("data", "models", "reports")
REGION = "us-east-1"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server with a bucket named store."""
    import boto3  # installed only by `make test-slow`; the file is collected without it too

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path_factory.mktemp("s3") / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, Path(log.name).read_text()
                time.sleep(0.1)
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name=REGION,
            aws_access_key_id="key",
            aws_secret_access_key="secret",  # noqa: S106 - of a test
        )
        client.create_bucket(Bucket="store")
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["folder", "s3"])
def pushed(request: pytest.FixtureRequest, repository: Repository, tmp_path: Path) -> Repository:
    """The repository after a push to a folder or to S3."""
    if request.param == "s3":
        address = request.getfixturevalue("s3")
        place = f"s3://store/{tmp_path.name}"
        repository("dvc", "remote", "add", "--force", "--default", "store", place)
        repository("dvc", "remote", "modify", "store", "endpointurl", address)
        repository("dvc", "remote", "modify", "store", "region", REGION)
        for name, value in (("access_key_id", "key"), ("secret_access_key", "secret")):
            repository("dvc", "remote", "modify", "store", name, value)
    else:
        repository("dvc", "remote", "add", "--force", "--default", "store", str(tmp_path / "store"))
    repository("dvc", "push")
    return repository


def clone(pushed: Repository, folder: Path) -> Repository:
    pushed("git", "clone", "--quiet", ".", str(folder))
    shutil.copy(pushed.folder / ".dvc/config", folder / ".dvc/config")
    fresh = Repository(folder, folder.with_name("caches"))
    for name, value in (("user.name", "Tester"), ("user.email", "tester@example.org")):
        fresh("git", "config", name, value)
    return fresh


def test_a_fresh_clone_that_pulls_has_nothing_to_do(pushed: Repository, tmp_path: Path) -> None:
    fresh = clone(pushed, tmp_path / "clone")
    assert not (fresh.folder / "models/factors.npz").exists()
    fresh("dvc", "pull")
    assert "Data and pipelines are up to date." in fresh("dvc", "repro")
    for name in OUTPUTS:
        assert files(fresh.folder / name) == files(pushed.folder / name)


def test_only_what_is_needed_is_fetched(pushed: Repository, tmp_path: Path) -> None:
    fresh = clone(pushed, tmp_path / "clone")
    output = fresh("dvc", "repro", "--pull", "--allow-missing")
    assert fresh.ran(output) == []
    assert not (fresh.folder / "data/raw/archive.zip").exists()
    output = fresh("dvc", "exp", "run", "--pull", "--allow-missing", "-S", "recommend.k=3")
    assert fresh.ran(output) == ["recommend", "report"]
    assert (fresh.folder / "models/factors.npz").exists()
    assert not (fresh.folder / "data/raw/archive.zip").exists()
    assert not (fresh.folder / "data/interim/items.parquet").exists()


def test_a_tag_names_a_version_of_an_artifact_for_dvc_and_gto(pushed: Repository, tmp_path: Path) -> None:
    declared = yaml.safe_load((pushed.folder / "dvc.yaml").read_text())["artifacts"]
    paths = {name: Path(artifact["path"]) for name, artifact in declared.items()}
    assert paths == {"model": MODEL, "factors": FACTORS, "serving": SERVING, "recommendations": RECOMMENDATIONS}
    fresh = clone(pushed, tmp_path / "clone")
    fresh("git", "add", ".dvc/config")
    fresh("git", "commit", "--quiet", "--message", "Name the remote")

    def content(path: Path) -> str | dict[str, str]:
        return files(path) if path.is_dir() else sha256(path)

    before = {name: content(pushed.folder / path) for name, path in paths.items()}
    for name in paths:
        fresh("gto", "register", name, "--version", "v1.0.0")
    assert set(fresh("git", "tag").split()) == {f"{name}@v1.0.0" for name in paths}
    fresh("dvc", "pull")
    set_params(fresh.folder, recommend__k=3)
    fresh("dvc", "repro")
    fresh.commit()
    fresh("dvc", "push")
    fresh("gto", "register", "recommendations", "--version", "v1.1.0")
    fresh("gto", "assign", "model", "--version", "v1.0.0", "--stage", "prod")
    assert "v1.1.0" in fresh("gto", "show", "recommendations")
    shutil.rmtree(fresh.folder / ".dvc/cache")  # so that the remote has to have it

    def get(name: str, *version: str) -> str | dict[str, str]:
        fresh("dvc", "artifacts", "get", str(fresh.folder), name, *version, "--force", "--out", str(tmp_path / name))
        return content(tmp_path / name)

    assert {name: get(name, "--rev", "v1.0.0") for name in paths} == before
    assert get("model", "--stage", "prod") == before["model"]
    assert get("recommendations") == sha256(fresh.folder / RECOMMENDATIONS) != before["recommendations"]
