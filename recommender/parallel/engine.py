"""Tasks with a memory: each is a function from files to files that leaves a record and is not run twice."""

import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recommender.environment import check_environment
from recommender.errors import UserError, cannot_write
from recommender.parallel.executors import Pool, lost, start
from recommender.paths import ENVIRONMENT
from recommender.storage import checksum, read_arrays, sync

Arrays = dict[str, NDArray[Any]]
Task = tuple[Callable[..., Arrays], tuple[Any, ...]]
SCRATCH: Final = "scratch"
PATIENCE: Final = 5  # seconds without a result, after which it is asked whether any will come
LOST: Final = "what is done is kept: run `dvc repro` again to go on"


def _code() -> str:
    """Return a digest of the library's files."""
    folder, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


CODE: Final = _code()  # when this process started


@dataclass(frozen=True)
class Job:
    """What every task of a run must agree on, wherever it runs."""

    root: str  # the project's folder, the current one of each task
    scratch: str  # the folder of what is kept between tasks
    token: str  # in a file there
    code: str
    environment: str  # the group of packages

    @lru_cache  # noqa: B019 - once a process
    def prove(self) -> None:
        """Raise a `UserError` where the folders are not to be seen or are others, or code or packages differ."""
        here = f"worker {socket.gethostname()}:{os.getpid()}"
        try:
            found = (Path(self.scratch) / "token").read_text(encoding="utf-8")
            Path(self.root).stat()
        except OSError as error:
            raise UserError(
                f"{here}: cannot see {error.filename}: {error.strerror}; share that folder with it"
            ) from None
        if found != self.token:
            raise UserError(f"{here}: {self.scratch} is another folder there; share the same one with it")
        if self.code != CODE:
            raise UserError(f"{here}: runs other code in {Path(__file__).parents[2]}; start it again from this project")
        check_environment(self.environment, Path(self.root))


class Engine:
    """Runs tasks and keeps their records and files in a folder."""

    def __init__(self, pool: Pool, job: Job) -> None:
        self.pool, self.job = pool, job

    @property
    def folder(self) -> str:
        """The folder for files that tasks pass on to others."""
        return self.job.scratch

    def map(self, name: str, function: Callable[..., Arrays], arguments: Sequence[tuple[Any, ...]]) -> list[Arrays]:
        """Run a function with each of the arguments; return what it returns in their order."""
        results = self.run({f"{name}-{number}": (function, each) for number, each in enumerate(arguments)})
        return list(results.values())

    def run(
        self,
        tasks: Mapping[str, Task],
        before: Mapping[str, set[str]] | None = None,
        done: Callable[[str], None] | None = None,
    ) -> dict[str, Arrays]:
        """Run tasks by their names, each once those `before` it are done; `done` is called with each name."""
        order = TopologicalSorter({name: (before or {}).get(name, set()) for name in tasks})
        order.prepare()
        running: dict[Future[Arrays], str] = {}
        results: dict[str, Arrays] = {}
        try:
            with _progress(len(tasks)) as step:
                while order.is_active():
                    for name in order.get_ready():
                        function, arguments = tasks[name]
                        running[self.pool.executor.submit(run_task, self.job, name, function, arguments)] = name
                    finished = wait(running, PATIENCE, FIRST_COMPLETED).done
                    if not finished and self.pool.is_lost():
                        raise CancelledError
                    for future in finished:
                        name = running.pop(future)
                        results[name] = future.result()
                        if done:
                            done(name)
                        order.done(name)
                        step()
        except lost() as error:
            raise UserError(f"CLUSTER: workers or their scheduler were lost ({type(error).__name__}); {LOST}") from None
        finally:
            for future in running:
                future.cancel()
        return {name: results[name] for name in tasks}


@contextmanager
def engine(stage: str, environment: str, params: str, inputs: Sequence[Path]) -> Iterator[Engine]:
    """Start what CLUSTER names, with a folder in SCRATCH that is removed when all, or nothing, is done.

    The folder is named by the project's and by all that decides what tasks compute: `params`, the content of the
    `inputs`, the code and the group of packages. A run that was stopped therefore goes on where it was.
    """
    listed = [checksum(path) for path in (*inputs, ENVIRONMENT / f"{environment}.txt") if path.exists()]
    decides = json.dumps([str(Path.cwd()), stage, params, [str(path) for path in inputs], listed, CODE, sys.version])
    name = f"{stage}-{hashlib.sha256(decides.encode()).hexdigest()[:16]}"
    folder = (Path(os.environ.get("SCRATCH") or SCRATCH) / name).absolute()
    job = Job(str(Path.cwd()), str(folder), secrets.token_hex(), CODE, environment)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(job.token, encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error) from error
    succeeded = False
    try:
        with start(os.environ.get("CLUSTER", ""), job.prove) as pool:
            yield Engine(pool, job)
        succeeded = True
    finally:
        if succeeded or not any(folder.glob("*.npz")):
            shutil.rmtree(folder, ignore_errors=True)  # a task that was lost and done again may still write there


def run_task(job: Job, name: str, function: Callable[..., Arrays], arguments: tuple[Any, ...]) -> Arrays:
    """Run one task, unless it has left its record: return what it returned."""
    job.prove()
    os.chdir(job.root)  # each time: a worker may do tasks of several projects in turn
    record = Path(job.scratch) / f"{name}.npz"
    if record.exists():
        return read_arrays(record)
    result = {key: np.asarray(value) for key, value in function(*arguments).items()}
    put(record, result)
    return result


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Yield a path to write to that becomes `path`, which other tasks read, when the block succeeds.

    Unlike with `recommender.storage.atomic`, two workers may write the same file at the same time.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        try:
            yield temporary
            sync(temporary)  # no record may outlive what it stands for
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def put(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays that other tasks read."""
    with publishing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


@contextmanager
def _progress(count: int) -> Iterator[Callable[[], Any]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm  # slow to import

    with tqdm(total=count, desc="tasks", unit="task", leave=False) as bar:
        yield bar.update
