"""Where tasks run, as the environment variable CLUSTER says: nothing that they compute depends on it."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any, Final

from recommender.errors import UserError

ALLOWED: Final = (
    "must be empty (this process), processes:N or local:N (N workers on this machine), or the tcp:// or tls:// address "
    "of a Dask scheduler"
)
# One task a worker at a time, and one thread a task: of what computes, and of `recommender.ranking.topk.threads`.
ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
# Dask gives up on a task after so many of its workers have died; what a task has written is never lost.
ALLOWED_FAILURES: Final = 20
# Dask serves its state by HTTP in any case, and its dashboard where Bokeh is installed: to this machine alone.
NO_DASHBOARD: Final = "127.0.0.1:0"
PATIENCE: Final = "10s"  # to find a scheduler


class ThisProcess(Executor):
    """Runs each task as it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - as Executor's
        """Run the function and return a future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Pool:
    """What runs tasks."""

    executor: Executor
    is_lost: Callable[[], bool] = lambda: False  # whether what runs will never be known


@contextmanager
def start(where: str, prove: Callable[[], None]) -> Iterator[Pool]:
    """Start what runs tasks; `where` is the value of CLUSTER. On a cluster every worker runs `prove` first."""
    kind, _, rest = where.partition(":")
    if not where:
        yield Pool(ThisProcess())
    elif kind in ("processes", "local") and rest.isdecimal() and int(rest):
        with _one_thread(), (_processes if kind == "processes" else _local)(int(rest)) as pool:
            yield pool
    elif kind in ("tcp", "tls") and rest.startswith("//"):
        with _cluster(where, prove) as pool:
            yield pool
    else:
        raise UserError(f"CLUSTER: {ALLOWED}; found {where!r}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start here have one thread each."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _processes(count: int) -> Iterator[Pool]:
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        yield Pool(pool)


def _end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, if only by being killed."""

    def wait_for_parent() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


@contextmanager
def _local(count: int) -> Iterator[Pool]:
    """Start a scheduler in this process and workers beside it, which are started anew where they die."""
    dask, distributed = _import_dask()
    settings = {
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
        "distributed.nanny.pre-spawn-environ": ONE_THREAD,
        "distributed.worker.profile.enabled": False,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=NO_DASHBOARD,
            worker_dashboard_address=NO_DASHBOARD,
            memory_limit=0,  # a limit would kill workers while TensorFlow loads
            silence_logs="CRITICAL",
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor(pure=False) as pool,
    ):
        yield Pool(pool)


@contextmanager
def _cluster(address: str, prove: Callable[[], None]) -> Iterator[Pool]:
    """Connect to a scheduler that somebody has started; Dask's own settings say with which certificates."""
    _, distributed = _import_dask()
    try:
        client = distributed.Client(address, timeout=PATIENCE)
    except (OSError, TimeoutError, TypeError, ValueError, RuntimeError) as error:  # TypeError: tls without certificates
        raise UserError(
            f"CLUSTER: no Dask scheduler answers at {address} ({error}); start one, see docs/scale.md"
        ) from None
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise UserError(f"CLUSTER: the scheduler at {address} has no workers; start some, see docs/scale.md")
        client.run(prove)
        with client.get_executor(pure=False) as pool:
            # Where its scheduler is gone, Dask leaves a future that it was just reading as it was.
            yield Pool(pool, lambda: client.status == "closed")


def lost() -> tuple[type[BaseException], ...]:
    """Return the errors that say that workers, or what they are led by, are gone."""
    if "distributed" not in sys.modules:
        return BrokenExecutor, CancelledError
    import distributed

    return BrokenExecutor, CancelledError, distributed.KilledWorker, distributed.CancelledError


def _import_dask() -> tuple[Any, Any]:
    try:
        import dask
        import distributed
    except ImportError:
        raise UserError(
            "CLUSTER: needs Dask, which is not installed; run `make repro CLUSTER=...`, which installs it"
        ) from None
    for name in ("distributed", "distributed.client", "tornado.application"):  # what goes wrong is said in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return dask, distributed
