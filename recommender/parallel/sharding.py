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
from recommender.parallel.engine import Arrays, Engine, engine, publishing
from recommender.params import Data, Params, Split
from recommender.paths import ITEMS, LISTED_ITEMS, PARTS, RATINGS, USERS
from recommender.storage import (
    read_row_groups,
    read_table,
    row_group_sizes,
    row_groups,
    write_table,
    writing_row_groups,
)

IDS: Final = ("user_id", "item_id")
ROWS: Final = pa.schema([*COLUMNS, ("part", pa.int8())])


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
        users, item_ids = (_merged(run, name, groups) for name in IDS)
        items = rated_items(listed_items(), item_ids)
        tables = {
            USERS: pa.table({"user": np.arange(len(users), dtype=np.int32), "user_id": users}),
            ITEMS: items,
        }
        for path, table in tables.items():
            write_table(Path(run.folder) / path.name, table)
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
        for path, table in tables.items():
            write_table(path, table)
    return described.as_json(), removed


def list_ids(folder: str, group: int, data: Data) -> Arrays:
    """Write which users and items a row group of the ratings has, in order of first appearance; return its range."""
    ratings, removed = _kept(group, [*IDS, "rating"], data)
    for name in IDS:
        with publishing(Path(folder) / f"{name}-{group}.parquet") as path:
            pq.write_table(pa.table({name: pc.unique(ratings[name])}), path)
    ends = pc.min_max(ratings["rating"]).as_py()
    low, high = (np.inf, -np.inf) if ends["min"] is None else (ends["min"], ends["max"])
    return {"low": np.array(low), "high": np.array(high), "removed": np.array(removed)}


def scatter(folder: str, group: int, data: Data, split: Split, parts: int) -> Arrays:
    """Write a row group's ratings by user part, as indices, with the number of the part of the split of each."""
    ratings, _ = _kept(group, [*IDS, "rating"], data)
    known = {"user": (USERS, "user_id"), "item": (ITEMS, "item_id")}
    ids = {name: read_table(Path(folder) / path.name, [column])[column] for name, (path, column) in known.items()}
    numbers = {name: pc.index_in(ratings[f"{name}_id"], value_set=column) for name, column in ids.items()}
    part = hashed_part(ratings["user_id"], ratings["item_id"], split)
    rows = pa.table({**numbers, "rating": ratings["rating"], "part": part}, ROWS)
    with publishing(Path(folder) / f"rows-{group}.parquet") as path, row_groups(path, ROWS) as add:
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
        with publishing(Path(folder) / f"{name}-{part}.parquet") as path, row_groups(path, COLUMNS) as add:
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


def _merged(run: Engine, name: str, groups: range) -> pa.Array:
    """Return all ids in order of first appearance."""
    paths = [Path(run.folder) / f"{name}-{group}.parquet" for group in groups]
    return pc.unique(pa.chunked_array([chunk for path in paths for chunk in read_table(path, [name])[name].chunks]))
