"""The files that GitHub and Zenodo cite this software by have the fields that their formats ask for, and agree."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

# Of the Citation File Format 1.2.0 and of Zenodo's deposits, what is in use here.
CFF = {"cff-version", "message", "type", "title", "abstract", "authors", "version", "license", "keywords", "references"}
ZENODO = {
    "title",
    "description",
    "upload_type",
    "access_right",
    "creators",
    "license",
    "keywords",
    "related_identifiers",
}
DOI = re.compile(r"10\.\d{4,9}/[\w.-]+")


@pytest.fixture
def cff() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def zenodo() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REPOSITORY / ".zenodo.json").read_text(encoding="utf-8"))
    return found


def test_the_citation_has_the_fields_of_its_format(cff: dict[str, Any]) -> None:
    assert set(cff) == CFF
    assert (cff["cff-version"], cff["type"]) == ("1.2.0", "software")
    assert all(isinstance(cff[name], str) for name in ("message", "title", "abstract", "version", "license"))
    for work in (cff, *cff["references"]):
        for author in work["authors"]:
            assert set(author) in ({"name"}, {"given-names", "family-names"})
    for reference in cff["references"]:
        assert reference["type"] == "article"
        assert DOI.fullmatch(reference["doi"])


def test_the_deposit_has_the_fields_of_its_format(zenodo: dict[str, Any]) -> None:
    assert set(zenodo) == ZENODO  # the version is that of the release
    assert (zenodo["upload_type"], zenodo["access_right"]) == ("software", "open")
    for related in zenodo["related_identifiers"]:
        assert (related["relation"], related["scheme"]) == ("cites", "doi")


def test_both_agree_with_each_other_and_with_the_package(cff: dict[str, Any], zenodo: dict[str, Any]) -> None:
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cff["version"], cff["license"]) == (package["version"], package["license"])
    assert cff["abstract"] == zenodo["description"] == f"{package['description']}."
    for name in ("title", "license", "keywords"):
        assert cff[name] == zenodo[name], name
    assert [author["name"] for author in cff["authors"]] == [creator["name"] for creator in zenodo["creators"]]
    assert cff["authors"][0]["name"] in (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    cited = [reference["doi"] for reference in cff["references"]]
    assert cited == [related["identifier"] for related in zenodo["related_identifiers"]]
    assert all(f"https://doi.org/{doi}" in (REPOSITORY / "README.md").read_text(encoding="utf-8") for doi in cited)


CARDS = """
import sys
from huggingface_hub import DatasetCard, ModelCard
model, data = (kind.load(path) for kind, path in zip((ModelCard, DatasetCard), sys.argv[1:], strict=True))
assert {result.metric_type for result in model.data.eval_results} >= {"map", "ndcg"}, model.data
assert data.data.license_link, data.data
"""


@pytest.mark.slow
def test_their_own_validators_accept_the_citation_and_the_cards(trained: Path, tmp_path: Path) -> None:
    # In an environment of their own: they ask for other versions of packages than the locked ones.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "cffconvert==2.0.0", "huggingface_hub>=1"], check=True)
    subprocess.run([python.with_name("cffconvert"), "--validate"], cwd=REPOSITORY, check=True)
    cards = [trained / "reports" / name for name in ("model_card.md", "data_card.md")]
    subprocess.run([python, "-c", CARDS, *cards], check=True)
