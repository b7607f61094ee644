"""What is measured of the exported model, and the explanations that people look at."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.explanations import BEHIND, PEOPLE, SHOWN, explained
from benchmarks.measure import keep
from recommender.ranking.recommender import Recommender
from tools.docs import TABLES


@pytest.mark.slow  # of the extra `bench`, which `make test` does without
@pytest.mark.usefixtures("here")
def test_all_ways_to_make_lists_make_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import serving

    monkeypatch.setattr(serving, "ROUNDS", {1: 2, serving.MANY: 2})
    found = serving.measured()
    assert (found["users"], found["equal"], found["faiss_recall"]) == (60, 60, 1.0)
    assert list(found["milliseconds"]) == ["ours", "exported", "faiss", "faiss, all items"]
    for took in found["milliseconds"].values():
        assert all(0 < low <= median <= high for median, low, high in took.values())
    recommender = Recommender.read()
    assert 0 < len(np.flatnonzero(recommender.learned.candidates)) <= len(recommender.items)
    # A list that differs in one place is noticed.
    changed = serving.ours(recommender, np.arange(60, dtype=np.int32))
    changed[0][7, [0, 1]] = changed[0][7, [1, 0]]
    monkeypatch.setattr(serving, "ours", lambda *_: changed)
    assert serving.measured()["equal"] == 59


def test_the_table_says_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    took = {"1": [1.25, 1.0, 2.0], "1000": [50.0, 40.0, 60.0]}
    ways = dict.fromkeys(("ours", "exported", "faiss", "faiss, all items"), took)
    model = {
        "users": 1200,
        "equal": 1199,
        "faiss_recall": 0.5,
        "milliseconds": ways,
        "export_seconds": 4.25,
        "mib": 12.3,
    }
    keep(Path("metrics/serving.json"), "ml-1m", {"cores": 2, "versions": {"faiss-cpu": "1.2"}, "kernel": model})
    lines = TABLES["serving"]("ml-1m").splitlines()
    assert lines[2] == "| `kernel`: exported, in TensorFlow | 1.2 (1.0 to 2.0) | 50.0 (40.0 to 60.0) |"
    assert lines[7] == (
        "- `kernel`: 12 MiB, exported in 4.2 s; the lists of 1,199 of 1,200 users are ours, ids and scores to the last "
        "bit; FAISS finds 0.5000 of them."
    )
    assert lines[9] == "On 2 cores, with faiss-cpu 1.2."


@pytest.mark.usefixtures("here")
def test_users_are_explained_with_the_largest_shares() -> None:
    recommender = Recommender.read()
    people = explained(recommender)
    assert len({person["user_id"] for person in people}) == PEOPLE
    assert people == explained(recommender)
    for person in people:
        shown = recommender.show_user(str(person["user_id"]), SHOWN, explain=True)["recommendations"]
        assert [item["item_id"] for item in person["recommendations"]] == [item["item_id"] for item in shown]
        for item, whole in zip(person["recommendations"], shown, strict=True):
            assert item["rated"] == len(whole["why"]["rated"]) >= len(item["why"]["rated"])
            assert item["why"]["rated"] == whole["why"]["rated"][:BEHIND]
    for item in people[0]["recommendations"]:
        item["title"] = "a|b"
        item["why"]["rated"] = [{"title": "c", "share": 0.25}, {"title": "d", "share": -0.125}]
    keep(Path("metrics/explanations.json"), "ml-1m", {"people": people[:1]})
    row = TABLES["explanations"]("ml-1m").splitlines()[2]
    assert row.startswith(f"| **{people[0]['user_id']}**: ")
    assert r"| a\|b |" in row
    assert "| c +0.250, d -0.125 |" in row
