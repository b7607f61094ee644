"""The engine: order, records, what workers prove, and where CLUSTER lets tasks run."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from recommender.errors import UserError
from recommender.parallel import engine as engines
from recommender.parallel import executors
from recommender.parallel.engine import Arrays, Engine, Job, engine, publishing, put
from recommender.parallel.executors import Pool, ThisProcess
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.usefixtures("workspace")


def append(path: str, text: str) -> Arrays:
    """Add a line to a file, so that runs can be counted."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return {"length": np.array(len(text))}


def fail(path: str) -> Arrays:
    """Fail as a task does that finds something wrong in the data."""
    raise UserError(f"{path}: is wrong")


def start(params: str = "", inputs: list[Path] | None = None) -> Any:  # noqa: ANN401 - a context manager
    return engine("train", "training", params, inputs or [])


def folders() -> list[str]:
    return sorted(path.name for path in Path("scratch").glob("*"))


def test_results_come_in_the_order_of_the_arguments() -> None:
    with start() as run:
        assert [int(found["length"]) for found in run.map("a", append, [("x", "one"), ("x", "three")])] == [3, 5]
    assert Path("x").read_text() == "one\nthree\n"


def test_tasks_wait_for_those_before_them() -> None:
    tasks = {name: (append, ("x", name)) for name in ("last", "middle", "first")}
    done: list[str] = []
    with start() as run:
        results = run.run(tasks, {"last": {"middle"}, "middle": {"first"}}, done.append)
    assert Path("x").read_text().split() == done == ["first", "middle", "last"]
    assert list(results) == ["last", "middle", "first"]


def test_a_run_that_failed_goes_on_where_it_was() -> None:
    with pytest.raises(UserError, match="is wrong"), start() as run:
        run.run({"good": (append, ("x", "good")), "bad": (fail, ("x",))}, {"bad": {"good"}})
    assert len(folders()) == 1
    with start() as run:
        run.run({"good": (append, ("x", "good")), "bad": (append, ("x", "better"))})
    assert Path("x").read_text() == "good\nbetter\n"
    assert folders() == []


def test_what_decides_the_results_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("input").write_text("a")

    def folder(params: str = "") -> str:
        with start(params, [Path("input")]) as run:
            return str(run.folder)

    first = folder()
    assert folder() == first
    assert folder("other") != first
    Path("input").write_text("b")
    assert folder() != first
    Path("input").write_text("a")
    with monkeypatch.context() as changed:
        changed.setattr(engines, "CODE", "another")
        assert folder() != first
    Path("environment/training.txt").write_text("")
    assert folder() != first


def test_scratch_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "elsewhere"))
    with start() as run:
        assert Path(run.folder).parent == tmp_path / "elsewhere"


def test_a_folder_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("SCRATCH", "file")
    with (
        pytest.raises(UserError, match=r"file/train-.*: cannot be written: Not a directory; a file is in place"),
        start(),
    ):
        pass


def job(**changes: str) -> Job:
    Path("scratch").mkdir(exist_ok=True)
    Path("scratch/token").write_text("secret")
    here = str(Path.cwd())
    return Job(
        **{
            "root": here,
            "scratch": f"{here}/scratch",
            "token": "secret",
            "code": engines.CODE,
            "environment": "tables",
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": "/nowhere"}, "cannot see /nowhere: No such file or directory; share that folder"),
        ({"scratch": "/nowhere"}, "cannot see /nowhere/token: No such file or directory; share that folder"),
        ({"token": "another"}, "is another folder there; share the same one"),
        ({"code": "another"}, "runs other code in .*; start it again from this project"),
    ],
)
def test_a_worker_that_sees_something_else_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"^worker .*:{os.getpid()}: .*{message}"):
        job(**changes).prove()


def test_a_worker_with_other_packages_is_refused() -> None:
    Path("environment/tables.txt").write_text("numpy==1.0\n")
    with pytest.raises(UserError, match=r"lists numpy 1\.0, but numpy .* is installed"):
        job().prove()


def where(_: int) -> Arrays:
    """Return the folder that a task works in, as bytes."""
    return {"folder": np.frombuffer(str(Path.cwd()).encode(), np.uint8)}


def test_a_worker_does_each_task_in_its_own_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    projects = [tmp_path / name for name in "ab"]
    for project in projects:
        shutil.copytree("environment", project / "environment")
    jobs = [job(root=str(project)) for project in projects]
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        found = engines.run_task(jobs[number % 2], f"task-{number}", where, (0,))
        assert found["folder"].tobytes().decode() == str(projects[number % 2])


def test_two_projects_with_the_same_inputs_have_folders_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path / "shared"))
    with start() as first:
        shutil.copytree("environment", tmp_path / "other/environment")
        monkeypatch.chdir(tmp_path / "other")
        with start() as second:
            assert first.folder != second.folder


def test_a_worker_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from recommender.parallel.executors import start\n"
        "if __name__ == '__main__':\n"
        "    with start('processes:1', lambda: None) as pool:\n"
        "        print(pool.executor.submit(os.getpid).result(), flush=True)\n"
        "        sys.stdin.read()\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    worker = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_nothing_partial_is_ever_visible() -> None:
    with pytest.raises(ZeroDivisionError), publishing(Path("x")) as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert not list(Path().glob(".*.tmp"))
    assert not Path("x").exists()
    put(Path("x.npz"), {"a": np.arange(3)})
    with np.load("x.npz") as loaded:
        assert loaded["a"].tolist() == [0, 1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_in_one_line() -> None:
    full = "^x: cannot be written: No space left on device; free space on that disk, then retry$"
    with pytest.raises(UserError, match=full), publishing(Path("x")) as path:
        path.symlink_to("/dev/full")
        path.write_bytes(b"0" * 2**20)


@pytest.mark.parametrize("where", ["2", "local", "local:0", "local:x", "threads:2", "tcp:here", "http://127.0.0.1:1"])
def test_other_places_are_refused(where: str) -> None:
    refused = pytest.raises(UserError, match=f"^CLUSTER: must be empty .* of a Dask scheduler; found '{where}'$")
    with refused, executors.start(where, lambda: None):
        pass


def test_a_worker_has_one_thread_whatever_computes() -> None:
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"]
    before = [os.getenv(name) for name in names]
    with executors.start("processes:1", lambda: None) as pool:
        assert [pool.executor.submit(os.getenv, name).result() for name in names] == ["1"] * 4
    assert [os.getenv(name) for name in names] == before


def test_an_error_that_is_a_bug_keeps_its_traceback() -> None:
    future: Future[Any] = ThisProcess().submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        future.result()


class Silent(ThisProcess):
    """An executor that is never heard of again."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - as Executor's
        """Return a future that is never done."""
        del fn, args, kwargs
        return Future()


def test_a_scheduler_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PATIENCE", 0.01)
    answers = iter([False, False, True])
    with pytest.raises(
        UserError, match=r"^CLUSTER: workers or their scheduler were lost .*: run `dvc repro` again to go on$"
    ):
        Engine(Pool(Silent(), lambda: next(answers)), job()).map("a", append, [("x", "one")])
    assert next(answers, None) is None
