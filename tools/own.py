"""Run the pipeline on files of your own: set the parameters, say what was understood, train and measure."""

import argparse
import datetime
import tempfile
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from dvc.utils.serialize import modify_yaml
from rich.markup import escape

from recommender.data.own.fetching import download
from recommender.data.own.files import files, sources
from recommender.data.own.layout import ITEMS, choose, recognize
from recommender.data.own.layout import RATINGS as ROLES
from recommender.errors import UserError, one_line, run
from recommender.params import Columns, Own
from recommender.params_file import load_params
from recommender.paths import ARCHIVE, LISTED_ITEMS, PARAMS, RATINGS
from recommender.storage import checksum, read_table, write_text
from tools import results
from tools.console import call, show_table
from tools.preset import presets

SHOWN: Final = 5  # rows
LOCK: Final = Path("dvc.lock")
COLUMNS: Final = tuple(Columns.model_fields)


def main() -> None:
    """Set the parameters, extract, describe the tables, choose a model that can learn from them, and run all stages."""
    parser = argparse.ArgumentParser(prog="make own", description=__doc__)
    parser.add_argument("ratings", help="path or URL of the ratings")
    parser.add_argument("--items", help="path or URL of a list of items")
    parser.add_argument("--columns", default="", help=f"NAME=COLUMN, of {', '.join(COLUMNS)}")
    arguments = parser.parse_args()
    before = {path: path.read_text(encoding="utf-8") for path in (PARAMS, LOCK) if path.exists()}
    try:
        set_source(arguments.ratings, arguments.items, columns(arguments.columns))
        own = load_params().data.own
        call("dvc", "repro", "extract")
        ratings = read_table(RATINGS)
        describe(own, ratings)
        params = load_params().train
        if pc.count_distinct(ratings["rating"]).as_py() == 1 and params.section.scores == "ratings":
            chosen = presets("own")["ranking"]
            found = f"All ratings are the same (implicit data), which {params.model} cannot predict"
            print(f"{found}: {chosen['train.model']} ranks.\n")
            set_parameters(chosen)
    except BaseException:
        for path, text in before.items():
            write_text(path, text)
        raise
    call("dvc", "repro")
    results.main()
    print("Next: `make ranking DATASET=own` trains the ranking model; `make recommend USER=...`; `make explore`")


def columns(text: str) -> dict[str, str | int | None]:
    """Return the column of each role from ``user=reader item=2``."""
    found: dict[str, str | int | None] = dict.fromkeys(COLUMNS)
    for part in text.split():
        role, _, name = part.partition("=")
        if role not in found or not name:
            allowed = f"one of {', '.join(COLUMNS)} before the sign and a column's name or number after it"
            raise UserError(f"COLUMNS: {part!r:.80} must have {allowed}, as in user=reader")
        found[role] = int(name) if name.isdecimal() else name
    return found


def set_source(ratings: str, items: str | None, names: dict[str, str | int | None]) -> None:
    """Select the files and pin what they contain now."""
    values: dict[str, Any] = {"dataset": "own", "own.ratings": ratings, "own.items": items}
    values |= {"own.sha256": None, "own.items_sha256": None}
    values |= {f"own.columns.{role}": name for role, name in names.items()}
    set_parameters({f"data.{name}": value for name, value in values.items()})
    with tempfile.TemporaryDirectory() as folder:
        for parameter, source, *_ in sources(load_params().data.own):
            path = Path(source) if "://" not in source else download(source, Path(folder) / "file", parameter)
            things = parameter.rpartition(".")[2]
            key = "data.own.sha256" if things == "ratings" else "data.own.items_sha256"
            set_parameters({key: checksum(path, f"a file with {things}")})


def set_parameters(values: dict[str, Any]) -> None:
    """Change parameters by their dotted names; comments stay."""
    with modify_yaml(PARAMS) as params:
        for name, value in values.items():
            *sections, key = name.split(".")
            reduce(getitem, sections, params)[key] = value


def describe(own: Own, ratings: pa.Table) -> None:
    """Print what was understood of the files."""
    for file, roles in zip(files(own, ARCHIVE), (ROLES, ITEMS), strict=False):
        layout = recognize(file, own, roles)
        found = [f"{role}: {layout.names[at]}" for role, at in choose(file, layout, own, roles).items()]
        print(one_line(f"{file.name}: {layout}; columns {', '.join(found)}"))
    head = [{name: escape(one_line(str(value))) for name, value in row.items()} for row in ratings[:SHOWN].to_pylist()]
    names = [f"{each.name} ({'text' if pa.types.is_dictionary(each.type) else each.type})" for each in ratings.schema]
    show_table("The first rows, as they were read", names, [list(row.values()) for row in head], left=(0, 1))
    users, items = (pc.value_counts(ratings[name].combine_chunks()) for name in ("user_id", "item_id"))
    low, high = (pc.min_max(ratings["rating"])[end].as_py() for end in ("min", "max"))
    listed = len(read_table(LISTED_ITEMS, ["item_id"]))
    largest = pc.max(users.field("counts")).as_py() / len(ratings)
    print(f"{len(ratings):,} ratings of {len(items):,} items by {len(users):,} users; {listed:,} items are listed")
    print(f"Ratings are {low:g} to {high:g}; the largest user has {largest:.1%} of them")
    span = pc.min_max(ratings["timestamp"]).as_py()
    times = [datetime.datetime.fromtimestamp(span[end], datetime.UTC).date() for end in span if span[end] is not None]
    print(f"Times are {times[0]} to {times[1]}\n" if times else "There are no times: splits by time are not possible\n")


if __name__ == "__main__":
    run(main)
