"""The trained model with the ratings and the names: what the recommend stage and the app share."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from recommender.data.interactions import Interactions
from recommender.errors import UserError, one_line
from recommender.paths import GIVEN, ITEMS, TEST, TRAIN, USERS, VALIDATION
from recommender.ranking import fold_in
from recommender.ranking.factors import Factors
from recommender.ranking.learned import Learned
from recommender.ranking.titles import find_item
from recommender.ranking.topk import Lists
from recommender.storage import read_table

SCORES: Final = {
    "ratings": "predicted rating, which may exceed the scale",
    "order": "score, which orders items and is no rating",
    "popularity": "number of ratings: the model has learned none of this user's",
}
FAVOURITES: Final = 5  # best-rated items shown of a user


@dataclass(frozen=True)
class Person:
    """Somebody to recommend to: the only user of `factors` and of `learned`."""

    factors: Factors
    rated: sp.csr_array  # 1 x items, the ratings of this user: not recommended
    learned: Learned

    @property
    def scores(self) -> str:
        """What the scores of this user's list are, of `SCORES`."""
        return self.factors.scores if self.learned.users[0] else "popularity"

    def top_k(self, k: int) -> Lists:
        """List k items, 1 x k."""
        return self.learned.lists(self.factors.top_k, np.zeros(1, dtype=np.int32), self.rated, k)


@dataclass(frozen=True)
class Recommender:
    """The trained factors with all ratings and the names of users and items."""

    factors: Factors
    rated: sp.csr_array  # users x items, every rating of all parts: what a user has rated is not recommended
    user_ids: NDArray[Any]  # (num_users,) the id of each user index, a whole number or text
    items: pa.Table  # item_id, title, categories of each item index
    learned: Learned

    @classmethod
    def read(cls, learned_from: Sequence[str] = ("train",)) -> Self:
        """Read what split and train wrote; the model has learned from these parts."""
        rated = Interactions.read(TRAIN, VALIDATION, TEST, GIVEN).matrix()
        learned = Learned.of(*Interactions.read_learned(learned_from))
        user_ids = read_table(USERS, ["user_id"])["user_id"].to_numpy()
        factors = Factors.load()
        factors.check_shape(rated.shape)
        return cls(factors, rated, user_ids, read_table(ITEMS, ["item_id", "title", "categories"]), learned)

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """The number of ratings of each item: (num_items,) int64."""
        return np.bincount(self.rated.indices, minlength=len(self.items))

    def recommend_all(self, k: int) -> pa.Table:
        """List k items for every user, by user index and rank; a user who has rated nearly all items gets fewer."""
        everybody = np.arange(len(self.user_ids), dtype=np.int32)
        items, scores = self.learned.lists(self.factors.top_k, everybody, self.rated, k)
        user, position = np.nonzero(items >= 0)
        chosen = self.items.take(pa.array(items[user, position]))
        rank, score = (position + 1).astype(np.int32), scores[user, position].astype(np.float32)
        columns = {"user_id": self.user_ids[user], "rank": rank, "item_id": chosen["item_id"], "score": score}
        return pa.table(columns | {name: chosen[name] for name in ("title", "categories")})

    def find(self, title: str) -> int:
        """Return the index of an item by its title."""
        return find_item(title, self.items["title"].to_pylist(), self.item_counts.tolist(), "--likes")

    def user(self, user: int) -> Person:
        """Return the user of this index."""
        vector, bias = self.factors.user_factors[[user]], self.factors.user_bias[[user]]
        factors = dataclasses.replace(self.factors, user_factors=vector, user_bias=bias)
        learned = dataclasses.replace(self.learned, users=self.learned.users[[user]])
        return Person(factors, self.rated[[user]], learned)

    def new_user(self, liked: Sequence[int]) -> Person:
        """Return a new user, who rates some item indices with the best rating in the data."""
        items = np.unique(np.array(liked, dtype=np.int32))
        best = np.full(len(items), self.rated.data.max(), dtype=np.float32)
        ratings = sp.csr_array((best, items, np.array([0, len(items)])), shape=(1, len(self.items)))
        learned = dataclasses.replace(self.learned, users=np.ones(1, dtype=bool))
        return Person(fold_in.fold_in(self.factors, self._fold_in, ratings), ratings, learned)

    @cached_property
    def _fold_in(self) -> fold_in.FoldIn:
        return fold_in.load()

    def _known_ids(self, user_id: str) -> str:
        """Return what ids of users are, for somebody who gave another one."""
        if self.user_ids.dtype.kind in "iu":
            return f"{self.user_ids.min()} to {self.user_ids.max()}"
        return f"text, the closest {process.extractOne(user_id, self.user_ids.tolist(), scorer=fuzz.ratio)[0]!r}"

    def show_user(self, user_id: str, k: int) -> dict[str, Any]:
        """Return a user's best-rated items and k recommendations, as `as_text` prints them."""
        found = np.flatnonzero(self.user_ids.astype(str) == user_id)
        if not len(found):
            raise UserError(f"--user: there is no user {user_id:.80}; ids are {self._known_ids(user_id):.160}")
        person = self.user(int(found[0]))
        ratings = person.rated
        best = np.lexsort((ratings.indices, -ratings.data))[:FAVOURITES]
        return {
            "user_id": self.user_ids[found].tolist()[0],
            "favourites": [{**self._item(int(ratings.indices[i])), "rating": float(ratings.data[i])} for i in best],
            "scores": person.scores,
            "recommendations": self._ranked(person, k),
        }

    def show_new_user(self, liked: Sequence[int], k: int) -> dict[str, Any]:
        """Return k recommendations for a new user who likes some item indices: see `new_user`."""
        return {
            "likes": [self._item(item) for item in dict.fromkeys(liked)],
            "scores": self.factors.scores,
            "recommendations": self._ranked(self.new_user(liked), k),
        }

    def _ranked(self, person: Person, k: int) -> list[dict[str, Any]]:
        items, scores = (part[0].tolist() for part in person.top_k(k))
        return [
            {"rank": rank, **self._item(item), "score": round(score, 6)}
            for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1)
            if item >= 0
        ]

    def _item(self, index: int) -> dict[str, Any]:
        return dict(self.items.slice(index, 1).to_pylist()[0])


def as_text(shown: dict[str, Any]) -> str:
    """Lay out for a terminal what `Recommender.show_user` or `show_new_user` returns."""

    def line(start: str, item: dict[str, Any]) -> str:
        return f"  {start}  {one_line(' : '.join(filter(None, (item['title'], item['categories']))))}"

    if "likes" in shown:
        lines = ["A new user who likes", *(line("     ", item) for item in shown["likes"])]
    else:
        lines = [f"User {one_line(str(shown['user_id']))}", "", "Best-rated items"]
        lines += [line(f"{item['rating']:>5g}", item) for item in shown["favourites"]]
    lines += ["", f"Top {len(shown['recommendations'])} recommendations (rank, {SCORES[shown['scores']]})"]
    lines += [line(f"{item['rank']:>3}  {item['score']:.4f}", item) for item in shown["recommendations"]]
    return "\n".join(lines)
