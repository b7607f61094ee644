"""Imports run one way, rooms keep to themselves, and files stay short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DATA, RANKING, EVALUATION, PARALLEL, MODELS, REPORT = ROOMS = tuple(
    f"recommender.{room}" for room in ("data", "ranking", "evaluation", "parallel", "models", "report")
)
ABOVE = ("stages", "tools", "benchmarks")
# What the files of each folder must not import; the files of `recommender` itself (errors, paths, ...) know no room.
FORBIDDEN = {
    "recommender": (*ROOMS, *ABOVE),
    DATA: (RANKING, EVALUATION, PARALLEL, MODELS, REPORT, *ABOVE),
    RANKING: (EVALUATION, PARALLEL, MODELS, REPORT, *ABOVE),
    EVALUATION: (PARALLEL, MODELS, REPORT, *ABOVE),
    PARALLEL: (MODELS, REPORT, *ABOVE),
    MODELS: (REPORT, *ABOVE),
    REPORT: (PARALLEL, MODELS, *ABOVE),
    "stages": ABOVE,  # nor each other: DVC runs them one by one
    "tools": ("benchmarks",),
    "benchmarks": (),
}
TENSORFLOW = ("keras", "tensorflow")
MAY_IMPORT_TENSORFLOW = (MODELS, "benchmarks.naive")  # the latter is plain Keras, to measure the models against
MOST_LINES = {"stages": 80, "recommender": 300}


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imports(source: str) -> Iterator[str]:
    """Yield the full name of everything imported, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """Return which rules a file breaks."""
    folder = max((folder for folder in FORBIDDEN if within(module, folder)), key=len)
    forbidden = FORBIDDEN[folder] + (() if within(module, *MAY_IMPORT_TENSORFLOW) else TENSORFLOW)
    found = [f"imports {name}" for name in imports(source) if within(name, *forbidden) or name.startswith(".")]
    most = MOST_LINES.get(module.split(".")[0])
    if most and source.count("\n") > most:
        found.append(f"has more than {most} lines")
    if module.endswith(".__init__") and not (len(ast.parse(source).body) == 1 and ast.get_docstring(ast.parse(source))):
        found.append("is more or less than a docstring")
    return found


def test_the_code_keeps_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert {f"recommender.{path.parent.name}" for path in Path("recommender").glob("*/__init__.py")} == set(ROOMS)
    paths = [path for top in ("recommender", *ABOVE) for path in Path(top).rglob("*.py")]
    assert len(paths) > 40
    found = {str(path): violations(".".join(path.with_suffix("").parts), path.read_text()) for path in paths}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("recommender.storage", "import stages.train", "imports stages.train"),
        ("recommender.ranking.topk", "from tools import sweep", "imports tools.sweep"),
        ("recommender.models.mf", "def f():\n    import benchmarks.measure", "imports benchmarks.measure"),
        ("stages.train", "from tools.sweep import grid", "imports tools.sweep.grid"),
        ("stages.train", "from benchmarks import measure", "imports benchmarks.measure"),
        ("stages.train", "from stages import split", "imports stages.split"),
        ("stages.train", "from stages.split import main", "imports stages.split.main"),
        ("tools.sweep", "from benchmarks.measure import timed", "imports benchmarks.measure.timed"),
        ("recommender.storage", "from recommender.data import archive", "imports recommender.data.archive"),
        ("recommender.data.tables", "from recommender import ranking", "imports recommender.ranking"),
        ("recommender.data.tables", "import recommender.models.mf", "imports recommender.models.mf"),
        ("recommender.ranking.topk", "import recommender.evaluation.metrics", "imports recommender.evaluation.metrics"),
        ("recommender.ranking.topk", "import recommender.models", "imports recommender.models"),
        ("recommender.evaluation.heldout", "import recommender.report.charts", "imports recommender.report.charts"),
        ("recommender.evaluation.heldout", "import recommender.models.mf", "imports recommender.models.mf"),
        ("recommender.models.mf", "import recommender.report.charts", "imports recommender.report.charts"),
        ("recommender.data.blocks", "from recommender.parallel import engine", "imports recommender.parallel.engine"),
        ("recommender.ranking.topk", "import recommender.parallel.engine", "imports recommender.parallel.engine"),
        ("recommender.evaluation.lists", "import recommender.parallel.engine", "imports recommender.parallel.engine"),
        ("recommender.report.page", "import recommender.parallel.engine", "imports recommender.parallel.engine"),
        ("recommender.parallel.engine", "import recommender.models.mf", "imports recommender.models.mf"),
        ("recommender.parallel.users", "import keras", "imports keras"),
        ("recommender.report.charts", "if X:\n    from recommender import models", "imports recommender.models"),
        ("recommender.ranking.factors", "import tensorflow as tf", "imports tensorflow"),
        ("stages.train", "from keras import ops", "imports keras.ops"),
        ("benchmarks.tune", "import keras.layers", "imports keras.layers"),
        ("recommender.data.tables", "from . import archive", "imports ..archive"),
        ("stages.train", "x = 1\n" * 81, "has more than 80 lines"),
        ("recommender.params", "x = 1\n" * 301, "has more than 300 lines"),
        ("recommender.data.__init__", '"""Data."""\nx = 1\n', "is more or less than a docstring"),
        ("recommender.data.__init__", "", "is more or less than a docstring"),
    ],
)
def test_each_rule_notices_what_breaks_it(module: str, source: str, expected: str) -> None:
    assert violations(module, source) == [expected]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("recommender.ranking.factors", "from recommender import paths\nimport recommender.ranking.topk"),
        ("recommender.ranking.baselines", "from recommender.data.interactions import Interactions"),
        ("recommender.evaluation.heldout", "from recommender.ranking import factors"),
        ("recommender.models.core.training", "import tensorflow\nfrom recommender.evaluation import heldout"),
        ("recommender.parallel.users", "from recommender.data import blocks\nimport recommender.evaluation.lists"),
        ("recommender.models.core.blocks", "from recommender.parallel.engine import Engine"),
        ("recommender.report.charts", "from recommender.ranking.recommender import Recommender"),
        ("stages.train", "import numpy\nfrom recommender.models.core import training\n" * 40),
        ("tools.results", "from stages import train\nfrom recommender.models.mf import prepare"),
        ("benchmarks.tune", "from tools import sweep\nfrom stages.train import main\nimport benchmarks.measure"),
        ("recommender.data.__init__", '"""Data."""\n'),
    ],
)
def test_what_the_rules_allow_is_allowed(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_tensors_are_multiplied_in_one_module_alone() -> None:
    """Other products of matrices are cut by the size of the processor's caches: see `core/algebra.py`.

    But for those of the exported graph, which runs elsewhere and scores the best candidates again.
    """
    for path in sorted((REPOSITORY / "recommender/models").rglob("*.py")):
        if path.name != "algebra.py" and path.parent.name != "serving":
            found = re.search(r"\b(matmul|einsum|tensordot|ops\.dot)\b", path.read_text(encoding="utf-8"))
            assert found is None, f"{path.name}: {found}"


def test_every_target_has_a_rule_and_so_has_every_one_that_pages_name() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    phony = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, re.MULTILINE)[0].replace("\\", " ").split()
    assert set(phony) == set(re.findall(r"^([a-z-]+):.*  ## ", makefile, re.MULTILINE))
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text)) <= set(phony)
