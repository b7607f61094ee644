"""The search for parameters, the presets that it leaves, and the comparison that reads them."""

import collections
import csv
import functools
import operator
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, sha256

from benchmarks import comparison, tune
from stages.lib.params import load_params
from tests.test_params import leaves
from tools.experiments import as_settings
from tools.preset import PURPOSES, preset

COMMITTED = yaml.safe_load((REPOSITORY / "presets.yaml").read_text())
LOG = list(csv.DictReader((REPOSITORY / "metrics/tuning.csv").read_text().splitlines()))


@pytest.mark.parametrize("name", PURPOSES)
def test_presets_are_parameters_of_the_pipeline(name: str, tmp_path: Path) -> None:
    for chosen in COMMITTED[name].values():
        params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
        assert set(chosen) <= set(leaves(params))
        for dotted, value in chosen.items():
            *sections, key = dotted.split(".")
            place = params
            for section in sections:
                place = place[section]
            place[key] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(params))
        load_params(path)


@pytest.mark.parametrize("order", [PURPOSES, PURPOSES[::-1]])
def test_a_preset_can_follow_any_other(order: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    params = yaml.safe_load(Path("params.yaml").read_text())
    for name in order:
        for dotted, value in preset(name, "ml-1m").items():
            *sections, key = dotted.split(".")
            functools.reduce(operator.getitem, sections, params)[key] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(params))
        load_params(path)


@pytest.mark.parametrize("name", sorted(tune.SPACES))
def test_presets_are_the_best_trials_of_the_log(name: str) -> None:
    _, metric, more = tune.SPACES[name]
    for dataset, chosen in COMMITTED[name].items():
        rows = [row for row in LOG if (row["dataset"], row["model"]) == (dataset, name)]
        assert {row["metric"] for row in rows} == {metric}
        best = (max if more else min)(float(row["value"]) for row in rows)
        settings = {setting for setting in as_settings(chosen) if not setting.startswith("train.models")}
        assert any(float(row["value"]) == best and set(row["parameters"].split()) == settings for row in rows)


def test_every_search_on_a_data_set_had_the_same_number_of_trials() -> None:
    for dataset in {row["dataset"] for row in LOG}:
        counts = collections.Counter(row["model"] for row in LOG if row["dataset"] == dataset)
        assert len(set(counts.values())) == 1, (dataset, counts)
        assert {"ranking", "ease_all", "ease_liked", "ease_weighted"} <= set(counts)


@pytest.mark.parametrize("name", PURPOSES)
def test_the_readme_shows_each_preset_of_ml_1m_in_full(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    text = " ".join((REPOSITORY / "README.md").read_text().replace("\\\n", " ").split())
    settings = as_settings({"data.dataset": "ml-1m", **preset(name, "ml-1m")})
    assert " ".join(f"-S {shlex.quote(setting)}" for setting in settings) in text


def test_a_search_is_the_same_again_and_starts_where_it_should(archives: dict[str, Path]) -> None:
    archive = archives["ml-1m"]
    source = {"data.dataset": "ml-1m", "data.archive": str(archive), "data.sha256": sha256(archive)}
    trials = tune.search("ease_weighted", source, 4)
    assert tune.search("ease_weighted", source, 4) == trials
    assert [values for values, _ in trials[:3]] == tune.STARTS["ease_weighted"]
    assert len({value for _, value in trials}) > 1
    assert all(0 < value < 1 for _, value in trials)


def test_a_search_replaces_its_earlier_log_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tune.keep("ml-1m", "svd", [({"factors": 5}, 0.9), ({"factors": 6}, 0.8)])
    tune.keep("ml-100k", "als", [({"factors": 7}, 0.1), ({"factors": 8}, 0.3), ({"factors": 9}, 0.2)])
    tune.keep("ml-1m", "svd", [({"factors": 3}, 0.7)])
    lines = Path("metrics/tuning.csv").read_text().splitlines()
    assert lines == [
        "dataset,model,trial,metric,value,parameters",
        "ml-100k,als,0,map,0.100000,factors=7",
        "ml-100k,als,1,map,0.300000,factors=8",
        "ml-100k,als,2,map,0.200000,factors=9",
        "ml-1m,svd,0,rmse,0.700000,factors=3",
    ]
    assert yaml.safe_load(Path("presets.yaml").read_text()) == {
        "als": {"ml-100k": {"factors": 8}},
        "svd": {"ml-1m": {"factors": 3}},
    }


def test_the_interval_is_that_of_a_mean() -> None:
    gain = np.random.default_rng(3).normal(0.01, 0.2, 5000)
    low, high = comparison.interval(gain)
    error = 1.96 * gain.std() / 5000**0.5
    assert low == pytest.approx(gain.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(gain.mean() + error, abs=0.1 * error)
    assert comparison.interval(gain) == [low, high]
