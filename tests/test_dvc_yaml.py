"""dvc.yaml says of every stage exactly what it reads, which parameters it depends on, and what it writes."""

import ast
import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY, run, set_params

STAGES: dict[str, Any] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
NAMES = tuple(STAGES)
LIBRARY = sorted(path.stem for path in (REPOSITORY / "stages/lib").glob("*.py") if path.stem != "__init__")
# What train reads depends on the kind of training.
KINDS: dict[str, list[dict[str, Any]]] = {
    "train": [
        {},
        {"train__loss": "softmax"},
        {"train__movie_vectors": "encoded", "train__global_mean": True},
        {"train__early_stopping": {"patience": 1, "metric": "map", "k": 5, "relevance_quantile": 0.85}},
    ]
}
PACKAGES = ("stages/__init__.py", "stages/lib/__init__.py")


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Give the dotted name of every parameter."""
    names = []
    for key, value in values.items():
        names += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return names


def source(module: str) -> Path:
    return REPOSITORY / (module.replace(".", "/") + ".py")


def imported(text: str) -> set[str]:
    """Give the dotted names that a module's code imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def project_modules(module: str) -> set[str]:
    """Give the modules of this project that a module needs, with itself."""
    needed, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        needed.add(current)
        found = {name for name in imported(source(current).read_text()) if source(name).is_file()}
        waiting += sorted(found - needed)
    return needed


def code_mismatch(name: str, declared: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Compare a stage's code with its deps: what is missing there, and what is too many."""
    needed = {module.replace(".", "/") + ".py" for module in project_modules(f"stages.{name}")}
    listed = {dep for dep in declared["deps"] if dep.endswith(".py")}
    return needed - listed, listed - needed


def written_by(declared: dict[str, Any]) -> set[str]:
    entries = [*declared.get("outs", []), *declared.get("metrics", []), *declared.get("plots", [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


@pytest.fixture(scope="session")
def records(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run every stage in a folder that holds its declared deps and no more; give params, modules and files made."""
    found: dict[str, dict[str, Any]] = {}
    for name, values in [(stage, values) for stage in STAGES for values in KINDS.get(stage, [{}])]:
        declared = STAGES[name]
        folder = tmp_path_factory.mktemp(name)
        given = {*declared["deps"], *PACKAGES, "params.yaml"}
        for path in given:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(trained / path, folder / path)
        set_params(folder, **values)
        if "train__early_stopping" in values:  # which needs a validation part
            shutil.copy(trained / "data/processed/test.parquet", folder / "data/processed/validation.parquet")
        record = tmp_path_factory.mktemp("records") / f"{name}.json"
        result = run(folder, sys.executable, str(REPOSITORY / "tests/record.py"), name, str(record))
        assert result.returncode == 0, result.stderr
        made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        made = {path for path in made - given if "__pycache__" not in path}
        read = json.loads(record.read_text())
        before = found.get(name, {"params": [], "modules": [], "made": made})
        assert made == before["made"]
        found[name] = {key: sorted({*before[key], *read[key]}) for key in ("params", "modules")} | {"made": made}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_deps_name_exactly_the_code_that_a_stage_imports(name: str) -> None:
    assert code_mismatch(name, STAGES[name]) == (set(), set())
    assert f"stages/{name}.py" in STAGES[name]["deps"]


def test_a_line_too_few_or_too_many_in_deps_is_noticed() -> None:
    for name, declared in STAGES.items():
        code = [dep for dep in declared["deps"] if dep.endswith(".py")]
        assert len(code) >= 3
        for dep in code:
            changed = copy.deepcopy(declared)
            changed["deps"].remove(dep)
            assert code_mismatch(name, changed) == ({dep}, set())
        changed = copy.deepcopy(declared)
        changed["deps"].append("stages/lib/other.py")
        assert code_mismatch(name, changed) == (set(), {"stages/lib/other.py"})


def test_imports_are_found_however_they_are_written() -> None:
    text = "import a.b\nfrom c.d import e as f\ndef g():\n    from h import i\n    import j as k\n"
    assert imported(text) == {"a.b", "c.d", "c.d.e", "h", "h.i", "j"}
    assert project_modules("stages.fetch") >= {"stages.fetch", "stages.lib.params", "stages.lib.errors"}


@pytest.mark.parametrize("name", NAMES)
def test_params_are_exactly_those_that_a_stage_reads(name: str, records: dict[str, dict[str, Any]]) -> None:
    assert records[name]["params"] == STAGES[name]["params"]


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_writes_exactly_its_outputs(name: str, records: dict[str, dict[str, Any]]) -> None:
    assert records[name]["made"] == written_by(STAGES[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_loads_the_code_in_its_deps_and_no_other(name: str, records: dict[str, dict[str, Any]]) -> None:
    loaded = {module for module in records[name]["modules"] if module.startswith("stages.")} - {"stages.lib"}
    # params.py is loaded by the recorder too, but every stage needs it.
    assert {module.replace(".", "/") + ".py" for module in loaded} == {
        dep for dep in STAGES[name]["deps"] if dep.endswith(".py")
    }


@pytest.mark.parametrize("name", NAMES)
def test_only_train_loads_tensorflow(name: str, records: dict[str, dict[str, Any]]) -> None:
    loaded = {module.split(".")[0] for module in records[name]["modules"]}
    assert loaded & {"tensorflow", "keras"} == ({"tensorflow", "keras"} if name == "train" else set())


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_its_command_and_a_description(name: str) -> None:
    assert STAGES[name]["cmd"] == f"python -m stages.{name}"
    assert STAGES[name]["desc"]
    for key in ("deps", "params"):
        assert STAGES[name][key] == sorted(set(STAGES[name][key]))


def test_every_parameter_belongs_to_a_stage_and_every_stage_is_in_the_file() -> None:
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert {key for declared in STAGES.values() for key in declared["params"]} == set(leaves(values))
    assert {path.stem for path in (REPOSITORY / "stages").glob("*.py")} - {"__init__"} == set(NAMES)


def test_every_file_read_is_written_by_an_earlier_stage() -> None:
    known: set[str] = set()
    for name, declared in STAGES.items():
        data = {dep for dep in declared["deps"] if not dep.startswith("stages/")}
        assert data <= known, name
        assert not written_by(declared) & known, name
        known |= written_by(declared)


@pytest.mark.parametrize("path", PACKAGES)
def test_packages_hold_a_docstring_and_no_code(path: str) -> None:
    # Every import runs them, and no stage lists them in its deps.
    tree = ast.parse((REPOSITORY / path).read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


@pytest.mark.parametrize("name", NAMES)
def test_no_stage_imports_another(name: str) -> None:
    others = {f"stages.{other}" for other in NAMES if other != name}
    assert not imported(source(f"stages.{name}").read_text()) & others


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_imports_no_stage(name: str) -> None:
    assert not imported(source(f"stages.lib.{name}").read_text()) & {f"stages.{stage_name}" for stage_name in NAMES}
