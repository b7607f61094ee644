"""Read a user's own list of items, and name the items that it lacks."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recommender.data.own.files import File
from recommender.data.own.layout import ITEMS, choose, recognize
from recommender.data.own.ratings import WHOLE, encode, unify
from recommender.data.own.rows import Rows
from recommender.params import Own

NAMES: Final = ("item_id", "title", "categories")
CONTROL: Final = r"[\p{Cc}\p{Zl}\p{Zp}\x{202a}-\x{202e}\x{2066}-\x{2069}]+"
SEPARATORS: Final = ("|", ";", ",")  # of categories, the first that occurs


def read_items(file: File | None, own: Own, rated: pa.ChunkedArray) -> pa.Table:
    """Return item_id, title, categories and whatever else the file has.

    Rated items that are not listed follow those that are; they and items without a title are called by their ids.
    """
    known = pc.unique(rated.combine_chunks())
    known = known.dictionary_decode() if pa.types.is_dictionary(known.type) else known
    listed = _read(file, own, known.type) if file else pa.table({"item_id": known[:0]})
    missing = known.filter(pc.invert(pc.is_in(known, listed["item_id"].combine_chunks())))
    nothing = pa.nulls(len(missing), pa.string())
    unlisted = pa.table({"item_id": missing, "title": nothing, "categories": nothing})
    items = pa.concat_tables([listed, unlisted], promote_options="default")
    blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(items["title"], "")), "")
    title = pc.if_else(blank, items["item_id"].cast(pa.string()), items["title"])
    others = {name: items[name] for name in items.column_names if name not in NAMES}
    texts = {"title": title, "categories": items["categories"]} | others
    # Without what could command a terminal or turn text around.
    shown = {name: pc.replace_substring_regex(pc.fill_null(text, ""), CONTROL, " ") for name, text in texts.items()}
    return pa.table({"item_id": items["item_id"], **shown})


def _read(file: File, own: Own, id_type: pa.DataType) -> pa.Table:
    """Return the listed items, with ids of the ratings' type."""
    layout = recognize(file, own, ITEMS)
    columns = choose(file, layout, own, ITEMS)
    reserved = {*NAMES, *ITEMS, "rating", "score", *columns.values()}
    others = {name: at for at, name in enumerate(layout.names) if layout.header and not {name, at} & reserved}
    rows = Rows(file, layout)
    parts: dict[str, list[pa.Array]] = {name: [] for name in columns | others}
    for first, batch in rows.batches(columns | others):
        for name, column in batch.items():
            parts[name].append(encode(rows, name, column, first) if name == "item" else _text(column))
        if layout.kind == "text" and "title" in batch:
            broken = pc.match_substring(batch["title"], "\n").index(True).as_py()
            if broken >= 0:
                rows.refuse(first + broken, "the title runs over the end of the line; is a quote not closed?")
    codes, ids = unify(parts.pop("item"))
    if len(ids) < len(codes):
        again = int(np.setdiff1d(np.arange(len(codes)), np.unique(codes, return_index=True)[1])[0])
        rows.refuse(again, f"item {ids[int(codes[again])]!s:.80} is listed a second time")
    table = pa.table({name: pa.chunked_array(part) for name, part in parts.items()})
    if "categories" in parts:
        separator = " " if layout.atomic else _separator(table["categories"])
        split = pc.replace_substring_regex(table["categories"], rf"\s*[{separator}]\s*", "|") if separator else None
        table = table.set_column(table.column_names.index("categories"), "categories", split or table["categories"])
    ids = ids.take(codes)
    if id_type != ids.type and id_type == pa.int64():  # others cannot have been rated
        fits = pc.and_(pc.match_substring_regex(ids, WHOLE), pc.less(pc.utf8_length(ids), 19))
        ids, table = ids.filter(fits), table.filter(fits)
    return table.add_column(0, "item_id", ids.cast(id_type))


def _separator(categories: pa.ChunkedArray) -> str | None:
    found = (each for each in SEPARATORS if pc.any(pc.match_substring(categories, each)).as_py())
    return next(found, None)


def _text(column: pa.Array) -> pa.Array:
    """Return lists joined, numbers and text as text, and nothing of anything else."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), "|")
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(len(column), pa.string())
