"""The log of the searches, the presets that it leaves, and the comparison that reads them."""

import collections
import csv
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from benchmarks import comparison, tune
from recommender.data.interactions import Interactions
from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.metrics import ACCURACY
from recommender.params_file import flatten, load_params
from tests.conftest import REPOSITORY, set_params, sha256
from tools.experiments import as_settings
from tools.preset import PURPOSES

PRESETS = yaml.safe_load((REPOSITORY / "presets.yaml").read_text())
LOG = list(csv.DictReader((REPOSITORY / "metrics/tuning.csv").read_text().splitlines()))
PARAMS = dict(flatten(load_params(REPOSITORY / "params.yaml")))


@pytest.mark.parametrize("name", PURPOSES)
def test_presets_choose_a_model_and_all_its_parameters(name: str, tmp_path: Path) -> None:
    for chosen in PRESETS[name].values():
        section = f"train.{chosen['train.model']}."
        assert set(chosen) == {"train.model", *(key for key in PARAMS if key.startswith(section))}
        shutil.copy(REPOSITORY / "params.yaml", tmp_path)
        set_params(tmp_path, **{key.replace(".", "__"): value for key, value in chosen.items()})
        assert chosen.items() <= dict(flatten(load_params(tmp_path / "params.yaml"))).items()


@pytest.mark.parametrize("name", PURPOSES)
def test_defaults_are_the_presets_of_ml_100k(name: str) -> None:
    assert [key for key, value in PRESETS[name]["ml-100k"].items() if PARAMS[key] != value] == ["train.model"]


@pytest.mark.parametrize("name", tune.SEARCHES)
def test_presets_are_the_best_trials_of_the_log(name: str) -> None:
    metric = tune.SEARCHES[name]["metric"]
    for dataset, chosen in PRESETS[name].items():
        rows = [row for row in LOG if (row["dataset"], row["model"]) == (dataset, name)]
        assert {row["metric"] for row in rows} == {metric}
        best = (min if metric == "rmse" else max)(rows, key=lambda row: float(row["value"]))
        assert set(best["parameters"].split()) == set(as_settings(chosen))


def test_every_search_on_a_data_set_had_the_same_number_of_trials() -> None:
    for dataset in {row["dataset"] for row in LOG}:
        counts = collections.Counter(row["model"] for row in LOG if row["dataset"] == dataset)
        assert len(set(counts.values())) == 1, (dataset, counts)
        assert {"ranking", "ease_all", "ease_liked", "ease_weighted"} <= set(counts)


@pytest.mark.parametrize("name", tune.SEARCHES)
def test_searches_start_within_what_they_draw_from(name: str) -> None:
    what = tune.SEARCHES[name]
    space = {key: tune.distribution(bounds) for key, bounds in what["space"].items()}
    for start in what["starts"]:
        assert set(start) == set(space)
        for key, value in start.items():
            assert space[key]._contains(space[key].to_internal_repr(value)), (key, value)


def test_a_trial_has_the_parameters_of_its_section() -> None:
    drawn = {**tune.SEARCHES["rating"]["starts"][0], "learning_rate": 0.00312345}
    found = tune.parameters("rating", drawn)
    assert set(found) == set(PRESETS["rating"]["ml-1m"])
    assert found["train.model"] == "encoded_mf"
    assert found["train.encoded_mf.learning_rate"] == 0.00312
    assert tune.parameters("ease_liked", {"l2": 123.456}) == {"min_rating": 4.0, "l2": 123.0}


def test_a_search_is_the_same_again_and_starts_where_it_should(archives: dict[str, Path]) -> None:
    archive = archives["ml-1m"]
    source = {"data.dataset": "ml-1m", "data.archive": str(archive), "data.sha256": sha256(archive)}
    first, second = (
        [(trial.user_attrs["values"], trial.value) for trial in tune.search("ease_weighted", source, count).trials]
        for count in (4, 2)
    )
    assert second == first[:2]
    assert [values for values, _ in first[:3]] == tune.SEARCHES["ease_weighted"]["starts"]
    assert len({value for _, value in first}) > 1
    assert all(0 < value < 1 for _, value in first)


def test_a_search_replaces_its_earlier_log_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(dataset: str, model: str, direction: str, trials: dict[int, float]) -> None:
        study = optuna.create_study(direction=direction)
        for factors, value in trials.items():
            attributes = {"values": {"factors": factors, "base": 1.5}}
            study.add_trial(optuna.trial.create_trial(value=value, user_attrs=attributes))
        tune.keep(dataset, model, study)

    monkeypatch.chdir(tmp_path)
    keep("ml-1m", "svd", "minimize", {5: 0.9, 6: 0.8})
    keep("ml-100k", "als", "maximize", {7: 0.1, 8: 0.3, 9: 0.2})
    keep("ml-1m", "svd", "minimize", {3: 0.7})
    assert Path("metrics/tuning.csv").read_text().splitlines() == [
        "dataset,model,trial,metric,value,parameters",
        "ml-100k,als,0,map,0.100000,factors=7 base=1.5",
        "ml-100k,als,1,map,0.300000,factors=8 base=1.5",
        "ml-100k,als,2,map,0.200000,factors=9 base=1.5",
        "ml-1m,svd,0,rmse,0.700000,factors=3 base=1.5",
    ]
    assert yaml.safe_load(Path("presets.yaml").read_text()) == {
        "als": {"ml-100k": {"factors": 8, "base": 1.5}},
        "svd": {"ml-1m": {"factors": 3, "base": 1.5}},
    }


def test_evidence_of_our_model_against_the_rival() -> None:
    random = np.random.default_rng(3)
    ease = {metric: random.random(400) for metric in ACCURACY}
    ours = {metric: values + random.normal(0.02, 0.05, 400) for metric, values in ease.items()}
    rows = (random.integers(0, 400, 5000).astype(np.int32), np.zeros(5000, np.int32), np.ones(5000, np.float32))
    held_out = HeldOut.of(Interactions(*rows, (400, 1)), Interactions(*(row[:0] for row in rows), (400, 1)), 0.85)
    found = comparison.evidence(
        {"ease_weighted": ease, "svd": ours | {"rmse": ease["map"]}, comparison.RIVALS[0]: ours}, held_out
    )
    difference = found["difference"]["map"]
    assert difference["value"] == pytest.approx(np.mean(ours["map"] - ease["map"]))
    assert difference["low"] < 0.02 < difference["high"]
    assert difference["holm"] < 0.001
    assert found["best"]["map"] == [comparison.RIVALS[0], "svd"]  # the same numbers
    assert found["best"]["rmse"] == ["svd"]
    low, high = found["intervals"]["svd"]["rmse"]
    assert low < np.sqrt(np.mean(ease["map"] ** 2)) < high
