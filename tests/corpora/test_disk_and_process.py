"""Disks that are full or read-only, outputs damaged between stages, Ctrl-C and two runs at once."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recommender import errors
from recommender.errors import RERUN
from recommender.paths import ARCHIVE, MODEL
from recommender.ranking.factors import Factors
from stages import baselines, evaluate, extract, fetch, recommend, report, split
from tests.conftest import REPOSITORY, Ending, Repository, files, run
from tests.test_storage import Bomb

pytestmark = pytest.mark.usefixtures("no_arguments")
Main = Callable[[], None]


def export() -> None:
    from stages import export  # loads TensorFlow

    export.main()


STAGES: dict[str, tuple[Main, str]] = {
    "fetch": (fetch.main, "data/raw"),
    "extract": (extract.main, "data/interim"),
    "split": (split.main, "data/processed"),
    "evaluate": (evaluate.main, "metrics"),
    "baselines": (baselines.main, "metrics"),
    "recommend": (recommend.main, "data"),
    "export": (export, "models/serving"),
}
each_stage = pytest.mark.parametrize("name", STAGES)


def stale(name: str) -> None:
    """Damage the archive before fetch, which would do nothing about a right one."""
    if name == "fetch":
        ARCHIVE.write_bytes(b"of an earlier run")


# Outputs damaged between stages


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def wrong_byte(path: Path) -> None:
    """Change a byte of the data of the first column or array that is read."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".npz":
        position = data.index(b"\x93NUMPY") + 200
    else:
        names = pq.read_schema(path).names
        chunk = pq.read_metadata(path).row_group(0).column(1 if names[0] in ("user", "item") else 0)
        position = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1
    data[position] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another_file(path: Path) -> None:
    path.write_text("<html>Sign in</html>\n")


INTERIM = ("data/interim/ratings.parquet", "data/interim/items.parquet")
PROCESSED = tuple(f"data/processed/{name}.parquet" for name in ("train", "test", "users", "items"))
FACTORS = "models/factors.npz"
READERS = {
    "split": INTERIM,
    "evaluate": (*PROCESSED, FACTORS),
    "baselines": PROCESSED,
    "recommend": (FACTORS,),
    "export": (FACTORS, "models/fold_in.npz"),
}
DAMAGES = {"missing": missing, "cut short": cut, "a wrong byte": wrong_byte}
DAMAGED = [
    pytest.param(name, path, damage, id=f"{name}, {path}, {title}")
    for name, paths in READERS.items()
    for path in paths
    for title, damage in DAMAGES.items()
] + [
    pytest.param("evaluate", path, damage, id=f"evaluate, {path}, {title}")
    for path in (PROCESSED[0], FACTORS)
    for title, damage in {"empty": empty, "a folder": folder, "another file": another_file}.items()
]


@pytest.mark.parametrize(("name", "path", "damage"), DAMAGED)
@pytest.mark.usefixtures("here")
def test_damaged(ending: Ending, name: str, path: str, damage: Callable[[Path], None]) -> None:
    damage(Path(path))
    message = ending(STAGES[name][0])
    assert re.fullmatch(rf"{re.escape(path)}: (not found|cannot be read \(.+\)); {re.escape(RERUN)}", message), message


def test_train_names_a_damaged_file(here: Path, ending: Ending) -> None:
    from stages import train  # loads TensorFlow

    wrong_byte(here / PROCESSED[0])
    assert "data/processed/train.parquet: cannot be read (" in ending(train.main)


def test_results_of_other_users(here: Path, ending: Ending) -> None:
    path = here / "metrics/baselines_users.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    message = ending(report.main)
    assert message == f"results by user: popularity was measured on other users than mf; {RERUN}"


def test_results_of_nobody(here: Path, ending: Ending) -> None:
    for name in ("users", "baselines_users"):
        path = here / f"metrics/{name}.parquet"
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert ending(report.main) == f"results by user: there are none, because nothing was measured; {RERUN}"


def test_pickled_objects(here: Path, ending: Ending) -> None:
    np.savez(here / FACTORS, user_factors=np.array([Bomb(here / "proof")], dtype=object))
    assert "Object arrays cannot be loaded when allow_pickle=False" in ending(evaluate.main)


# Disks


def mount(target: Path, options: str) -> None:
    """Mount a small file system, which only root may."""
    result = run(target, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(target))
    if result.returncode:
        pytest.skip(f"a file system cannot be mounted here: {result.stderr.strip()}")


@pytest.fixture
def disk(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project where every stage has run, on a disk of 4 MB."""
    target = tmp_path / "disk"
    target.mkdir()
    mount(target, "size=4m")
    try:
        for name in ("data", "environment", "models", "metrics", "params.yaml"):
            (shutil.copytree if (finished / name).is_dir() else shutil.copy)(finished / name, target / name)
        monkeypatch.chdir(target)
        yield target
    finally:
        os.chdir(tmp_path)
        # Lazily: a Parquet writer that failed keeps its file open until garbage collection.
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@each_stage
def test_a_full_disk(disk: Path, ending: Ending, name: str) -> None:
    stale(name)
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    assert "cannot be written: No space left on device" in ending(STAGES[name][0])


@each_stage
def test_a_read_only_disk(disk: Path, ending: Ending, name: str) -> None:
    stale(name)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "cannot be written: Read-only file system" in ending(STAGES[name][0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder; a read-only disk is tested instead")
@each_stage
def test_a_closed_folder(here: Path, ending: Ending, name: str) -> None:
    stale(name)
    target = here / STAGES[name][1]
    target.chmod(0o555)
    try:
        assert "cannot be written: Permission denied" in ending(STAGES[name][0])
    finally:
        target.chmod(0o755)


@contextlib.contextmanager
def limit_on_files(most: int) -> Iterator[None]:
    """Let this process write no file of more bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@each_stage
@pytest.mark.usefixtures("here")
def test_a_limit_on_the_size_of_files(ending: Ending, name: str) -> None:
    stale(name)
    assert re.search("cannot be written: .*File too large", ending(limit_on_files(100)(STAGES[name][0])))


@pytest.mark.parametrize("written", ["nothing", "nearly all"])
@pytest.mark.usefixtures("here")
def test_a_limit_on_the_size_of_the_model(ending: Ending, written: str) -> None:
    from recommender.models.core.saving import as_keras, save_model  # loads TensorFlow

    model, most = as_keras(Factors.load()), MODEL.stat().st_size - 1
    limited = limit_on_files(100 if written == "nothing" else most)
    assert "models/mf.keras: cannot be written: " in ending(limited(lambda: save_model(model)))


@pytest.mark.parametrize("name", ["fetch", "extract", "split", "evaluate", "baselines", "export"])
@pytest.mark.usefixtures("here")
def test_a_file_in_place_of_a_folder(ending: Ending, name: str) -> None:
    target = Path(STAGES[name][1])
    shutil.rmtree(target)
    target.write_text("a file")
    assert re.search(
        rf"{target}/.*: cannot be written: (File exists|Not a directory); a file is in place of its folder",
        ending(STAGES[name][0]),
    )


# Ctrl-C


@each_stage
@pytest.mark.usefixtures("here")
def test_ctrl_c_while_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    stale(name)
    before = files(tmp_path)

    def press(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(os, "fsync", press)
    with pytest.raises(SystemExit) as raised:
        errors.run(STAGES[name][0])
    assert raised.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert files(tmp_path) == before


def test_ctrl_c_while_tensorflow_loads(here: Path) -> None:
    code = (
        "import os, runpy, signal, sys\n"
        "class Press:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tensorflow': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
        "runpy.run_module('stages.train', run_name='__main__')\n"
    )
    before = files(here)
    result = run(here, sys.executable, "-c", code)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")
    assert files(here) == before


def test_another_error_while_loading_keeps_its_traceback() -> None:
    result = run(REPOSITORY, sys.executable, "-c", "import recommender.errors; 1 / 0")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")


def test_too_little_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        errors.run(lambda: np.zeros(2**60, dtype=np.uint8) and None)
    assert raised.value.code == 1
    expected = r"error: not enough memory \(Unable to allocate .*\); free some, or lower batch_size .*\n"
    assert re.fullmatch(expected, capsys.readouterr().err)


# Under DVC


def at_the_end_of_recommend(repository: Repository, place: Path, code: str) -> None:
    """Run code in the recommend stage just before its output gets its name."""
    (place / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'stages.recommend' in sys.orig_argv:\n"
        "    import os, pathlib, signal, time\n"
        f"    place = pathlib.Path({str(place)!r})\n"
        f"    def fsync(_):\n        {code}\n"
        "    os.fsync = fsync\n"
    )
    repository.env["PYTHONPATH"] = str(place)


@pytest.fixture
def hooked(repository: Repository) -> Iterator[Repository]:
    """The repository, where a test may change what a stage does."""
    yield repository
    repository.env.pop("PYTHONPATH", None)


def start_recommend(repository: Repository) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["dvc", "repro", "--force", "--single-item", "recommend"],
        cwd=repository.folder,
        env={**os.environ, **repository.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_ends_a_reproduction_and_the_next_one_completes_it(hooked: Repository, tmp_path: Path) -> None:
    before = files(hooked.folder)
    at_the_end_of_recommend(hooked, tmp_path, "os.killpg(0, signal.SIGINT); time.sleep(5)")
    with start_recommend(hooked) as process:
        _, written = process.communicate(timeout=60)
    assert process.returncode != 0
    lines = written.splitlines()
    assert lines[0] == "interrupted"
    # 130 is the stage's status, -2 that of a shell between DVC and the stage, which is interrupted as well.
    assert re.search(r"failed to run: python -m stages\.recommend, exited with (130|-2)$", lines[1])
    assert "Traceback" not in written
    assert not list((hooked.folder / "data").rglob("*.tmp*"))
    hooked.env.pop("PYTHONPATH")
    hooked("dvc", "repro")
    after = files(hooked.folder)
    assert "data/recommendations.parquet" in after
    assert all(path.startswith((".dvc/", ".git/")) for path in after if before.get(path) != after[path])


def test_of_two_reproductions_at_once_one_is_refused(hooked: Repository, tmp_path: Path) -> None:
    code = "(place / 'here').touch(); [time.sleep(0.05) for _ in range(900) if not (place / 'go').exists()]"
    at_the_end_of_recommend(hooked, tmp_path, code)
    with start_recommend(hooked) as first:
        for _ in range(600):
            if (tmp_path / "here").exists():
                break
            time.sleep(0.05)
        with start_recommend(hooked) as second:
            _, written = second.communicate(timeout=60)
        (tmp_path / "go").touch()
        first.communicate(timeout=60)
    assert second.returncode != 0
    assert re.search("is busy, it is being blocked by|Unable to acquire lock", written), written
    assert "Traceback" not in written
    assert first.returncode == 0
    assert hooked("git", "status", "--porcelain") == ""
    assert "up to date" in hooked("dvc", "status")
