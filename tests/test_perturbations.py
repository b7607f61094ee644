"""The bytes that the stages write do not depend on the machine, the environment or the place they run in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import files, run, set_params

pytestmark = pytest.mark.slow

STAGES = ("split", "train", "evaluate", "baselines", "recommend", "report")
KINDS: dict[str, dict[str, object]] = {
    "ratings": {},
    "ranking": {"train__loss": "softmax", "train__embedding_size": 64, "train__schedule": "cosine"},
    "encoded": {"train__movie_vectors": "encoded", "train__global_mean": True, "train__embedding_size": 64},
}
WIDE = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"


def threads(count: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return dict.fromkeys(names, str(count))


PERTURBATIONS: dict[str, dict[str, str]] = {
    "1 thread": threads(1),
    "2 threads": threads(2),
    "8 threads": threads(8),
    "AVX2 in XLA": {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"},
    "AVX-512 in XLA": {"XLA_FLAGS": "--xla_cpu_max_isa=AVX512"},
    "another OpenBLAS kernel": {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "524288"},
    "NumPy without AVX-512": {"NPY_DISABLE_CPU_FEATURES": WIDE},
    "oneDNN asked for": {"TF_ENABLE_ONEDNN_OPTS": "1"},
    "hash seed, time zone, language": {
        "PYTHONHASHSEED": "123",
        "TZ": "Asia/Kolkata",
        "LANG": "de_DE.UTF-8",
        "LC_ALL": "C",
    },
}
# One by one for the default; together for the other kinds of training, whose later stages are the same.
CASES = [("ratings", [name]) for name in PERTURBATIONS]
for kind in ("ranking", "encoded"):
    CASES.append((kind, ["1 thread", "AVX2 in XLA", "another OpenBLAS kernel", "hash seed, time zone, language"]))
    CASES.append((kind, ["8 threads", "AVX-512 in XLA", "NumPy without AVX-512", "oneDNN asked for"]))


def reproduce(folder: Path, env: dict[str, str], *prefix: str) -> dict[str, str]:
    """Remove what the stages write, run them, and give the checksums of everything."""
    for name in ("data/processed", "models", "metrics", "reports"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in STAGES:
        result = run(folder, *prefix, sys.executable, "-m", f"stages.{name}", env=env)
        assert result.returncode == 0, result.stderr
    return {
        path: digest
        for path, digest in files(folder).items()
        if path.startswith(("data", "models", "metrics", "reports"))
    }


@pytest.fixture(scope="module")
def projects(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, str]]]:
    """For each kind of training a copy of the code set to it, and what comes out undisturbed."""
    made = {}
    for kind, values in KINDS.items():
        folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("perturbed") / "project"))
        set_params(folder, **values)
        made[kind] = folder, reproduce(folder, {})
    return made


Projects = dict[str, tuple[Path, dict[str, str]]]


@pytest.mark.parametrize(("kind", "names"), CASES, ids=[f"{kind}: {', '.join(names)}" for kind, names in CASES])
def test_the_environment_changes_nothing(kind: str, names: list[str], projects: Projects) -> None:
    folder, expected = projects[kind]
    env: dict[str, str] = {}
    for name in names:
        env |= PERTURBATIONS[name]
    assert reproduce(folder, env) == expected


@pytest.mark.skipif(shutil.which("taskset") is None, reason="pins a process to a core with taskset")
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_core_changes_nothing(kind: str, projects: Projects) -> None:
    folder, expected = projects[kind]
    core = min(os.sched_getaffinity(0))
    assert reproduce(folder, {}, "taskset", "--cpu-list", str(core)) == expected


@pytest.fixture
def busy() -> Iterator[None]:
    """Keep every core busy with something else."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("kind", KINDS)
def test_load_another_place_and_other_permissions_change_nothing(kind: str, projects: Projects, tmp_path: Path) -> None:
    folder, expected = projects[kind]
    moved = Path(shutil.copytree(folder, tmp_path / "ein Ort mit Größe und spaces"))
    before = os.umask(0o077)
    try:
        assert reproduce(moved, {}) == expected
    finally:
        os.umask(before)


def test_another_run_before_changes_nothing(projects: Projects) -> None:
    folder, expected = projects["ratings"]
    text = (folder / "params.yaml").read_text()
    set_params(folder, train__seed=99, split__seed=3, train__epochs=1)
    other = reproduce(folder, {})
    assert other["models/factors.npz"] != expected["models/factors.npz"]
    (folder / "params.yaml").write_text(text)
    assert reproduce(folder, {}) == expected
