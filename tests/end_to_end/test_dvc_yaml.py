"""dvc.yaml lists for every stage exactly what it reads, the parameters that it depends on, and what it writes."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.flatten import flatten

from recommender.params import MODELS
from recommender.paths import STAGES
from tests.conftest import IN_EPOCHS, REPOSITORY, run, set_params, sha256
from tests.test_architecture import imports

EARLY_STOPPING = {"patience": 1, "metric": "map", "k": 5, "relevance_quantile": 0.85}  # reads every parameter of train
CODE = ("stages/", "recommender/")
OWN = ("fetch", "extract", "split", "report")


def declared(model: str = "mf") -> dict[str, Any]:
    """Return the stages of dvc.yaml while a model is in use."""
    text = (REPOSITORY / "dvc.yaml").read_text().replace("${train.model}", model)
    stages: dict[str, Any] = yaml.safe_load(text)["stages"]
    return stages


CASES = [(name, "mf") for name in STAGES] + [("train", model) for model in MODELS[1:]]


def needed_files(name: str, model: str) -> set[str]:
    """Return the modules of this project that a stage needs."""
    needed: set[str] = set()
    waiting = [f"stages/{name}.py", *([f"recommender/models/{model}.py"] if name == "train" else [])]
    while waiting:
        needed.add(current := waiting.pop())
        names = {
            part for found in imports((REPOSITORY / current).read_text()) for part in (found, found.rpartition(".")[0])
        }
        paths = {dotted.replace(".", "/") + ".py" for dotted in names} - needed
        waiting += sorted(path for path in paths if path.startswith(CODE) and (REPOSITORY / path).is_file())
    return needed


def mismatch(needed: set[str], deps: list[str]) -> tuple[set[str], set[str]]:
    """Return the modules that no dep covers, a file or a folder, and the deps that cover none."""
    covers = {dep: {path for path in needed if path == dep or path.startswith(f"{dep}/")} for dep in deps}
    return needed.difference(*covers.values()), {dep for dep, paths in covers.items() if not paths}


def code_deps(stage: dict[str, Any]) -> list[str]:
    return [dep for dep in stage["deps"] if dep.startswith(CODE)]


def written_by(stage: dict[str, Any]) -> set[str]:
    entries = [entry for key in ("outs", "metrics", "plots") for entry in stage.get(key, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


Records = dict[tuple[str, str], dict[str, set[str]]]


@pytest.fixture(scope="session")
def records(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Run every stage, and train with every model, in a folder with its declared deps and nothing else."""
    found: Records = {}
    fetched = Path()
    for name, model in CASES:
        folder = tmp_path_factory.mktemp(name)
        for path in [*declared(model)[name]["deps"], "params.yaml"]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (trained / path).is_dir() else shutil.copy)(trained / path, folder / path)
        if name == "train":
            patience = int(model in IN_EPOCHS)  # a closed form has no epochs to stop after
            set_params(folder, train__model=model, train__early_stopping=EARLY_STOPPING | {"patience": patience})
            shutil.copy(folder / "data/processed/test.parquet", folder / "data/processed/validation.parquet")
        before = {path for path in folder.rglob("*") if path.is_file()}
        found[name, model] = record(folder, name)
        found[name, model]["made"] = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path not in before
        }
        if name in OWN:  # these read other parameters where the ratings are the user's own
            ratings = folder / "ratings.csv"
            ratings.write_text("user,item,rating\n1,1,2\n2,1,3\n")
            own = {"dataset": "own", "own__ratings": ratings.name, "own__sha256": sha256(ratings)}
            set_params(folder, **{f"data__{key}": value for key, value in own.items()})
            if name == "extract":
                shutil.copy(fetched, folder / "data/raw/archive.zip")
            found[name, model]["params"] |= record(folder, name)["params"]
            fetched = folder / "data/raw/archive.zip" if name == "fetch" else fetched
    return found


def record(folder: Path, name: str) -> dict[str, set[str]]:
    """Run a stage in a folder; return the parameters that it reads and the modules that it loads."""
    path = folder.with_name(f"{folder.name}.json")
    result = run(folder, sys.executable, "-B", str(REPOSITORY / "tests/record.py"), name, str(path))
    assert result.returncode == 0, result.stderr
    return {key: set(value) for key, value in json.loads(path.read_text()).items()}


@pytest.mark.parametrize(("name", "model"), CASES)
def test_deps_cover_exactly_the_code_that_a_stage_imports(name: str, model: str) -> None:
    deps = code_deps(declared(model)[name])
    assert mismatch(needed_files(name, model), deps) == (set(), set())
    assert f"stages/{name}.py" in deps


def test_a_dep_too_few_or_too_many_is_noticed() -> None:
    for name, stage in declared().items():
        needed, deps = needed_files(name, "mf"), code_deps(stage)
        assert len(deps) >= 5
        for dep in deps:
            missing, unneeded = mismatch(needed, [other for other in deps if other != dep])
            assert missing
            assert all(path.startswith(dep) for path in missing)
            assert unneeded == set()
        assert mismatch(needed, [*deps, "recommender/other"]) == (set(), {"recommender/other"})


@pytest.mark.parametrize(("name", "model"), CASES)
def test_params_are_the_groups_that_a_stage_reads(name: str, model: str, records: Records) -> None:
    groups = {group: f"{group}." for group in declared(model)[name]["params"]}
    read = {f"{leaf}." for leaf in records[name, model]["params"]}
    assert {leaf for leaf in read if not leaf.startswith(tuple(groups.values()))} == set()
    assert {group for group, prefix in groups.items() if not any(leaf.startswith(prefix) for leaf in read)} == set()


@pytest.mark.parametrize(("name", "model"), CASES)
def test_a_stage_writes_exactly_its_outputs(name: str, model: str, records: Records) -> None:
    outs = written_by(declared()[name])
    made = records[name, model]["made"]
    assert {path for path in made if outs.isdisjoint({path, *map(str, Path(path).parents)})} == set()
    assert all(any(path == out or path.startswith(f"{out}/") for path in made) for out in outs)


@pytest.mark.parametrize(("name", "model"), CASES)
def test_only_train_and_export_load_tensorflow_and_only_the_model_in_use(
    name: str, model: str, records: Records
) -> None:
    loaded = records[name, model]["modules"]
    assert {"tensorflow", "keras"} & loaded == ({"tensorflow", "keras"} if name in ("train", "export") else set())
    models = {f"recommender.models.{other}" for other in MODELS}
    assert loaded & models == ({f"recommender.models.{model}"} if name == "train" else set())


def test_every_stage_is_listed_with_its_command_and_a_description() -> None:
    assert {path.stem for path in (REPOSITORY / "stages").glob("*.py")} - {"__init__"} == set(STAGES)
    assert tuple(declared()) == STAGES
    for name, stage in declared().items():
        assert stage["cmd"] == f"python -m stages.{name}"
        assert stage["desc"]


def test_every_parameter_belongs_to_a_stage() -> None:
    groups = {group for model in MODELS for stage in declared(model).values() for group in stage["params"]}
    every = flatten(yaml.safe_load((REPOSITORY / "params.yaml").read_text()))
    assert [leaf for leaf in every if not any(f"{leaf}.".startswith(f"{group}.") for group in groups)] == []


def test_every_file_read_is_written_by_an_earlier_stage() -> None:
    known = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "environment").iterdir()}
    for name, stage in declared().items():
        assert {dep for dep in stage["deps"] if not dep.startswith(CODE)} <= known, name
        assert not written_by(stage) & known, name
        known |= written_by(stage)
