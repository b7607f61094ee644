"""The page that `make explore` shows. Streamlit runs this file from its top whenever somebody changes a widget."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jinja2
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from recommender import paths
from recommender.errors import UserError, one_line
from recommender.params import Params
from recommender.params_file import data_name, load_params
from recommender.ranking.explanation import KINDS, Explanation
from recommender.ranking.factors import SIMILAR_MIN_RATINGS, similar_items
from recommender.ranking.recommender import FAVOURITES, SCORES, Person, Recommender
from recommender.ranking.titles import search

DATA: Final = (*paths.PARTS.values(), paths.GIVEN, paths.USERS, paths.ITEMS)
READ: Final = (*DATA, paths.FACTORS, paths.FOLD_IN, paths.PARAMS)

STYLE: Final = Path(__file__).with_suffix(".css")
LIST: Final = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Catalogue:
    """The model with the ratings, and the parameters."""

    recommender: Recommender
    params: Params

    def show(self, name: str, items: Sequence[int], values: Sequence[str], *, ranked: bool = False) -> None:
        """Show a list of items, each with a value beside it."""
        rows = [
            (ranked and rank, self.recommender.titles[item], " · ".join(self.recommender.categories[item]), value)
            for rank, (item, value) in enumerate(zip(items, values, strict=True), start=1)
        ]
        template = jinja2.Environment(autoescape=True).from_string(LIST.read_text(encoding="utf-8"))
        st.html(template.render(name=name, rows=rows))


@dataclass(frozen=True)
class Shown:
    """What the sidebar asks for: (num_items,) which items, and the length of lists."""

    items: NDArray[np.bool_]
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
    pages = {"A user": show_user, "A new user": show_new_user, "Items": show_items}
    for tab, page in zip(st.tabs(list(pages)), pages.values(), strict=True):
        with tab:
            try:
                page(catalogue, shown)
            except UserError as error:
                st.error(str(error))


@st.cache_resource(max_entries=1, show_spinner="Reading the model")
def read(times: tuple[int, ...]) -> Catalogue:
    """Read what the pipeline has made, again after a change of the files' times."""
    del times
    params = load_params()
    return Catalogue(Recommender.read(params.train.learned_from), params)


def markdown(text: str) -> str:
    """Return text that Streamlit shows as it is where it takes Markdown."""
    return re.sub(r"([!-/:-@[-`{-~])", r"\\\1", text)


def sidebar(catalogue: Catalogue) -> Shown:
    """Let the visitor choose which items are listed."""
    recommender, params = catalogue.recommender, catalogue.params
    factors, rated = recommender.factors, recommender.rated
    num_users, num_items = rated.shape
    with st.sidebar:
        st.header("Filter", anchor=False)
        every = sorted(set().union(*recommender.categories))
        categories = st.multiselect("Categories", every, placeholder="All", wrap=True) if every else []
        known, years = recommender.years[recommender.years > 0], None
        if len(known) and known.min() < known.max():
            whole = int(known.min()), int(known.max())
            chosen = st.slider("Years", *whole, whole)
            years = None if chosen == whole else chosen
        excluded = choose_items("Leave out", recommender, "None")
        longest = min(50, num_items)
        length = st.slider("Items in a list", 1, longest, min(params.recommend.k, longest))
        kind = "rating" if factors.predicts_ratings else "ranking"
        name = markdown(data_name(params.data))
        st.caption(
            f"{rated.nnz:,} ratings of {num_items:,} items by {num_users:,} users ({name}). "
            f"A {kind} model with {factors.item_factors.shape[1]} numbers in a vector."
        )
    return Shown(recommender.wanted(categories, years, excluded), length)


def choose_items(label: str, recommender: Recommender, placeholder: str, explanation: str | None = None) -> list[int]:
    """Let the visitor choose items by title, those rated most often first."""
    every = np.argsort(-recommender.item_counts, kind="stable").tolist()
    name = recommender.titles.__getitem__
    return st.multiselect(label, every, format_func=name, placeholder=placeholder, help=explanation, wrap=True)


def show_user(catalogue: Catalogue, shown: Shown) -> None:
    """Show what a user has rated, and what is recommended."""
    recommender = catalogue.recommender
    counts = np.diff(recommender.rated.indptr)
    user = st.selectbox(
        "User",
        np.argsort(recommender.user_ids).tolist(),
        format_func=lambda each: f"{one_line(str(recommender.user_ids[each]))} ({counts[each]} ratings)",
    )
    person = recommender.user(user)
    rated = person.rated
    history, recommendations = st.columns(2, gap="large")
    with history:
        st.subheader("Rated best", anchor=False)
        st.caption(f"{rated.nnz} ratings, {rated.data.mean():.2f} on average")
        order = np.lexsort((rated.indices, -rated.data))
        order = order[shown.items[rated.indices[order]]]
        items, values = rated.indices[order].tolist(), [f"{rating:g} ★" for rating in rated.data[order]]
        catalogue.show("history", items[: shown.length], values[: shown.length])
        if len(items) > shown.length:
            with st.expander(f"{len(items) - shown.length} more"):
                catalogue.show("more history", items[shown.length :], values[shown.length :])
    with recommendations:
        st.subheader("Recommended", anchor=False)
        show_best("user", "Items that this user has not rated.", catalogue, shown, person)


def show_new_user(catalogue: Catalogue, shown: Shown) -> None:
    """Let the visitor choose items, and show what is recommended."""
    choosing, recommendations = st.columns(2, gap="large")
    with choosing:
        st.subheader("Liked", anchor=False)
        counts_as = "Each counts as the best rating there is."
        liked = choose_items("Items you like", catalogue.recommender, "Type a part of a title", counts_as)
        if liked:
            catalogue.show("liked", liked, "♥" * len(liked))
    with recommendations:
        st.subheader("Recommended", anchor=False)
        if liked:
            for_whom = "For somebody who likes these and has seen no other."
            show_best("new user", for_whom, catalogue, shown, catalogue.recommender.new_user(liked))
        else:
            st.info("Choose some items: three or more are enough for a first list.")


def show_best(name: str, whose: str, catalogue: Catalogue, shown: Shown, person: Person) -> None:
    """List the unrated items of highest score for somebody, of those to be shown."""
    st.caption(f"{whose} Scores: {SCORES[person.scores]}.")
    items, scores = person.best(shown.length, shown.items)
    catalogue.show(name, items.tolist(), [f"{score:.2f}" for score in scores], ranked=True)
    asked = st.selectbox(
        "Why this item?",
        items.tolist(),
        index=None,
        format_func=catalogue.recommender.titles.__getitem__,
        key=f"why {name}",
        placeholder="Choose one of the list",
    )
    if asked is not None:
        place = items == asked
        show_why(name, catalogue, *catalogue.recommender.explain(person, items[place], scores[place]))


def show_why(name: str, catalogue: Catalogue, why: Explanation) -> None:
    """Show the first of the rated items behind a recommendation, and what the others add."""
    shares, others = why.kind == "shares", why.values[FAVOURITES:]
    st.caption(f"Below: {KINDS[why.kind]}.")
    values = [f"{value:{'+' if shares else ''}.3f}" for value in why.values[:FAVOURITES]]
    both = [f"{rating:g} ★ {value}" for rating, value in zip(why.ratings[:FAVOURITES], values, strict=True)]
    catalogue.show(f"why {name}", why.items[:FAVOURITES].tolist(), both)
    if shares:
        more = f"{len(others)} more: {others.sum():+.3f}. " if len(others) else ""
        st.caption(f"{more}Without ratings: {why.base:+.3f}. Approximation: {why.rest:+.3f}.")


def show_items(catalogue: Catalogue, shown: Shown) -> None:
    """Search titles, and show the items that are similar to one."""
    recommender, counts = catalogue.recommender, catalogue.recommender.item_counts
    searching, similar = st.columns(2, gap="large")
    with searching:
        st.subheader("Search", anchor=False)
        text = st.text_input("Words of a title", placeholder="star wars")
        found = [item for item in search(text, recommender.titles) if shown.items[item]]  # ascending
        found.sort(key=lambda item: -int(counts[item]))
        listed = found[: shown.length]
        if not listed:
            st.info("No title has these words.")
            return
        st.caption(f"{len(listed)} of {len(found)}, rated most often first. Choose one to see similar items.")
        item = st.radio(
            "Item",
            listed,
            format_func=lambda each: markdown(recommender.titles[each]),
            captions=[
                markdown(" · ".join([*recommender.categories[each], f"{counts[each]} ratings"])) for each in listed
            ],
            label_visibility="collapsed",
        )
    with similar:
        st.subheader("Similar", anchor=False)
        st.caption(f"By the cosine of the model's vectors, among items with at least {SIMILAR_MIN_RATINGS} ratings.")
        others, cosines = similar_items(recommender.factors, counts, item, len(counts))
        kept = np.flatnonzero(shown.items[others])[: shown.length]
        catalogue.show("similar", others[kept].tolist(), [f"{cosine:.3f}" for cosine in cosines[kept]], ranked=True)


if __name__ == "__main__":
    main()
