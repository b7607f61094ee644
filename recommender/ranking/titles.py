"""Items by their titles."""

import re
from collections.abc import Sequence
from typing import Final

from rapidfuzz import fuzz, process, utils

from recommender.errors import UserError

SUGGESTIONS: Final = 5  # titles named in a message
SIMILAR: Final = 70  # of 100, the least similarity of a title that is suggested
YEAR: Final = re.compile(r"\s*\((\d{4})\D?(?:\d{4})?\)\s*$")  # or the years of a series


def find_item(wanted: str, titles: Sequence[str], popularity: Sequence[int], name: str) -> int:
    """Return the index of an item by its title, with or without the year, or by words that only one title has.

    Case does not matter. Of several items with the same title the one with the most ratings, its `popularity`, is
    returned. Where no title fits, or several have these words, a `UserError` suggests the closest; `name` is the option
    that it names.
    """
    text = wanted.strip().casefold()
    found = [item for item, title in enumerate(titles) if title.casefold() == text]
    if found:
        return max(found, key=lambda item: (popularity[item], -item))
    without_year = [item for item, title in enumerate(titles) if YEAR.sub("", title).casefold() == text]
    for found in (without_year, search(wanted, titles)):
        if len(found) == 1:
            return found[0]
    by_popularity = sorted(range(len(titles)), key=lambda item: (-popularity[item], item))
    close = process.extract(
        wanted,
        list(dict.fromkeys(titles[item] for item in by_popularity)),
        scorer=fuzz.token_set_ratio,
        processor=lambda title: utils.default_process(YEAR.sub("", title)),
        limit=SUGGESTIONS,
        score_cutoff=SIMILAR,
    )
    if not close:
        raise UserError(f"{name}: there is no item {wanted!r:.80} and no title like it")
    listed = " or ".join(repr(title) for title, *_ in close)
    raise UserError(f"{name}: there is no item {wanted!r:.80}; did you mean {listed}?")


def search(text: str, titles: Sequence[str]) -> list[int]:
    """Return the items whose titles contain every word of a text, in any order and case; all where there is no word."""
    words = text.casefold().split()
    return [item for item, title in enumerate(titles) if all(word in title.casefold() for word in words)]
