"""The pipeline in parts: the same files wherever the work is done, and whatever is killed while it is."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from recommender.data.synthetic import make_ratings, write_archive
from tests.conftest import REPOSITORY, copy_project, files, refused, run, set_params, stage

KILLS = 10
EPOCHS = 6  # of 16 blocks, and 4 tasks that measure
TASKS = EPOCHS * 20
SIZE = int(os.environ.get("RATINGS", "100000"))  # ratings while something is killed: `make scale-kills` sets more
STAGES = ("split", "train", "evaluate", "baselines", "recommend")


def in_parts(folder: Path, parts: int, **params: object) -> Path:
    """Set a project to a number of parts."""
    lazy = {"split__method": "hash", "train__mf__optimizer": "lazy_adam", "train__mf__epochs": 2}
    set_params(folder, engine__parts=parts, train__mf__batch_size=16 * parts, **{**lazy, **params})
    return folder


def outputs(folder: Path) -> dict[str, str]:
    """Return the checksums of what the stages write."""
    return {name: digest for name, digest in files(folder).items() if name.startswith(("data/", "models/", "metrics/"))}


def ran(folder: Path, where: str, *names: str) -> dict[str, str]:
    """Run stages; return the checksums of all outputs. Nothing else may be left."""
    for name in names or STAGES:
        result = stage(folder, name, env={"CLUSTER": where})
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
    assert not list((folder / "scratch").glob("*"))
    return outputs(folder)


class Cluster:
    """A scheduler and workers of the user's own, as docs/scale.md starts them."""

    def __init__(self, folder: Path, workers: int) -> None:
        """Start all of them in a folder with the code."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.folder, self.count = folder, workers
        self.workers: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        """Start whatever does not run."""
        host = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--no-dashboard")
        self.scheduler = self._command("dask_scheduler", *host, "--port", str(self.port))
        for _ in range(self.count):
            self.add_worker()
        self.wait()

    def add_worker(self) -> None:
        """Start one worker and the nanny that starts it again where it dies."""
        host = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--no-dashboard")
        alone = ("--nthreads", "1", "--memory-limit", "0", "--death-timeout", "60")
        self.workers.append(self._command("dask_worker", self.address, *host, *alone))

    def _command(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{name}", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.folder, start_new_session=True, **quiet)

    def wait(self) -> None:
        """Wait until all workers have come."""
        from distributed import Client

        with Client(self.address, timeout="60s", set_as_default=False) as client:
            if self.count:
                client.wait_for_workers(self.count, timeout=120)

    def stop(self) -> None:
        """Kill everything."""
        for process in (self.scheduler, *self.workers):
            kill(process)
        self.workers.clear()


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process and those it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_records(folder: Path, count: int, process: subprocess.Popen[Any]) -> bool:
    """Wait until so many tasks have left their records; return whether the process still runs."""
    while process.poll() is None:
        if len(list((folder / "scratch").glob("train-*/first-[tm]*.npz"))) >= count:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> Path:
    """A project with extracted ratings."""
    folder = copy_project(tmp_path_factory.mktemp("small") / "project", archives["ml-1m"])
    for name in ("fetch", "extract"):
        assert stage(folder, name).returncode == 0
    return folder


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the size of ml-100k, split in four parts."""
    archive = tmp_path_factory.mktemp("archive") / "archive.zip"
    users, items = (round(count * (SIZE / 100_000) ** 0.7) for count in (943, 1682))
    write_archive(archive, "ml-1m", [make_ratings(users, items, SIZE)], items)
    folder = in_parts(copy_project(tmp_path_factory.mktemp("medium") / "project", archive), 4, train__mf__epochs=EPOCHS)
    for name in ("fetch", "extract", "split"):
        assert stage(folder, name).returncode == 0
    return folder


def test_this_process_and_others_write_the_same_files(small: Path) -> None:
    in_parts(small, 2)
    here = ran(small, "", "split", "train")
    assert {"data/processed/train.parquet", "models/factors.npz", "metrics/history.csv"} < here.keys()
    assert ran(small, "processes:2", "split", "train") == here


def test_nobody_imports_dask_who_does_not_ask_for_it(small: Path) -> None:
    in_parts(small, 2)
    code = "import sys; from stages.{name} import main; main(); assert not {{'dask', 'distributed'}} & set(sys.modules)"
    for name in STAGES:
        result = run(small, sys.executable, "-c", code.format(name=name), env={"CLUSTER": ""})
        assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_everybody_writes_the_same_files(small: Path, parts: int) -> None:
    in_parts(small, parts)
    here = ran(small, "")
    for where in (f"processes:{parts + 1}", "local:1", "local:2", f"local:{parts + 1}"):
        assert ran(small, where) == here, where


@pytest.mark.slow
def test_no_port_is_open_to_others(medium: Path) -> None:
    def listening() -> set[str]:
        found = psutil.net_connections("tcp")
        return {f"{each.laddr.ip}:{each.laddr.port}" for each in found if each.status == psutil.CONN_LISTEN}

    before, opened = listening(), set()
    env = {**os.environ, "CLUSTER": "local:2"}
    process = subprocess.Popen([sys.executable, "-m", "stages.train"], cwd=medium, env=env)
    while process.poll() is None:
        opened |= listening() - before
        time.sleep(0.2)
    assert process.returncode == 0
    assert opened
    assert [address for address in opened if not address.startswith("127.0.0.1:")] == []


@pytest.fixture(scope="module")
def expected(medium: Path) -> dict[str, str]:
    """What the medium project comes to in one process."""
    return ran(medium, "", "train")


@pytest.fixture
def cluster(medium: Path) -> Iterator[Cluster]:
    """A cluster of two workers for the medium project."""
    running = Cluster(medium, 2)
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "nanny", "driver", "scheduler"])
def test_whoever_is_killed_the_end_is_the_same(
    medium: Path, expected: dict[str, str], cluster: Cluster, victim: str
) -> None:
    command, env = [sys.executable, "-m", "stages.train"], {**os.environ, "CLUSTER": cluster.address}
    assert ran(medium, cluster.address, "train") == expected
    moments, struck = np.random.default_rng(7), 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command, cwd=medium, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        struck += wait_for_records(medium, int(moments.integers(TASKS - 10)), process)
        time.sleep(moments.uniform(0, 0.1))
        chosen = cluster.workers[moments.integers(2)]
        if victim == "worker":
            for child in psutil.Process(chosen.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        elif victim == "nanny":
            kill(chosen)
            cluster.workers.remove(chosen)
            cluster.add_worker()
        elif victim == "driver":
            kill(process)
        else:
            kill(cluster.scheduler)
        message = process.communicate(timeout=300)[1]
        if victim == "scheduler":
            cluster.stop()
            cluster.start()
        if victim in ("driver", "scheduler"):
            if process.returncode == 1:
                assert message.startswith("error: CLUSTER: "), message
                assert message.count("\n") == 1, message
            assert ran(medium, cluster.address, "train") == expected
        else:
            assert (process.returncode, message) == (0, "")
            assert outputs(medium) == expected
            cluster.wait()
    assert struck > KILLS / 2


@pytest.mark.slow
def test_what_is_left_is_finished_by_anybody(medium: Path, expected: dict[str, str]) -> None:
    process = subprocess.Popen([sys.executable, "-m", "stages.train"], cwd=medium, start_new_session=True)
    assert wait_for_records(medium, 5, process)
    kill(process)
    assert ran(medium, "processes:2", "train") == expected


@pytest.mark.slow
def test_a_worker_of_another_project_is_refused(medium: Path, small: Path) -> None:
    (small / "recommender/errors.py").write_text((small / "recommender/errors.py").read_text() + "# changed\n")
    running = Cluster(small, 1)
    try:
        refused(
            stage(medium, "train", env={"CLUSTER": running.address}), "worker", "runs other code in", "start it again"
        )
    finally:
        running.stop()
        shutil.copy(REPOSITORY / "recommender/errors.py", small / "recommender")


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_or_alone_is_named(medium: Path) -> None:
    refused(stage(medium, "train", env={"CLUSTER": "tcp://127.0.0.1:1"}), "CLUSTER: no Dask scheduler answers at")
    refused(stage(medium, "train", env={"CLUSTER": "tls://127.0.0.1:1"}), "CLUSTER: no Dask scheduler", "TLS config")
    running = Cluster(medium, 0)
    try:
        refused(
            stage(medium, "train", env={"CLUSTER": running.address}), "has no workers; start some, see docs/scale.md"
        )
    finally:
        running.stop()
