"""The bytes that the stages write do not depend on the machine, the environment or the place they run in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recommender.params import MODELS
from recommender.paths import STAGES
from tests.conftest import IN_EPOCHS, files, run, set_params

pytestmark = pytest.mark.slow

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
# One by one for the default; together for the other models, whose later stages are the same.
CASES = [("mf", [name]) for name in PERTURBATIONS]
for model in MODELS[1:]:
    CASES.append((model, ["1 thread", "AVX2 in XLA", "another OpenBLAS kernel", "hash seed, time zone, language"]))
    CASES.append((model, ["8 threads", "AVX-512 in XLA", "NumPy without AVX-512", "oneDNN asked for"]))
# Users who are folded in, where the model is solved for by LAPACK or by L-BFGS.
FOLDED = {f"{model}, users held out": model for model in ("mf", "softmax_mf")}
CASES += [(name, ["8 threads", "another OpenBLAS kernel", "NumPy without AVX-512"]) for name in FOLDED]
PARTS = "mf in parts"
CASES.append((PARTS, ["1 thread", "AVX2 in XLA", "another OpenBLAS kernel", "hash seed, time zone, language"]))
CASES.append((PARTS, ["8 threads", "AVX-512 in XLA", "NumPy without AVX-512", "oneDNN asked for"]))


def reproduce(folder: Path, env: dict[str, str], *prefix: str) -> dict[str, str]:
    """Remove what the stages from split on write, run them, and return the checksums of all outputs."""
    for name in ("data/processed", "models", "metrics", "reports"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in STAGES[STAGES.index("split") :]:
        result = run(folder, *prefix, sys.executable, "-m", f"stages.{name}", env=env)
        assert result.returncode == 0, result.stderr
    outputs = ("data/", "models/", "metrics/", "reports/")
    return {path: digest for path, digest in files(folder).items() if path.startswith(outputs)}


Projects = dict[str, tuple[Path, dict[str, str]]]


@pytest.fixture(scope="module")
def projects(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Projects:
    """For each model, and with users held out, a project set to it, and its outputs without perturbation."""
    made = {}
    for name in (*MODELS, *FOLDED, PARTS):
        folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("perturbed") / "project"))
        model = "mf" if name == PARTS else FOLDED.get(name, name)
        if model != "mf":
            values = {f"train__{model}__embedding_size": 64}
            values |= {f"train__{model}__epochs": 5} if model in IN_EPOCHS else {}
            set_params(folder, train__model=model, **values)
        if name in FOLDED:
            set_params(folder, split__method="user_fold")
        if name == PARTS:
            set_params(folder, engine__parts=4, split__method="hash", train__mf__optimizer="lazy_adam")
        made[name] = folder, reproduce(folder, {})
    return made


@pytest.mark.parametrize(("model", "names"), CASES, ids=[f"{model}: {', '.join(names)}" for model, names in CASES])
def test_the_environment_changes_nothing(model: str, names: list[str], projects: Projects) -> None:
    folder, expected = projects[model]
    env: dict[str, str] = {}
    for name in names:
        env |= PERTURBATIONS[name]
    assert reproduce(folder, env) == expected


@pytest.mark.skipif(shutil.which("taskset") is None, reason="pins a process to a core with taskset")
@pytest.mark.parametrize("model", MODELS)
def test_a_single_core_changes_nothing(model: str, projects: Projects) -> None:
    folder, expected = projects[model]
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
@pytest.mark.parametrize("model", MODELS)
def test_load_another_place_and_other_permissions_change_nothing(
    model: str, projects: Projects, tmp_path: Path
) -> None:
    folder, expected = projects[model]
    moved = Path(shutil.copytree(folder, tmp_path / "ein Ort mit Größe und spaces"))
    before = os.umask(0o077)
    try:
        assert reproduce(moved, {}) == expected
    finally:
        os.umask(before)


def test_an_earlier_run_changes_nothing(projects: Projects) -> None:
    folder, expected = projects["mf"]
    text = (folder / "params.yaml").read_text()
    set_params(folder, train__seed=99, split__seed=3, train__mf__epochs=1)
    other = reproduce(folder, {})
    assert other["models/factors.npz"] != expected["models/factors.npz"]
    (folder / "params.yaml").write_text(text)
    assert reproduce(folder, {}) == expected
