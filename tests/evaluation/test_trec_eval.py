"""NIST's trec_eval measures the same lists: every metric that it has is the same for every user."""

from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from recommender.evaluation.heldout import HeldOut
from recommender.evaluation.results import UserResults
from recommender.paths import BASELINES_USERS
from tests.conftest import copy_project, set_params, stage

pytestmark = pytest.mark.slow
K = 25
NAMES = {"precision": "P", "recall": "recall", "ndcg": "ndcg_cut", "mrr": "recip_rank", "hit_rate": "success"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]) -> Path:
    """Popularity, the item mean and EASE on ml-100k."""
    folder = copy_project(tmp_path_factory.mktemp("ml-100k") / "project", archives["ml-100k"])
    set_params(folder, data__dataset="ml-100k", data__archive=None, data__sha256=None)
    for name in ("fetch", "extract", "split", "baselines"):
        result = stage(folder, name)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("model", ["popularity", "item_mean", "ease"])
def test_every_user_is_measured_as_by_trec_eval(model: str, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pytrec_eval  # installed with the tests' packages; slow to import

    monkeypatch.chdir(measured)
    held_out, results = HeldOut.read(0.85), UserResults.read(BASELINES_USERS)
    relevant: dict[str, dict[str, int]] = {}
    liked = held_out.relevant
    for user, item in zip(held_out.ratings.users[liked].tolist(), held_out.ratings.items[liked].tolist(), strict=True):
        relevant.setdefault(str(user), {})[str(item)] = 1
    ranked = {
        str(user): {str(item): float(-rank) for rank, item in enumerate(row)}
        for user, row in zip(results.user.tolist(), results.lists[model].tolist(), strict=True)
    }
    cut = {f"{name}.{K}" for name in ("P", "recall", "ndcg_cut", "success", "map_cut")}
    found = pytrec_eval.RelevanceEvaluator(relevant, cut | {"recip_rank"}).evaluate(ranked)
    theirs = [found[str(user)] for user in results.user]
    assert len(theirs) == len(ranked) == 941
    for name, their_name in NAMES.items():
        key = their_name if their_name == "recip_rank" else f"{their_name}_{K}"
        assert_allclose(results.metrics[model][name], [each[key] for each in theirs], rtol=0, atol=1e-9, err_msg=name)
    # Average precision is divided by all relevant items there, and here by as many as fit into the list.
    counts = [len(relevant[str(user)]) for user in results.user]
    ratio = [count / min(count, K) for count in counts]
    expected = [each[f"map_cut_{K}"] * factor for each, factor in zip(theirs, ratio, strict=True)]
    assert_allclose(results.metrics[model]["map"], expected, rtol=0, atol=1e-9)
