"""The trained model with the ratings and the names: what the recommend stage and the app share."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from recommender.data.interactions import Interactions, read_matrix
from recommender.errors import UserError, one_line
from recommender.paths import GIVEN, ITEMS, PARTS, TEST, TRAIN, USERS, VALIDATION
from recommender.ranking import fold_in
from recommender.ranking.explanation import KINDS, Explanation, by_nearest, by_shares, parts_of
from recommender.ranking.factors import Factors
from recommender.ranking.learned import Learned
from recommender.ranking.titles import YEAR, find_item
from recommender.ranking.topk import Items, Lists
from recommender.ranking.user_kernel import UserKernel
from recommender.storage import read_table

SCORES: Final = {
    "ratings": "predicted rating, which may exceed the scale",
    "order": "score, which orders items and is no rating",
    "popularity": "number of ratings: the model has learned none of this user's",
}
FAVOURITES: Final = 5  # best-rated items shown of a user, and rated items that explain a recommendation


@dataclass(frozen=True)
class Person:
    """Somebody to recommend to: the only user of `factors` and of `learned`."""

    factors: Factors
    rated: sp.csr_array  # 1 x items, the ratings of this user: not recommended
    known: sp.csr_array  # 1 x items, those that the vector was learned or folded in from
    folded: bool  # whether it was folded in
    learned: Learned

    @property
    def scores(self) -> str:
        """What the scores of this user's list are, of `SCORES`."""
        return self.factors.scores if self.learned.users[0] else "popularity"

    def best(self, k: int, wanted: NDArray[np.bool_]) -> Lists:
        """Return the k unrated items of highest score that are among the (num_items,) wanted, or fewer: (n,) each."""
        # The whole list first: what is not wanted must not change the scores of what is.
        whole = self.learned.lists(self.factors.top_k, np.zeros(1, dtype=np.int32), self.rated, len(wanted))
        items, scores = whole[0][0], whole[1][0]
        kept = np.flatnonzero((items >= 0) & wanted[items])[:k]
        return items[kept], scores[kept]


@dataclass(frozen=True)
class Recommender:
    """The trained factors with all ratings and the names of users and items."""

    factors: Factors
    rated: sp.csr_array  # users x items, every rating of all parts: what a user has rated is not recommended
    known: sp.csr_array  # users x items, the ratings that the model has learned or folded in
    folded: NDArray[np.bool_]  # (num_users,) who was folded in
    user_ids: NDArray[Any]  # (num_users,) the id of each user index, a whole number or text
    items: pa.Table  # item_id, title, categories of each item index
    learned: Learned

    @classmethod
    def read(cls, learned_from: Sequence[str] = ("train",)) -> Self:
        """Read what split and train wrote; the model has learned from these parts."""
        rated = read_matrix(TRAIN, VALIDATION, TEST, GIVEN)
        known, given = read_matrix(*(PARTS[name] for name in learned_from), GIVEN), Interactions.read(GIVEN)
        ratings, ratings_given = np.diff(known.indptr), np.bincount(given.users, minlength=given.num_users)
        folded = (ratings > 0) & (ratings == ratings_given)
        counts = np.bincount(known.indices, minlength=given.num_items)
        learned = Learned(counts - given.of(folded[given.users]).item_counts(), ratings > 0)
        user_ids = read_table(USERS, ["user_id"])["user_id"].to_numpy()
        factors = Factors.load()
        factors.check_shape(rated.shape)
        items = read_table(ITEMS, ["item_id", "title", "categories"])
        return cls(factors, rated, known, folded, user_ids, items, learned)

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """The number of ratings of each item: (num_items,) int64."""
        return np.bincount(self.rated.indices, minlength=len(self.items))

    def recommend_all(self, k: int, wanted: NDArray[np.bool_]) -> pa.Table:
        """List k items for each user wanted, by index and rank; a user who has rated nearly all items gets fewer.

        `wanted` are (num_users,).
        """
        users = np.flatnonzero(wanted).astype(np.int32)
        items, scores = self.learned.lists(self.factors.top_k, users, self.rated, k)
        row, position = np.nonzero(items >= 0)
        user, chosen = users[row], self.items.take(pa.array(items[row, position]))
        rank, score = (position + 1).astype(np.int32), scores[row, position].astype(np.float32)
        columns = {"user_id": self.user_ids[user], "rank": rank, "item_id": chosen["item_id"], "score": score}
        return pa.table(columns | {name: chosen[name] for name in ("title", "categories")})

    @cached_property
    def titles(self) -> list[str]:
        """The title of each item."""
        titles: list[str] = self.items["title"].to_pylist()
        return titles

    @cached_property
    def categories(self) -> list[list[str]]:
        """The categories of each item."""
        return [list(filter(None, each.split("|"))) for each in self.items["categories"].to_pylist()]

    @cached_property
    def years(self) -> NDArray[np.int64]:
        """The year that each title ends with: (num_items,) int64, 0 where there is none."""
        return np.array([int(year[1]) if (year := YEAR.search(title)) else 0 for title in self.titles])

    def find(self, title: str, option: str = "--likes") -> int:
        """Return the index of an item by its title; `option` is named where there is none."""
        return find_item(title, self.titles, self.item_counts.tolist(), option)

    def wanted(
        self, categories: Sequence[str] = (), years: tuple[int, int] | None = None, excluded: Sequence[int] = ()
    ) -> NDArray[np.bool_]:
        """Return which items have one of the categories and a year from the first to the last: (num_items,).

        Where no categories or no years are asked for, items without any are kept too. Excluded items never are.
        """
        kept = np.ones(len(self.items), dtype=bool)
        if categories:
            kept &= np.array([not set(categories).isdisjoint(own) for own in self.categories])
        if years:
            kept &= (self.years >= years[0]) & (self.years <= years[1])
        kept[np.array(excluded, dtype=np.int64)] = False
        return kept

    def wanted_by_name(self, categories: Sequence[str], excluded: Sequence[str], year: str | None) -> NDArray[np.bool_]:
        """Return what `wanted` does for --category (in any case), --exclude (ids or titles) and --from-year."""
        names = {name.casefold(): name for name in sorted(set(chain.from_iterable(self.categories)))}
        for name in categories:
            if name.casefold() not in names:
                known = f"choose of {', '.join(names.values())}" if names else "the items have none: leave it out"
                raise UserError(f"--category: there is no category {name!r:.80}; {known:.400}")
        ids = {str(each): item for item, each in enumerate(self.items["item_id"].to_pylist())}
        items = [ids[each] if each in ids else self.find(each, "--exclude") for each in excluded]
        years, latest = None, int(self.years.max())
        if year is not None:
            if not latest:
                raise UserError(f"--from-year: no title ends with a year: leave it out; found {year!r:.80}")
            if not (re.fullmatch("[1-9][0-9]{0,3}", year) and int(year) <= latest):
                known = f"must be a year up to {latest}, the latest that a title ends with"
                raise UserError(f"--from-year: {known}; found {year!r:.80}")
            years = int(year), latest
        return self.wanted([names[name.casefold()] for name in categories], years, items)

    def user(self, user: int) -> Person:
        """Return the user of this index."""
        vector, bias = self.factors.user_factors[[user]], self.factors.user_bias[[user]]
        factors = dataclasses.replace(self.factors, user_factors=vector, user_bias=bias)
        learned = dataclasses.replace(self.learned, users=self.learned.users[[user]])
        return Person(factors, self.rated[[user]], self.known[[user]], bool(self.folded[user]), learned)

    def new_user(self, liked: Sequence[int]) -> Person:
        """Return a new user, who rates some item indices with the best rating in the data."""
        items = np.unique(np.array(liked, dtype=np.int32))
        best = np.full(len(items), self.rated.data.max(), dtype=np.float32)
        ratings = sp.csr_array((best, items, np.array([0, len(items)])), shape=(1, len(self.items)))
        learned = dataclasses.replace(self.learned, users=np.ones(1, dtype=bool))
        return Person(fold_in.fold_in(self.factors, self._fold_in, ratings), ratings, ratings, True, learned)

    def explain(self, person: Person, items: Items, scores: NDArray[np.float64]) -> list[Explanation]:
        """Return why each of (n,) items has its score for somebody: see `recommender.ranking.explanation`.

        Shares are those of a vector that was folded in. `kernel` makes the vectors of users trained on in the same
        way, but for `Explanation.rest`; in any other model gradients made them, of the ratings of all users.
        """
        if person.scores == "popularity":
            return [Explanation("none")] * len(items)
        parts = None
        if person.folded or type(self._fold_in) is UserKernel:
            parts = parts_of(self.factors, self._fold_in, person.known)
        return [
            by_shares(self.factors, parts, person.known, item, score)
            if parts
            else by_nearest(self.factors, self.item_counts, person.known, item)
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
        ]

    @cached_property
    def _fold_in(self) -> fold_in.FoldIn:
        return fold_in.load()

    def _known_ids(self, user_id: str) -> str:
        """Return what ids of users are, for somebody who gave another one."""
        if self.user_ids.dtype.kind in "iu":
            return f"{self.user_ids.min()} to {self.user_ids.max()}"
        return f"text, the closest {process.extractOne(user_id, self.user_ids.tolist(), scorer=fuzz.ratio)[0]!r}"

    def show_user(
        self, user_id: str, k: int, wanted: NDArray[np.bool_] | None = None, *, explain: bool = False
    ) -> dict[str, Any]:
        """Return a user's best-rated items and k recommendations, as `as_text` prints them.

        With `explain` each has the rated items behind it. `wanted` are (num_items,), all where not given.
        """
        found = np.flatnonzero(self.user_ids.astype(str) == user_id)
        if not len(found):
            raise UserError(f"--user: there is no user {user_id:.80}; ids are {self._known_ids(user_id):.160}")
        person = self.user(int(found[0]))
        ratings = person.rated
        best = np.lexsort((ratings.indices, -ratings.data))[:FAVOURITES]
        return {
            "user_id": self.user_ids[found].tolist()[0],
            "favourites": [{**self._item(int(ratings.indices[i])), "rating": float(ratings.data[i])} for i in best],
            **self._recommended(person, k, wanted, explain),
        }

    def show_new_user(
        self, liked: Sequence[int], k: int, wanted: NDArray[np.bool_] | None = None, *, explain: bool = False
    ) -> dict[str, Any]:
        """Return k recommendations for a new user who likes some item indices: see `new_user` and `show_user`."""
        likes = [self._item(item) for item in dict.fromkeys(liked)]
        return {"likes": likes, **self._recommended(self.new_user(liked), k, wanted, explain)}

    def _recommended(self, person: Person, k: int, wanted: NDArray[np.bool_] | None, explain: bool) -> dict[str, Any]:
        items, scores = person.best(k, self.wanted() if wanted is None else wanted)
        ranked: list[dict[str, Any]] = [
            {"rank": rank, **self._item(item), "score": round(score, 6)}
            for rank, (item, score) in enumerate(zip(items.tolist(), scores.tolist(), strict=True), start=1)
        ]
        if explain:
            for item, explanation in zip(ranked, self.explain(person, items, scores), strict=True):
                item["why"] = self._why(explanation)
        return {"scores": person.scores, "recommendations": ranked}

    def _why(self, explanation: Explanation) -> dict[str, Any]:
        """Return all shares, or the nearest few."""
        shares = explanation.kind == "shares"
        name, count = ("share", None) if shares else ("cosine", FAVOURITES)
        rows = zip(explanation.items.tolist(), explanation.ratings.tolist(), explanation.values.tolist(), strict=True)
        rated = [{**self._item(item), "rating": rating, name: round(value, 6)} for item, rating, value in rows][:count]
        parts = {"base": round(explanation.base, 6), "rest": round(explanation.rest, 6)} if shares else {}
        return {"kind": explanation.kind, **parts, "rated": rated}

    def _item(self, index: int) -> dict[str, Any]:
        return dict(self.items.slice(index, 1).to_pylist()[0])


def as_text(shown: dict[str, Any]) -> str:
    """Lay out for a terminal what `Recommender.show_user` or `show_new_user` returns."""

    def line(start: str, item: dict[str, Any]) -> str:
        return f"  {start}  {one_line(' : '.join(filter(None, (item['title'], item['categories']))))}"

    def why(kind: str, rated: list[dict[str, Any]], base: float = 0.0, rest: float = 0.0) -> list[str]:
        if kind != "shares":
            return [line(f"{item['cosine']:>14.4f}  {item['rating']:g}", item) for item in rated]
        named, others = rated[:FAVOURITES], rated[FAVOURITES:]
        lines = [line(f"{item['share']:>+14.4f}  {item['rating']:g}", item) for item in named]
        sums = [(sum(item["share"] for item in others), f"{len(others)} more")] if others else []
        sums += [(base, "without ratings")] + ([(rest, "approximation")] if round(rest, 4) else [])
        return lines + [f"  {value:>+14.4f}     {name}" for value, name in sums]

    if "likes" in shown:
        lines = ["A new user who likes", *(line("     ", item) for item in shown["likes"])]
    else:
        lines = [f"User {one_line(str(shown['user_id']))}", "", "Best-rated items"]
        lines += [line(f"{item['rating']:>5g}", item) for item in shown["favourites"]]
    recommended = shown["recommendations"]
    lines += ["", f"Top {len(recommended)} recommendations (rank, {SCORES[shown['scores']]})"]
    if recommended and "why" in recommended[0]:
        lines.append(f"Below each: {KINDS[recommended[0]['why']['kind']]}")
    for item in recommended:
        lines.append(line(f"{item['rank']:>3}  {item['score']:.4f}", item))
        lines += why(**item["why"]) if "why" in item else []
    return "\n".join(lines)
