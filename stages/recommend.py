"""Recommend movies to every user, to one user, or to a new person who likes some movies."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from stages.lib.errors import UserError, run
from stages.lib.factors import Factors
from stages.lib.fold_in import fold_in
from stages.lib.heldout import check_k
from stages.lib.params import Train, load_params
from stages.lib.ratings import MOVIES, TEST, TRAIN, USERS, VALIDATION, Ratings
from stages.lib.storage import read_table, write_table
from stages.lib.titles import find_movie

RECOMMENDATIONS = Path("data/recommendations.parquet")
FAVOURITES = 5  # best-rated movies shown of a user


def main() -> None:
    """Write the recommendations for every user or, with ``--user`` or ``--likes``, print those of one person."""
    parser = argparse.ArgumentParser(prog="python -m stages.recommend", description=__doc__)
    person = parser.add_mutually_exclusive_group()
    person.add_argument("--user", type=int, metavar="ID", help="show this user and write nothing")
    person.add_argument(
        "--likes", nargs="+", metavar="TITLE", help="show what a new person who likes these gets, and write nothing"
    )
    parser.add_argument("--k", type=int, help="how many movies; recommend.k of params.yaml where not given")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    everybody = arguments.user is None and arguments.likes is None
    if everybody and (arguments.json or arguments.k is not None):
        parser.error("--k and --json show one person: give --user ID or --likes TITLE too")
    library = Library.read()
    params = load_params()
    k = params.recommend.k if arguments.k is None else arguments.k
    if k < 1:
        raise UserError(f"--k: must be at least 1; found {k}")
    check_k("params.yaml: recommend.k" if arguments.k is None else "--k", k, len(library.movies))
    if everybody:
        write_table(RECOMMENDATIONS, library.recommend_all(k))
        return
    if arguments.likes is None:
        shown = library.show(arguments.user, k)
    else:
        shown = library.show_new([library.find(title) for title in arguments.likes], k, params.train)
    print(json.dumps(shown, ensure_ascii=False, indent=2) if arguments.json else as_text(shown))


@dataclass(frozen=True)
class Library:
    """The trained factors with all ratings and the names of users and movies.

    Attributes:
        factors: the model.
        rated: users x movies, every rating of all parts: what a user has rated is not recommended.
        user_ids: (users,) int32.
        movies: movie_id, title, genres of each movie index.
    """

    factors: Factors
    rated: sp.csr_array
    user_ids: NDArray[np.int32]
    movies: pa.Table

    @classmethod
    def read(cls) -> Self:
        """Read what split and train wrote.

        Raises:
            UserError: a file is missing or damaged.
        """
        rated = Ratings.read(TRAIN, VALIDATION, TEST).matrix()
        user_ids = read_table(USERS, ["user_id"])["user_id"].to_numpy()
        factors = Factors.load()
        factors.check_shape(rated.shape)
        return cls(factors, rated, user_ids, read_table(MOVIES, ["movie_id", "title", "genres"]))

    def recommend_all(self, k: int) -> pa.Table:
        """List k movies for every user.

        Args:
            k: how many; a user who has rated nearly all movies gets fewer.

        Returns:
            user_id, rank (from 1), movie_id (int32), score (float32), title, genres; by user index and rank.
        """
        movies, scores = self.factors.top_k(np.arange(len(self.user_ids), dtype=np.int32), self.rated, k)
        user, position = np.nonzero(movies >= 0)
        chosen = self.movies.take(pa.array(movies[user, position]))
        return pa.table(
            {
                "user_id": self.user_ids[user],
                "rank": (position + 1).astype(np.int32),
                "movie_id": chosen["movie_id"],
                "score": scores[user, position].astype(np.float32),
                "title": chosen["title"],
                "genres": chosen["genres"],
            }
        )

    def show(self, user_id: int, k: int) -> dict[str, Any]:
        """Give one user's best-rated movies and recommendations.

        Args:
            user_id: the user's id in the data set.
            k: how many recommendations.

        Returns:
            ``user_id``; ``favourites``, best first, with title, genres and rating; ``recommendations`` in rank order,
            with rank, movie_id, title, genres and score.

        Raises:
            UserError: there is no such user.
        """
        user = next((index for index, known in enumerate(self.user_ids.tolist()) if known == user_id), None)
        if user is None:
            low, high = self.user_ids.min(), self.user_ids.max()
            raise UserError(f"--user: there is no user {user_id}; ids are {low} to {high}")
        row = self.rated[[user]]
        best = np.lexsort((row.indices, -row.data))[:FAVOURITES]
        return {
            "user_id": user_id,
            "favourites": [{**self._movie(int(row.indices[i])), "rating": float(row.data[i])} for i in best],
            "recommendations": self._ranked(self.factors, user, self.rated, k),
        }

    def find(self, title: str) -> int:
        """Give the index of a movie by its title.

        Raises:
            UserError: there is none; with those that are meant perhaps.
        """
        ratings = np.bincount(self.rated.indices, minlength=len(self.movies)).tolist()
        return find_movie(title, self.movies["title"].to_pylist(), ratings, "--likes")

    def new_person(self, liked: list[int], train: Train) -> tuple[Factors, sp.csr_array]:
        """Fold in somebody who gives the best rating that anybody has given to some movies, and has seen no other.

        Args:
            liked: movie indices.
            train: what the model was trained with.

        Returns:
            Factors with this person as the only user; the ratings, 1 x movies.

        Raises:
            UserError: the model cannot take in new people, or is not what the parameters say.
        """
        movies = np.unique(np.array(liked, dtype=np.int32))
        best = np.full(len(movies), self.rated.data.max(), dtype=np.float32)
        ratings = sp.csr_array((best, movies, np.array([0, len(movies)])), shape=(1, len(self.movies)))
        learned_from = (TRAIN, VALIDATION) if train.final_fit else (TRAIN,)
        return fold_in(self.factors, ratings, train, len(Ratings.read(*learned_from).values)), ratings

    def show_new(self, liked: list[int], k: int, train: Train) -> dict[str, Any]:
        """Give the recommendations for a new person: see `new_person`.

        Args:
            liked: movie indices.
            k: how many recommendations.
            train: what the model was trained with.

        Returns:
            ``likes``, as given, with movie_id, title and genres; ``recommendations`` as in `show`.

        Raises:
            UserError: as `new_person`.
        """
        factors, ratings = self.new_person(liked, train)
        return {
            "likes": [self._movie(movie) for movie in dict.fromkeys(liked)],
            "recommendations": self._ranked(factors, 0, ratings, k),
        }

    def _ranked(self, factors: Factors, user: int, seen: sp.csr_array, k: int) -> list[dict[str, Any]]:
        """List the best k movies of a user that are not among those seen."""
        movies, scores = factors.top_k(np.array([user], dtype=np.int32), seen, k)
        ranked = zip(movies[0].tolist(), scores[0].tolist(), strict=True)
        return [
            {"rank": rank, **self._movie(movie), "score": round(score, 6)}
            for rank, (movie, score) in enumerate(ranked, start=1)
            if movie >= 0
        ]

    def _movie(self, index: int) -> dict[str, Any]:
        movie: dict[str, Any] = self.movies.slice(index, 1).to_pylist()[0]
        return movie


def as_text(shown: dict[str, Any]) -> str:
    """Lay out what `Library.show` or `Library.show_new` gives for a terminal."""
    if "likes" in shown:
        lines = ["A new person who likes"]
        lines += [f"         {movie['title']} : {movie['genres']}" for movie in shown["likes"]]
    else:
        lines = [f"User {shown['user_id']}", "", "Best-rated movies"]
        lines += [f"  {movie['rating']:>5g}  {movie['title']} : {movie['genres']}" for movie in shown["favourites"]]
    lines += ["", f"Top {len(shown['recommendations'])} recommendations (rank, score)"]
    lines += [
        f"  {movie['rank']:>3}  {movie['score']:.4f}  {movie['title']} : {movie['genres']}"
        for movie in shown["recommendations"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
