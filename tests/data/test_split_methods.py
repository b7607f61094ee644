"""Each way to split against a slow one in plain Python, and against what it promises."""

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pandas.util import hash_array
from sklearn.model_selection import train_test_split

from recommender.data.splitting import METHODS, Parts, describe, hashed_part
from recommender.errors import UserError
from recommender.params import Split
from recommender.paths import GIVEN, PARTS, PROCESSED
from recommender.storage import read_json, read_table
from stages import split as stage
from tests.conftest import set_params, sha256
from tests.data.test_splitting import chosen, put, shuffled

Rows = list[int]
Rating = tuple[int, int]  # the user and the time


def table(ratings: list[Rating]) -> pa.Table:
    """Return what `encode` makes of ratings, each of an item of its own."""
    users, times = zip(*ratings, strict=True) if ratings else ((), ())
    items, values = pa.array(range(len(users)), pa.int32()), pa.array([3.0] * len(users), pa.float32())
    columns = {"user": pa.array(users, pa.int32()), "item": items, "rating": values}
    ids = {"user_id": columns["user"], "item_id": items}
    return pa.table({**columns, "timestamp": pa.array(times, pa.int64()), **ids})


def share(size: float, count: int) -> int:
    """Return a share of a count, rounded down, of the share as it is written in decimals."""
    return int(Fraction(str(size)) * count)


def by_user(ratings: list[Rating], order: Rows) -> dict[int, Rows]:
    """Return each user's rows in an order of all rows."""
    rows: dict[int, Rows] = defaultdict(list)
    for row in order:
        rows[ratings[row][0]].append(row)
    return rows


def slow_per_user(ratings: list[Rating], split: Split) -> dict[str, Rows]:
    found: dict[str, Rows] = {"train": [], "validation": [], "test": []}
    drawn = np.random.default_rng(split.seed).permutation(len(ratings)).tolist()
    for rows in by_user(ratings, drawn).values():
        test = share(split.test_size, len(rows))
        validation = test + share(split.validation_size, len(rows) - test)
        for name, part in (("test", rows[:test]), ("validation", rows[test:validation]), ("train", rows[validation:])):
            found[name] += part
    return found


def slow_leave_last(ratings: list[Rating], split: Split) -> dict[str, Rows]:
    found: dict[str, Rows] = {"train": [], "validation": [], "test": []}
    in_time = sorted(range(len(ratings)), key=lambda row: (ratings[row][1], row))
    for rows in by_user(ratings, in_time).values():
        for last, row in enumerate(reversed(rows)):
            validation = split.validation_size > 0 and last < 2 * split.n
            found["test" if last < split.n else "validation" if validation else "train"].append(row)
    return found


def slow_temporal(ratings: list[Rating], split: Split) -> dict[str, Rows]:
    def later(rows: Rows, size: float) -> Rows:
        in_time = sorted(ratings[row][1] for row in rows)
        kept = len(rows) - math.ceil(size * len(rows))
        return [row for row in rows if not kept or ratings[row][1] > in_time[kept - 1]]

    rows = list(range(len(ratings)))
    test = later(rows, split.test_size)
    rest = [row for row in rows if row not in test]
    validation = later(rest, split.validation_size) if split.validation_size else []
    return {"train": [row for row in rest if row not in validation], "validation": validation, "test": test}


def slow_user_fold(ratings: list[Rating], split: Split) -> dict[str, Rows]:
    people = list(range(max(user for user, _ in ratings) + 1))
    known, test = train_test_split(people, test_size=split.test_size, random_state=split.seed)
    validation = []
    if split.validation_size:
        seed = int(np.random.SeedSequence([split.seed, 1]).generate_state(1)[0])
        known, validation = train_test_split(known, test_size=split.validation_size, random_state=seed)
    found: dict[str, Rows] = {"train": [], "validation": [], "test": [], "fold_in": []}
    drawn = np.random.default_rng([split.seed, 2]).permutation(len(ratings)).tolist()
    for user, rows in by_user(ratings, drawn).items():
        cut = 0 if user in known else share(split.fold_in_share, len(rows))
        found["fold_in"] += rows[:cut]
        found["test" if user in test else "validation" if user in validation else "train"] += rows[cut:]
    return found


MASK = 2**64 - 1


def slow_mix(number: int) -> int:
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31


def slow_step(state: int) -> int:
    return slow_mix(state + 0x9E3779B97F4A7C15 & MASK)


def slow_siphash(text: bytes) -> int:
    """SipHash-2-4 by Aumasson and Bernstein, with the key that pandas has."""
    key = [int.from_bytes(half, "little") for half in (b"01234567", b"89123456")]
    starts = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    v = [start ^ key[number % 2] for number, start in enumerate(starts)]

    def rotated(number: int, by: int) -> int:
        return (number << by | number >> 64 - by) & MASK

    def turn(times: int) -> None:
        for _ in range(times):
            for (a, b, c, d), (first, second) in (((0, 1, 2, 3), (13, 16)), ((2, 1, 0, 3), (17, 21))):
                v[a] = v[a] + v[b] & MASK
                v[c] = v[c] + v[d] & MASK
                v[b], v[d] = rotated(v[b], first) ^ v[a], rotated(v[d], second) ^ v[c]
                v[a] = rotated(v[a], 32)

    padded = text + bytes(-(len(text) + 1) % 8) + bytes([len(text) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        turn(2)
        v[0] ^= word
    v[2] ^= 0xFF
    turn(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def slow_part(user: int | str, item: int | str, split: Split) -> int:
    hashes = [slow_mix(key & MASK if isinstance(key, int) else slow_siphash(key.encode())) for key in (user, item)]
    for part, size in ((2, split.test_size), (1, split.validation_size)):
        drawn = slow_step(slow_step(slow_step(split.seed + part * 2**32) ^ hashes[0]) ^ hashes[1])
        if (drawn >> 11) / 2**53 < size:
            return part
    return 0


def slow_hash(ratings: list[Rating], split: Split) -> dict[str, Rows]:
    parts = [slow_part(user, item, split) for item, (user, _) in enumerate(ratings)]
    return {name: [row for row, part in enumerate(parts) if part == number] for number, name in enumerate(PARTS)}


SLOW = {
    "hash": slow_hash,
    "per_user": slow_per_user,
    "leave_last": slow_leave_last,
    "temporal": slow_temporal,
    "user_fold": slow_user_fold,
}
SIZES = st.sampled_from((0.1, 0.2, 0.29, 0.5, 0.7))


@st.composite
def cases(draw: st.DrawFn, methods: Sequence[str] = tuple(SLOW)) -> tuple[list[Rating], Split]:
    """Draw ratings of a few users, many at the same time, and a way to split them that leaves no part empty."""
    ratings = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=4, max_size=60))
    numbers = {user: number for number, user in enumerate(dict.fromkeys(user for user, _ in ratings))}
    split = chosen(
        draw(st.sampled_from(methods)),
        test_size=draw(SIZES),
        validation_size=draw(st.just(0) | SIZES),
        n=draw(st.integers(1, 3)),
        fold_in_share=draw(SIZES),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    return [(numbers[user], time) for user, time in ratings], split


def divided(ratings: list[Rating], split: Split) -> Parts:
    try:
        return METHODS[split.method](table(ratings), split)
    except UserError as error:
        assert str(error).startswith("split.")
        assume(condition=False)
        raise


SEARCH = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@SEARCH
@given(cases())
def test_the_same_as_the_slow_one(case: tuple[list[Rating], Split]) -> None:
    ratings, split = case
    found = {name: sorted(rows.tolist()) for name, rows in divided(ratings, split).items()}
    assert found == {name: sorted(rows) for name, rows in SLOW[split.method](ratings, split).items()}


@SEARCH
@given(cases())
def test_what_each_promises(case: tuple[list[Rating], Split]) -> None:
    ratings, split = case
    parts = {name: rows.tolist() for name, rows in divided(ratings, split).items()}
    assert sorted(row for rows in parts.values() for row in rows) == list(range(len(ratings)))
    assert parts["train"]
    assert parts["test"]
    assert bool(parts["validation"]) == (split.validation_size > 0)
    users = {name: {ratings[row][0] for row in rows} for name, rows in parts.items()}
    if split.method == "user_fold":
        held_out = users["test"] | users["validation"]
        assert not users["train"] & held_out
        assert not users["test"] & users["validation"]
        assert users["fold_in"] <= held_out
        assert len(users["test"]) == math.ceil(split.test_size * len(held_out | users["train"]))
        return
    assert set(parts) == set(PARTS)
    if split.method == "per_user":
        assert users["train"] == {user for user, _ in ratings}
        return
    if split.method == "hash":
        return
    # Nothing in a part is later than anything in the next: of a user, or of all users.
    groups = [{user} for user in users["test"]] if split.method == "leave_last" else [{user for user, _ in ratings}]
    for group in groups:
        times = [
            [(ratings[row][1], row) for row in parts[name] if ratings[row][0] in group]
            for name in ("train", "validation", "test")
        ]
        known = [part for part in times if part]
        for before, after in itertools.pairwise(known):
            assert max(before) < min(after)
            assert split.method == "leave_last" or max(before)[0] < min(after)[0]
        if split.method == "leave_last":
            assert len(times[2]) == min(split.n, sum(map(len, times)))


@SEARCH
@given(cases(("leave_last", "temporal")), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_division_by_time(case: tuple[list[Rating], Split], order: random.Random) -> None:
    ratings, split = case
    ratings = [(user, 10 * time + row % 10 + 100 * row) for row, (user, time) in enumerate(ratings)]
    order.shuffle(ratings)
    moved = order.sample(ratings, len(ratings))
    first, second = (
        {name: {given[row] for row in rows.tolist()} for name, rows in divided(given, split).items()}
        for given in (ratings, moved)
    )
    assert first == second


IDS = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), max_size=30)
TEXTS = st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=30)


def hashed(pairs: list[tuple[Any, Any]], split: Split, kind: pa.DataType) -> list[int]:
    """Return the part of each pair of ids of a type."""
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    part = hashed_part(pa.chunked_array([pa.array(users, kind)]), pa.chunked_array([pa.array(items, kind)]), split)
    assert part.dtype == np.int8
    return part.tolist()


@SEARCH
@given(IDS | TEXTS, st.integers(0, 2**32 - 1))
def test_ids_of_any_kind_are_divided_as_by_the_slow_one(pairs: list[tuple[Any, Any]], seed: int) -> None:
    split = chosen("hash", test_size=0.4, validation_size=0.5, seed=seed)
    kind = pa.string() if pairs and isinstance(pairs[0][0], str) else pa.int64()
    assert hashed(pairs, split, kind) == [slow_part(*pair, split) for pair in pairs]


def test_hashes_are_those_of_this_pandas() -> None:
    # Of a whole number, mixed as SplitMix64 mixes its state; of text, its SipHash-2-4 mixed in the same way.
    assert hash_array(np.array([0, 1, 2])).tolist() == [0, 0x5692161D100B05E5, 0xDBD238973A2B148A]
    assert hash_array(np.array(["a", "é", ""], dtype=object)).tolist() == [
        13950350942979735504,
        16908809132758853863,
        1760245841805064774,
    ]
    assert [slow_step(0), slow_step(0x9E3779B97F4A7C15)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # the reference's


SIGNED = [pa.int8(), pa.int32(), pa.int64()]


@pytest.mark.parametrize(
    ("pairs", "kinds"),
    [
        ([(1, 2), (70, 5), (1, 5)], [*SIGNED, pa.uint16()]),
        ([(-1, 2), (70, -5), (-1, -5)], SIGNED),
        ([("a", "é"), ("", "x" * 99), ("a", "7")], [pa.string(), pa.large_string()]),
    ],
    ids=["positive", "negative", "text"],
)
def test_an_id_is_hashed_the_same_in_every_type(pairs: list[tuple[Any, Any]], kinds: list[pa.DataType]) -> None:
    pairs = pairs * 20
    for seed in range(20):
        split = chosen("hash", test_size=0.3, validation_size=0.3, seed=seed)
        found = {str(kind): hashed(pairs, split, kind) for kind in kinds}
        found |= {f"{kind} coded": hashed(pairs, split, pa.dictionary(pa.int32(), kind)) for kind in kinds}
        assert len(set(map(tuple, found.values()))) == 1, found


@SEARCH
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), unique=True, min_size=1), st.data())
def test_no_other_rating_moves_one(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    split = chosen("hash", test_size=0.3, validation_size=0.3, seed=data.draw(st.integers(0, 9)))
    before = dict(zip(pairs, hashed(pairs, split, pa.int64()), strict=True))
    others = data.draw(st.permutations([pair for pair in pairs if data.draw(st.booleans())]))
    assert hashed(others, split, pa.int64()) == [before[pair] for pair in others]


def test_shares_are_those_asked_for_by_user_too_and_another_seed_moves_ratings() -> None:
    users, items = (ids.ravel() for ids in np.mgrid[1:501, 1:401])
    columns = pa.chunked_array([users]), pa.chunked_array([items])
    split = chosen("hash", test_size=0.2, validation_size=0.25)
    part, other = (hashed_part(*columns, split.model_copy(update={"seed": seed})) for seed in (split.seed, 8))
    for number, share in ((0, 0.6), (1, 0.2), (2, 0.2)):
        own = part == number
        assert abs(own.mean() - share) < 4 * math.sqrt(share * (1 - share) / len(own))
        for ids in (users, items):
            counts, found = np.bincount(ids)[1:], np.bincount(ids, own)[1:]
            z = (found - counts * share) / np.sqrt(counts * share * (1 - share))
            assert np.abs(z).max() < 4.5
            assert 0.8 < z.std() < 1.2
        assert abs((own & (other == number)).mean() - share**2) < 0.005  # as far from each other as chance


def test_the_last_in_time_and_of_the_same_time_the_last_in_the_file() -> None:
    ratings = [(0, 5), (0, 9), (1, 1), (0, 9), (0, 2), (1, 1)]
    found = METHODS["leave_last"](table(ratings), chosen("leave_last", validation_size=0.1))
    assert [found[name].tolist() for name in PARTS] == [[0, 4], [1, 2], [3, 5]]


def test_users_with_few_ratings_have_none_in_train() -> None:
    ratings = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]
    found = METHODS["leave_last"](table(ratings), chosen("leave_last", n=2))
    assert [found[name].tolist() for name in PARTS] == [[0, 1], [], [2, 3, 4, 5]]
    described = describe(table(ratings), found, 2, 6)
    assert (described["users_without_train"], described["items_without_train"]) == (1, 4)


def test_ratings_at_the_instant_stay_in_train() -> None:
    ratings = [(0, time) for time in (1, 2, 3, 7, 7, 7, 7, 8, 9, 9)]
    found = METHODS["temporal"](table(ratings), chosen("temporal", test_size=0.5, validation_size=0.5))
    assert [found[name].tolist() for name in PARTS] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]


def test_a_user_with_one_rating_is_measured_on_it() -> None:
    ratings = [(user, 0) for user in range(10)]
    found = METHODS["user_fold"](table(ratings), chosen("user_fold"))
    assert [len(found[name]) for name in ("train", "test", "fold_in")] == [8, 2, 0]


FEW = [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]
NO_TIMES = "needs the times of ratings, and the data have none; set it to one that needs none, such as random"


@pytest.mark.parametrize(
    ("split", "ratings", "message"),
    [
        (
            chosen("per_user", test_size=0.1, validation_size=0.1),
            FEW,
            "split.test_size: 0.1 with split.method: per_user leaves validation and test empty",
        ),
        (
            chosen("per_user", test_size=0.5, validation_size=0.1),
            FEW,
            "split.validation_size: 0.1 with split.method: per_user leaves validation empty",
        ),
        (
            chosen("leave_last", n=2, validation_size=0.1),
            [(0, 1), (1, 5)],
            "split.n: 2 with split.method: leave_last leaves train and validation empty",
        ),
        (
            chosen("temporal", test_size=0.9),
            [(0, -7), (0, 5)],
            "split.test_size: 0.9 with split.method: temporal leaves train empty",
        ),
        (chosen("hash", test_size=0.9), FEW, "split.test_size: 0.9 with split.method: hash leaves train empty"),
        (chosen("temporal"), [], "split.test_size: 0.2 with split.method: temporal leaves train and test empty"),
    ],
)
def test_a_part_without_ratings_is_refused(split: Split, ratings: list[Rating], message: str) -> None:
    with pytest.raises(UserError) as raised:
        METHODS[split.method](table(ratings), split)
    assert str(raised.value) == f"{message}; choose another value or method"


@pytest.mark.parametrize(("ratings", "users"), [([], 0), ([(0, 1), (0, 2)], 1)])
def test_too_few_users_to_hold_out_some_are_refused(ratings: list[Rating], users: int) -> None:
    with pytest.raises(UserError) as raised:
        METHODS["user_fold"](table(ratings), chosen("user_fold"))
    problem = f"0.2 of {users} users leaves one of the parts empty; choose another share"
    assert str(raised.value) == f"split.test_size: {problem}"


@pytest.mark.parametrize("method", ["leave_last", "temporal"])
def test_a_division_by_time_needs_times(method: str) -> None:
    ratings = table(FEW)
    timeless = ratings.set_column(3, "timestamp", pa.nulls(len(FEW), pa.int64()))
    with pytest.raises(UserError) as raised:
        METHODS[method](timeless, chosen(method))
    assert str(raised.value) == f"split.method: {method} {NO_TIMES}"


@pytest.mark.usefixtures("workspace", "no_arguments")
@pytest.mark.parametrize("method", METHODS)
def test_the_stage_writes_the_same_bytes_twice_and_no_file_of_another_method(workspace: Path, method: str) -> None:
    put(workspace, *shuffled())
    set_params(workspace, split__method="user_fold")
    stage.main()
    written = []
    set_params(workspace, split__method=method, split__validation_size=0.1)
    for _ in range(2):
        stage.main()
        written.append({path.name: sha256(path) for path in [*PROCESSED.iterdir(), Path("metrics/split.json")]})
    assert written[0] == written[1]
    assert GIVEN.exists() == (method == "user_fold")
    sizes = {path.stem: len(read_table(path)) for path in (*PARTS.values(), GIVEN) if path.exists()}
    described = read_json(Path("metrics/split.json"))
    assert {name: described[f"{name}_ratings"] for name in sizes} == sizes
