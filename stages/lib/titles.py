"""Movies by their titles."""

import difflib
import re
from collections.abc import Sequence
from typing import Final

from stages.lib.errors import UserError

SUGGESTIONS: Final = 5  # titles named in a message
YEAR: Final = re.compile(r"\s*\((\d{4})\D?(?:\d{4})?\)\s*$")  # or the years of a series


def find_movie(wanted: str, titles: Sequence[str], popularity: Sequence[int], name: str) -> int:
    """Find a movie by its title, in capitals or not.

    Args:
        wanted: the title as the data set has it, with its year; spaces around it do not count.
        titles: of the movies in the order of their indices.
        popularity: how often each was rated; of several movies of one title the one rated most is meant.
        name: the option, as the message names it.

    Returns:
        The movie's index.

    Raises:
        UserError: there is no such title; with those that hold the text or are close to it.
    """
    text = wanted.strip().casefold()
    folded = [title.casefold() for title in titles]

    def by_popularity(movies: Sequence[int]) -> list[int]:
        return sorted(movies, key=lambda movie: (-popularity[movie], movie))

    same = by_popularity([movie for movie, title in enumerate(folded) if title == text])
    if same:
        return same[0]
    names = [_name(title) for title in folded]
    # A part of a title, or another year, or a slip.
    likely = by_popularity(search(wanted, titles) or search(YEAR.sub("", wanted), titles)) if text else []
    likely.sort(key=lambda movie: names[movie] != _name(text))
    if not likely:
        close = difflib.get_close_matches(_name(text), dict.fromkeys(names), n=SUGGESTIONS)
        likely = [movie for each in close for movie in by_popularity([at for at, of in enumerate(names) if of == each])]
    if not likely:
        raise UserError(f"{name}: there is no movie {wanted!r:.80} and no title like it; give a title with its year")
    suggested = dict.fromkeys(titles[movie] for movie in likely)
    listed = " or ".join(repr(title) for title in list(suggested)[:SUGGESTIONS])
    more = len(suggested) - SUGGESTIONS
    others = f" or one of {more} others" if more > 0 else ""
    raise UserError(f"{name}: there is no movie {wanted!r:.80}; did you mean {listed}{others}?")


def _name(title: str) -> str:
    """Give a title in small letters without its year and with its article in front."""
    return re.sub(r"^(.*), (the|a|an)$", r"\2 \1", YEAR.sub("", title))


def search(text: str, titles: Sequence[str]) -> list[int]:
    """Find the movies whose titles hold every word of a text, in any order and in capitals or not.

    Args:
        text: words; none find everything.
        titles: of the movies in the order of their indices.

    Returns:
        Indices, ascending.
    """
    words = text.casefold().split()
    return [movie for movie, title in enumerate(titles) if all(word in title.casefold() for word in words)]
