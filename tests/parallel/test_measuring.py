"""Lists measured and written some users at a time are those of all users at once, on the same files."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from recommender.data.blocks import read_part, read_user_ids
from recommender.data.interactions import COLUMNS, Interactions, with_scale
from recommender.data.sampling import Sample
from recommender.errors import UserError
from recommender.evaluation.at_once import baselines_at_once, evaluate_at_once
from recommender.evaluation.heldout import HeldOut, evaluate
from recommender.evaluation.metrics import COLUMNS as METRICS
from recommender.evaluation.metrics import summary
from recommender.evaluation.results import Summed, UserResults
from recommender.parallel import measuring
from recommender.parallel.engine import engine
from recommender.parallel.measuring import baselines_in_parts, evaluate_in_parts, validate_in_parts
from recommender.parallel.recommending import recommend_in_parts
from recommender.params import Params
from recommender.paths import (
    BASELINES_USERS,
    FACTORS,
    GIVEN,
    ITEMS,
    PARTS,
    RECOMMENDATIONS,
    TEST,
    TRAIN,
    USER_METRICS,
    USERS,
    VALIDATION,
)
from recommender.ranking import fold_in
from recommender.ranking.factors import Factors
from recommender.ranking.recommender import Recommender
from recommender.storage import read_table, write_csv, write_json, write_table
from stages import baselines as baselines_stage
from stages import evaluate as evaluate_stage
from tests.conftest import REPOSITORY
from tests.parallel.helpers import write_blocks

USER_COUNT, ITEM_COUNT = 23, 31
SIZES = (2, 3, 8, 25)  # the last is more than there are users


def write_sample(parts: int, seed: int = 0, *, implicit: bool = False, categories: bool = True) -> None:
    """Write factors and a split in blocks.

    Users 0 to 4 are in test alone, 5 to 7 are not in it, items 0 and 1 are not in train.
    """
    random = np.random.default_rng(seed)
    pairs = random.permutation(USER_COUNT * ITEM_COUNT)[:330]
    users, items = (pairs // ITEM_COUNT).astype(np.int32), (pairs % ITEM_COUNT).astype(np.int32)
    ratings = np.ones(330, np.float32) if implicit else (random.integers(1, 11, 330) / 2).astype(np.float32)
    number = random.choice(3, 330, p=[0.6, 0.1, 0.3])
    number[(users < 5) | (items < 2)] = 2
    number[(users >= 5) & (users < 8)] = 0
    table = pa.table({"user": users, "item": items, "rating": ratings}, COLUMNS)
    for part, path in enumerate(PARTS.values()):
        own = table.filter(pa.array(number == part))
        write_blocks(path, with_scale(own, (1, 1)) if implicit else own, parts)
    ids = [f"user {user}" for user in random.permutation(USER_COUNT)]
    write_table(USERS, pa.table({"user": np.arange(USER_COUNT, dtype=np.int32), "user_id": ids}))
    item_ids = np.arange(ITEM_COUNT, dtype=np.int32)
    names = random.choice(["A", "A|B", "C", ""], ITEM_COUNT) if categories else [""] * ITEM_COUNT
    columns = {"item_id": item_ids + 1, "title": item_ids.astype(str), "categories": names}
    write_table(ITEMS, pa.table({"item": item_ids, **columns}))
    # Quarters, of which many scores are equal.
    shapes = ((USER_COUNT, 3), (ITEM_COUNT, 3), (USER_COUNT,), (ITEM_COUNT,))
    vectors = [random.integers(-8, 9, shape).astype(np.float32) / 4 for shape in shapes]
    vectors[0][:5], vectors[2][:5] = 0, 0
    Factors(*vectors, item_ids, 3.0, scores="order" if implicit else "ratings").save()  # type: ignore[arg-type]
    fold_in.save(fold_in.RatingLoss(100, 0.1))


def parameters(parts: int, **changes: object) -> Params:
    """Return parameters for this many parts."""
    values: Any = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["engine"]["parts"], values["split"]["method"] = parts, "hash"
    values["train"]["mf"] |= {"optimizer": "lazy_adam", "batch_size": 120 * parts}
    values["evaluate"]["k"], values["recommend"]["k"], values["baselines"]["ease_lambda"] = 7, 5, 1
    for name, value in changes.items():
        section, key = name.split("__")
        values[section][key] = value
    return Params(**values)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, whose list of packages is empty."""
    monkeypatch.chdir(tmp_path)
    Path("environment").mkdir()
    for group in ("tables", "training"):
        Path(f"environment/{group}.txt").touch()
    return tmp_path


def written(found: Summed, place: Path) -> bytes:
    """Return what the stages would write."""
    write_json(place / "found.json", found.metrics())
    write_csv(place / "found.csv", found.curves())
    return (place / "found.json").read_bytes() + (place / "found.csv").read_bytes()


def in_part_order(table: pa.Table, parts: int) -> pa.Table:
    """Return rows of users in the order in which parts are written."""
    users = table["user"].to_numpy()
    models = table["model"].to_pylist()
    _, model = np.unique([models.index(name) for name in models], return_inverse=True)
    return table.take(pa.array(np.lexsort((users, users % parts, model))))


@pytest.mark.parametrize("parts", SIZES)
@pytest.mark.parametrize(
    ("seed", "implicit", "changes"),
    [
        (0, False, {}),
        (1, False, {"train__final_fit": True, "evaluate__relevance_quantile": 0}),
        (2, True, {"evaluate__user_share": 0.6, "baselines__item_mean_damping": 0}),
    ],
)
def test_metrics_have_the_same_bytes_and_users_the_same_results(
    parts: int, seed: int, implicit: bool, changes: dict[str, object], place: Path
) -> None:
    write_sample(parts, seed, implicit=implicit)
    params = parameters(parts, **changes)
    whole = {"mf": evaluate_at_once(params), **baselines_at_once(params)}
    tables = [in_part_order(read_table(path), parts) for path in (USER_METRICS, BASELINES_USERS)]
    cut_up = {"mf": evaluate_in_parts(params), **baselines_in_parts(params)}
    assert list(cut_up) == list(whole) == ["mf", "popularity", "item_mean", "ease"]
    for model, found in whole.items():
        assert written(cut_up[model], place) == written(found, place), model
        assert 0 < found.metrics()["known_users"]["users"] < found.metrics()["users"]
        assert ("rmse" in found.metrics()) == (model == "item_mean" or (model == "mf" and not implicit))
    for path, table in zip((USER_METRICS, BASELINES_USERS), tables, strict=True):
        assert read_table(path).equals(table)
    assert not list(Path("scratch").iterdir())


def test_only_diversity_without_categories_is_left_out_of_parts() -> None:
    write_sample(3, categories=False)
    params = parameters(3)
    whole, parts = evaluate_at_once(params).metrics(), evaluate_in_parts(params).metrics()
    assert whole.pop("diversity") > 0
    assert whole["known_users"].pop("diversity") > 0
    assert parts == {name: pytest.approx(value) for name, value in whole.items()}


def test_large_catalogues_have_no_ease(capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(2)
    assert list(baselines_in_parts(parameters(2, baselines__ease_max_items=30))) == ["popularity", "item_mean"]
    assert capsys.readouterr().err == (
        "EASE is skipped: it inverts a 31 x 31 matrix, and baselines.ease_max_items allows 30\n"
    )


@pytest.mark.parametrize("parts", SIZES)
@pytest.mark.parametrize("share", [1, 0.5])
@pytest.mark.parametrize("final_fit", [False, "all"])
def test_recommendations_are_those_of_all_at_once(parts: int, share: float, final_fit: object) -> None:
    write_sample(parts)
    params = parameters(parts, recommend__user_share=share, train__final_fit=final_fit)
    chosen = Sample(share, params.split.seed).has(np.arange(USER_COUNT))
    assert chosen.all() == (share == 1)
    expected = Recommender.read(params.train.learned_from).recommend_all(5, chosen)
    recommend_in_parts(params)
    place = {
        name: user % parts * USER_COUNT + user for user, name in enumerate(read_table(USERS)["user_id"].to_pylist())
    }
    order = np.argsort([place[name] for name in expected["user_id"].to_pylist()], kind="stable")
    assert read_table(RECOMMENDATIONS).equals(expected.take(pa.array(order)))


@pytest.mark.parametrize("parts", SIZES)
def test_the_validation_part_is_measured_as_by_training_at_once(parts: int) -> None:
    write_sample(parts)
    params, factors = parameters(parts), Factors.load()
    train, validation = Interactions.read(TRAIN), Interactions.read(VALIDATION)
    stopping = params.train.early_stopping
    held_out = HeldOut.of(validation, train, stopping.relevance_quantile)
    expected = summary(*evaluate(factors, held_out, stopping.k))
    with engine("train", "training", "", []) as run:
        found = validate_in_parts(run, factors, params)
    assert found == {f"val_{name}": pytest.approx(expected[name], abs=1e-9) for name in METRICS}


def test_processes_write_the_same_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(3)
    params, paths = parameters(3), (USER_METRICS, BASELINES_USERS, RECOMMENDATIONS)
    found = []
    for where in ("", "processes:2"):
        monkeypatch.setenv("CLUSTER", where)
        metrics = [evaluate_in_parts(params), *baselines_in_parts(params).values()]
        recommend_in_parts(params)
        found.append([*(written(each, place) for each in metrics), *(path.read_bytes() for path in paths)])
    assert found[0] == found[1]


def test_a_run_that_was_stopped_goes_on(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    write_sample(3)
    params, done = parameters(3), []
    expected = [written(each, place) for each in baselines_in_parts(params).values()]
    whole = measuring.measure_baselines

    def stopped(*arguments: Any) -> Any:  # noqa: ANN401 - as the task
        if arguments[1] == 2 and not done.count(2):
            done.append(2)
            raise KeyboardInterrupt
        done.append(arguments[1])
        return whole(*arguments)

    monkeypatch.setattr(measuring, "measure_baselines", stopped)
    monkeypatch.setattr(
        measuring, "solve_ease", lambda *both, solve=measuring.solve_ease: done.append(-1) or solve(*both)
    )
    with pytest.raises(KeyboardInterrupt):
        baselines_in_parts(params)
    assert [written(each, place) for each in baselines_in_parts(params).values()] == expected
    assert done == [-1, 0, 1, 2, 2]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_share_without_any_user_is_refused(parts: int) -> None:
    write_sample(parts)
    params = parameters(parts, evaluate__user_share=1e-9)
    with pytest.raises(UserError, match=r"params\.yaml: evaluate\.user_share: 1e-09 leaves no user with test ratings"):
        (evaluate_in_parts if parts > 1 else evaluate_at_once)(params)
    assert not USER_METRICS.exists()


def test_factors_of_other_users_are_refused() -> None:
    write_sample(3)
    factors = Factors.load()
    dataclasses.replace(factors, user_factors=factors.user_factors[1:], user_bias=factors.user_bias[1:]).save()
    with pytest.raises(UserError, match="was trained on 22 users and 31 items, but data/processed has 23 and 31"):
        evaluate_in_parts(parameters(3))


@pytest.mark.parametrize("parts", SIZES)
def test_a_part_has_every_so_manieth_user(parts: int) -> None:
    write_sample(parts)
    whole, shape = Interactions.read(TRAIN, TEST), (USER_COUNT, ITEM_COUNT)
    ids, factors, rows = read_table(USERS)["user_id"].to_numpy(), Factors.load(), whole.matrix().toarray()
    for part in range(parts):
        own = slice(part, None, parts)
        assert np.array_equal(read_part([TRAIN, TEST], parts, part, shape).matrix().toarray(), rows[own])
        assert read_user_ids(parts, part).tolist() == ids[own].tolist()
        found = Factors.load(FACTORS, own, shape)
        assert np.array_equal(found.user_factors, factors.user_factors[own])
        assert np.array_equal(found.user_bias, factors.user_bias[own])
        assert np.array_equal(found.item_factors, factors.item_factors)


def test_results_do_not_depend_on_the_order_of_rows() -> None:
    write_sample(3)
    evaluate_at_once(parameters(3))
    baselines_at_once(parameters(3))
    table = pa.concat_tables([read_table(USER_METRICS), read_table(BASELINES_USERS)])
    expected, found = UserResults.of(table), UserResults.of(in_part_order(table, 4))
    assert np.array_equal(found.user, expected.user)
    assert found.statistics().estimates.keys() == expected.statistics().estimates.keys()
    for model, lists in expected.lists.items():
        assert np.array_equal(found.lists[model], lists)
        for name, values in expected.metrics[model].items():
            assert np.array_equal(found.metrics[model][name], values, equal_nan=True)


def test_the_stages_choose_by_the_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(3)
    found = []
    for stage, name in ((evaluate_stage, "evaluate_in_parts"), (baselines_stage, "baselines_in_parts")):
        chosen = getattr(stage, name)
        monkeypatch.setattr(
            stage, name, lambda params, chosen=chosen: found.append(params.engine.parts) or chosen(params)
        )
        for parts in (3, 1):
            monkeypatch.setattr(stage, "load_params", lambda parts=parts: parameters(parts))
            stage.main()
    assert found == [3, 3]
    assert not GIVEN.exists()
