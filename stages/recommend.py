"""Recommend movies to every user, or show one user's favourites and recommendations."""

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
from stages.lib.heldout import check_k
from stages.lib.params import load_params
from stages.lib.ratings import MOVIES, TEST, TRAIN, USERS, VALIDATION, Ratings
from stages.lib.storage import read_table, write_table

RECOMMENDATIONS = Path("data/recommendations.parquet")
FAVOURITES = 5  # best-rated movies shown of a user


def main() -> None:
    """Write the recommendations for every user or, with ``--user``, print those of one."""
    parser = argparse.ArgumentParser(prog="python -m stages.recommend", description=__doc__)
    parser.add_argument("--user", type=int, metavar="ID", help="show this user and write nothing")
    parser.add_argument("--k", type=int, help="how many movies; recommend.k of params.yaml where not given")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.user is None and (arguments.json or arguments.k is not None):
        parser.error("--k and --json show one user: give --user ID too")
    library = Library.read()
    k = load_params().recommend.k if arguments.k is None else arguments.k
    if k < 1:
        raise UserError(f"--k: must be at least 1; found {k}")
    check_k("params.yaml: recommend.k" if arguments.k is None else "--k", k, len(library.movies))
    if arguments.user is None:
        write_table(RECOMMENDATIONS, library.recommend_all(k))
    else:
        shown = library.show(arguments.user, k)
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
        movies, scores = self.factors.top_k(np.array([user], dtype=np.int32), self.rated, k)
        ranked = [
            (movie, score) for movie, score in zip(movies[0].tolist(), scores[0].tolist(), strict=True) if movie >= 0
        ]
        return {
            "user_id": user_id,
            "favourites": [{**self._movie(int(row.indices[i])), "rating": float(row.data[i])} for i in best],
            "recommendations": [
                {"rank": rank, **self._movie(movie), "score": round(score, 6)}
                for rank, (movie, score) in enumerate(ranked, start=1)
            ],
        }

    def _movie(self, index: int) -> dict[str, Any]:
        movie: dict[str, Any] = self.movies.slice(index, 1).to_pylist()[0]
        return movie


def as_text(shown: dict[str, Any]) -> str:
    """Lay out what `Library.show` gives for a terminal."""
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
