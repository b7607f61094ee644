"""The split stage in parts: tasks that each see some of the ratings number users and items and divide the ratings.

The order of the ratings within a block is that of the file, and so is the numbering: as if they were read at once.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recommender.data.blocks import cut
from recommender.data.filters import at_least, check_left
from recommender.data.interactions import COLUMNS, with_scale
from recommender.data.splitting import Described, check_parts, hashed_part, listed_items, rated_items
from recommender.parallel.engine import Arrays, engine, publishing, put
from recommender.params import Data, Params, Split
from recommender.paths import ITEMS, LISTED_ITEMS, PARTS, RATINGS, USERS
from recommender.storage import (
    read_arrays,
    read_row_groups,
    read_table,
    row_group_sizes,
    row_groups,
    write_table,
    writing_row_groups,
)

IDS: Final = ("user_id", "item_id")
ROWS: Final = pa.schema([*COLUMNS, ("part", pa.int8())])
PLAIN: Final = {"use_dictionary": False}  # in files that are read once it takes more time than it saves


def split_in_parts(params: Params) -> tuple[dict[str, Any], dict[str, int]]:
    """Do what `recommender.data.splitting.split_at_once` does, with the ratings of each part in blocks."""
    parts, rows = params.engine.parts, row_group_sizes(RATINGS)
    groups = range(len(rows))
    decides = f"{params.split.model_dump_json()} {params.data.model_dump_json()} {parts}"
    with engine("split", "tables", decides, [RATINGS, LISTED_ITEMS]) as run:
        found = run.map("ids", list_ids, [(run.folder, group, params.data) for group in groups])
        below = sum(int(each["removed"]) for each in found)
        removed = {} if params.data.min_rating_value is None else {"min_rating_value": below}
        check_left(sum(rows) - below, removed)
        users, item_ids = _numbered(run.folder, groups)
        items = rated_items(listed_items(), item_ids)
        run.map("rows", scatter, [(run.folder, group, params.data, params.split, parts) for group in groups])
        sizes = run.map("parts", gather, [(run.folder, part, parts, len(groups)) for part in range(parts)])
        counts = {name: sum(int(size[name]) for size in sizes) for name in PARTS}
        check_parts(params.split, counts)
        low, high = min(float(each["low"]) for each in found), max(float(each["high"]) for each in found)
        scale = None if params.data.dataset != "own" else params.data.own.scale or (low, high)
        described = Described(len(users), len(items), counts, (low, high))
        for name, path in PARTS.items():
            schema = with_scale(COLUMNS.empty_table(), scale).schema if scale else COLUMNS
            with writing_row_groups(path, schema) as add:
                for part in range(parts):
                    for block in range(parts):
                        table = read_row_groups(Path(run.folder) / f"{name}-{part}.parquet", [block], COLUMNS.names)
                        described.count(name, table)
                        add(table.cast(schema))
        write_table(USERS, pa.table({"user": np.arange(len(users), dtype=np.int32), "user_id": users}))
        write_table(ITEMS, items)
    return described.as_json(), removed


def list_ids(folder: str, group: int, data: Data) -> Arrays:
    """Write which users and items a row group of the ratings has, in order of first appearance; return its range."""
    ratings, removed = _kept(group, [*IDS, "rating"], data)
    for name in IDS:
        with publishing(Path(folder) / f"{name}-{group}.parquet") as path:
            pq.write_table(pa.table({name: pc.unique(ratings[name])}), path, **PLAIN)
    ends = pc.min_max(ratings["rating"]).as_py()
    low, high = (np.inf, -np.inf) if ends["min"] is None else (ends["min"], ends["max"])
    return {"low": np.array(low), "high": np.array(high), "removed": np.array(removed)}


def scatter(folder: str, group: int, data: Data, split: Split, parts: int) -> Arrays:
    """Write a row group's ratings by user part, as indices, with the number of the part of the split of each."""
    ratings, _ = _kept(group, [*IDS, "rating"], data)
    ids = {name: ratings[name].combine_chunks().dictionary_encode() for name in IDS}
    part = hashed_part(pa.chunked_array([ids["user_id"]]), pa.chunked_array([ids["item_id"]]), split)
    numbers = read_arrays(_numbers(folder, group))
    user, item = (numbers[name][ids[name].indices] for name in IDS)
    rows = pa.table({"user": user, "item": item, "rating": ratings["rating"], "part": part}, ROWS)
    with publishing(Path(folder) / f"rows-{group}.parquet") as path, row_groups(path, ROWS, **PLAIN) as add:
        for table in cut(rows, "user", parts):
            add(table)
    return {}


def gather(folder: str, part: int, parts: int, groups: int) -> Arrays:
    """Write the ratings of one user part by the part of the split and by item part; return how many each has."""
    pieces = [read_row_groups(Path(folder) / f"rows-{group}.parquet", [part], ROWS.names) for group in range(groups)]
    rows = pa.concat_tables(pieces)
    sizes = {}
    for number, name in enumerate(PARTS):
        chosen = rows.filter(pc.equal(rows["part"], number)).select(COLUMNS.names)
        with publishing(Path(folder) / f"{name}-{part}.parquet") as path, row_groups(path, COLUMNS, **PLAIN) as add:
            for table in cut(chosen, "item", parts):
                add(table)
        sizes[name] = np.array(len(chosen))
    return sizes


def _kept(group: int, columns: list[str], data: Data) -> tuple[pa.Table, int]:
    """Return a row group of the extracted ratings without those that are too low, and how many these are."""
    ratings = read_row_groups(RATINGS, [group], columns)
    for number, field in enumerate(ratings.schema):  # row groups of own files may code text in different ways
        if pa.types.is_dictionary(field.type):
            ratings = ratings.set_column(number, field.name, ratings[field.name].cast(field.type.value_type))
    kept = at_least(ratings, data.min_rating_value)
    return kept, len(ratings) - len(kept)


def _numbered(folder: str, groups: range) -> list[pa.Array]:
    """Return all ids of users, and of items, in order of first appearance; leave the numbers of each row group's."""
    everybody, numbers = [], {}
    for name in IDS:
        listed = [read_table(Path(folder) / f"{name}-{group}.parquet", [name])[name] for group in groups]
        coded = pa.chunked_array([chunk for column in listed for chunk in column.chunks]).dictionary_encode()
        everybody.append(coded.chunk(0).dictionary)  # of all chunks
        indices = np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks])
        numbers[name] = np.split(indices, np.cumsum([len(column) for column in listed])[:-1])
    for group in groups:
        put(_numbers(folder, group), {name: numbers[name][group] for name in IDS})
    return everybody


def _numbers(folder: str, group: int) -> Path:
    return Path(folder) / f"numbers-{group}.npz"
