"""The page that `make explore` shows. Streamlit runs this file from its top whenever somebody changes a widget."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Self

import jinja2
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from stages.lib import factors as factors_file
from stages.lib.errors import UserError
from stages.lib.factors import Factors
from stages.lib.params import PATH as PARAMS
from stages.lib.params import Params, load_params
from stages.lib.ratings import MOVIES, TEST, TRAIN, USERS, VALIDATION
from stages.lib.similar import cosines
from stages.lib.titles import YEAR, search
from stages.recommend import Library

READ: Final = (factors_file.PATH, TRAIN, VALIDATION, TEST, USERS, MOVIES, PARAMS)

# Colours are mixed from that of the text, so that they follow the theme. Streamlit's own tables are drawn on a canvas,
# where titles are cut on a phone and screen readers find nothing.
STYLE: Final = """<style>
ol.movies { list-style: none; margin: 0 !important; padding: 0; }
ol.movies li { display: flex; align-items: baseline; gap: 0.75rem; margin: 0 !important; padding: 0.55rem 0.25rem;
  border-top: 1px solid color-mix(in srgb, currentColor 14%, transparent); }
ol.movies li:first-child { border-top: 0; }
.movies .rank { flex: 0 0 1.4rem; text-align: right; opacity: 0.6; font-variant-numeric: tabular-nums; }
.movies .movie { flex: 1 1 auto; min-width: 0; overflow-wrap: anywhere; line-height: 1.35; }
.movies .genres { display: block; font-size: 0.82rem; opacity: 0.68; }
.movies .value { flex: 0 0 auto; padding: 0.05rem 0.5rem; border-radius: 0.6rem; font-variant-numeric: tabular-nums;
  font-size: 0.9rem; background: color-mix(in srgb, currentColor 9%, transparent); }
.stMultiSelect [data-tag] { height: auto !important; }
.stMultiSelect [data-tag] > span { white-space: normal !important; overflow-wrap: anywhere; padding: 0.15rem 0; }
.movies-note { opacity: 0.68; margin: 0; padding: 0.55rem 0.25rem; }
</style>"""
LIST: Final = jinja2.Environment(autoescape=True).from_string("""
{%- if rows %}
<ol class="movies" data-list="{{ name }}">
{%- for row in rows %}
<li>{% if row.rank %}<span class="rank">{{ row.rank }}</span>{% endif %}<span class="movie">{{ row.title }}
<span class="genres">{{ row.genres }}</span></span><span class="value">{{ row.value }}</span></li>
{%- endfor %}
</ol>
{%- else %}
<p class="movies-note" data-list="{{ name }}">No movie is left.</p>
{%- endif %}""")


@dataclass(frozen=True)
class Catalogue:
    """What is shown of movies.

    Attributes:
        library: the model, the ratings and the names.
        titles: of each movie index.
        genres: of each movie index.
        years: (movies,) int64; 0 where the title has none.
        ratings: (movies,) int64, how many there are.
        params: the parameters.
    """

    library: Library
    titles: list[str]
    genres: list[tuple[str, ...]]
    years: NDArray[np.int64]
    ratings: NDArray[np.int64]
    params: Params

    @classmethod
    def read(cls) -> Self:
        """Read what the pipeline has made.

        Raises:
            UserError: a file is missing or damaged.
        """
        library = Library.read()
        titles = library.movies["title"].to_pylist()
        found = [YEAR.search(title) for title in titles]
        return cls(
            library,
            titles,
            [tuple(genres.split("|")) for genres in library.movies["genres"].to_pylist()],
            np.array([int(year[1]) if year else 0 for year in found]),
            np.bincount(library.rated.indices, minlength=len(titles)),
            load_params(),
        )

    def row(self, movie: int, value: str, rank: int | None = None) -> dict[str, Any]:
        """Give a line of a list."""
        return {"rank": rank, "title": self.titles[movie], "genres": " · ".join(self.genres[movie]), "value": value}


@dataclass(frozen=True)
class Shown:
    """What the sidebar asks for.

    Attributes:
        movies: (movies,) bool, which to list.
        length: of lists.
    """

    movies: NDArray[np.bool_]
    length: int


def main() -> None:
    """Lay out the page."""
    st.set_page_config("Explore the recommender", layout="wide")
    st.html(STYLE)
    st.title("Explore the recommender", anchor=False)
    try:
        catalogue = read(tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in READ))
    except UserError as error:
        st.error(str(error))
        return
    shown = sidebar(catalogue)
    pages = {"A user": show_user, "A new person": show_new_person, "Movies": show_movies}
    for tab, page in zip(st.tabs(list(pages)), pages.values(), strict=True):
        with tab:
            try:
                page(catalogue, shown)
            except UserError as error:
                st.error(str(error))


@st.cache_resource(max_entries=1, show_spinner="Reading the model")
def read(times: tuple[int, ...]) -> Catalogue:
    """Read what the pipeline has made, again when it has made something else.

    Args:
        times: of the files' last changes.
    """
    del times
    return Catalogue.read()


def sidebar(catalogue: Catalogue) -> Shown:
    """Let the user choose which movies are listed."""
    users, movies = catalogue.library.rated.shape
    train = catalogue.params.train
    kind = "ranking" if train.loss == "softmax" else "rating"
    size = catalogue.library.factors.movies.shape[1]
    with st.sidebar:
        st.header("Filter", anchor=False)
        genres = st.multiselect("Genres", sorted(set().union(*catalogue.genres)), placeholder="All", wrap=True)
        known = catalogue.years[catalogue.years > 0]
        kept = np.ones(movies, dtype=bool)
        if len(known) and known.min() < known.max():
            whole = int(known.min()), int(known.max())
            first, last = st.slider("Years", *whole, whole)
            if (first, last) != whole:
                kept &= (catalogue.years >= first) & (catalogue.years <= last)
        if genres:
            kept &= np.array([not set(genres).isdisjoint(listed) for listed in catalogue.genres])
        longest = min(50, movies)
        length = st.slider("Movies in a list", 1, longest, min(catalogue.params.recommend.k, longest))
        st.caption(
            f"{catalogue.library.rated.nnz:,} ratings of {movies:,} movies by {users:,} users "
            f"({catalogue.params.data.dataset}). A {kind} model with {size} numbers in a vector."
        )
    return Shown(kept, length)


def show_user(catalogue: Catalogue, shown: Shown) -> None:
    """Show what a user has rated, and what is recommended."""
    library = catalogue.library
    counts = np.diff(library.rated.indptr)
    numbers = {int(user_id): user for user, user_id in enumerate(library.user_ids)}
    user_id = st.selectbox(
        "User", sorted(numbers), format_func=lambda each: f"{each} ({counts[numbers[each]]} ratings)"
    )
    user = numbers[user_id]
    row = library.rated[[user]]
    history, recommendations = st.columns(2, gap="large")
    with history:
        order = np.lexsort((row.indices, -row.data))
        order = order[shown.movies[row.indices[order]]]
        rows = [catalogue.row(int(row.indices[at]), f"{row.data[at]:g} ★") for at in order]
        st.subheader("Rated best", anchor=False)
        st.caption(f"{len(row.data)} ratings, {row.data.mean():.2f} on average")
        st.html(LIST.render(name="history", rows=rows[: shown.length]))
        if len(rows) > shown.length:
            with st.expander(f"{len(rows) - shown.length} more"):
                st.html(LIST.render(name="more history", rows=rows[shown.length :]))
    with recommendations:
        factors = library.factors
        person = dataclasses.replace(factors, users=factors.users[[user]], user_bias=factors.user_bias[[user]])
        st.subheader("Recommended", anchor=False)
        st.caption(f"Movies that this user has not rated. {scores_mean(catalogue)}")
        show_best(catalogue, shown, person, row, "user")


def show_new_person(catalogue: Catalogue, shown: Shown) -> None:
    """Let somebody choose movies, and show what is recommended."""
    popular = np.lexsort((np.arange(len(catalogue.titles)), -catalogue.ratings))
    choosing, recommendations = st.columns(2, gap="large")
    with choosing:
        st.subheader("Liked", anchor=False)
        liked = st.multiselect(
            "Movies you like",
            popular.tolist(),
            format_func=catalogue.titles.__getitem__,
            placeholder="Type a part of a title",
            help="Each counts as the best rating there is.",
            wrap=True,
        )
        if liked:
            st.html(LIST.render(name="liked", rows=[catalogue.row(movie, "♥") for movie in liked]))
    with recommendations:
        st.subheader("Recommended", anchor=False)
        if liked:
            st.caption(f"For somebody who likes these and has seen no other. {scores_mean(catalogue)}")
            person, row = catalogue.library.new_person(liked, catalogue.params.train)
            show_best(catalogue, shown, person, row, "person")
        else:
            st.info("Choose some movies: three or more say enough for a first list.")


def show_best(catalogue: Catalogue, shown: Shown, person: Factors, rated: Any, name: str) -> None:  # noqa: ANN401
    """List the movies of highest score among those shown and not rated.

    Args:
        catalogue: the movies.
        shown: which to list.
        person: factors with one user.
        rated: 1 x movies, sparse.
        name: of the list.
    """
    # The whole list first: what is not shown must not change the scores of what is.
    ranked, scores = person.top_k(np.zeros(1, dtype=np.int32), rated, len(catalogue.titles))
    found = [
        (movie, score)
        for movie, score in zip(ranked[0].tolist(), scores[0].tolist(), strict=True)
        if movie >= 0 and shown.movies[movie]
    ][: shown.length]
    rows = [catalogue.row(movie, f"{score:.2f}", rank) for rank, (movie, score) in enumerate(found, start=1)]
    st.html(LIST.render(name=name, rows=rows))


def scores_mean(catalogue: Catalogue) -> str:
    """Say what the scores of the model are."""
    if catalogue.params.train.loss == "softmax":
        return "Scores order movies and are no ratings."
    return "Scores are predicted ratings, in stars."


def show_movies(catalogue: Catalogue, shown: Shown) -> None:
    """Search titles, and show the movies that are like one."""
    searching, alike = st.columns(2, gap="large")
    with searching:
        st.subheader("Search", anchor=False)
        text = st.text_input("Words of a title", placeholder="star wars")
        found = [movie for movie in search(text, catalogue.titles) if shown.movies[movie]]
        found.sort(key=lambda movie: (-int(catalogue.ratings[movie]), movie))
        listed = found[: shown.length]
        if not listed:
            st.info("No title holds these words.")
            return
        st.caption(f"{len(listed)} of {len(found)}, rated most often first. Choose one to see what is like it.")
        movie = st.radio(
            "Movie",
            listed,
            format_func=catalogue.titles.__getitem__,
            captions=[f"{' · '.join(catalogue.genres[each])} · {catalogue.ratings[each]} ratings" for each in listed],
            label_visibility="collapsed",
        )
    with alike:
        st.subheader("Similar", anchor=False)
        st.caption(f"By the cosine of the angle between the model's vectors of {catalogue.titles[movie]} and of others")
        cosine = cosines(catalogue.library.factors.movies, movie)
        order = [int(other) for other in np.argsort(-cosine, kind="stable") if other != movie and shown.movies[other]]
        rows = [catalogue.row(other, f"{cosine[other]:.3f}", at) for at, other in enumerate(order[: shown.length], 1)]
        st.html(LIST.render(name="similar", rows=rows))


if __name__ == "__main__":
    main()
