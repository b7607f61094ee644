"""Fill the tables and outputs of README.md and docs/ from the files and commands that they come from: `make docs`.

A block is a comment that says where its text comes from, the text, and a comment that ends it:
``table: NAME`` one of `TABLES`, from a file of results; ``results: TITLE`` a section of benchmarks/RESULTS.md;
``output: COMMAND`` what a command prints; ``output: COMMAND as LINES`` with other lines, parted by `;`, as its prompt.
"""

import os
import re
import shlex
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from recommender.data.splitting import METHODS
from recommender.errors import UserError, run
from recommender.evaluation.statistics import LEVEL, Estimate, as_text
from recommender.storage import read_json, write_text
from tools.console import markdown_table

PAGES: Final = (Path("README.md"), *sorted(Path("docs").glob("*.md")))
BLOCK: Final = re.compile(r"(<!-- (table|results|output): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
RESULTS: Final = Path("benchmarks/RESULTS.md")
METRICS: Final = ("precision", "recall", "map", "ndcg", "mrr", "hit_rate", "coverage", "rmse", "seconds")
NAMES: Final = {
    "als": "ALS (implicit)",
    "ials": "iALS, scaled regularization",
    "slim": "SLIM",
    "bpr": "BPR (implicit)",
    "svd": "SVD (Surprise)",
    "svdpp": "SVD++ (Surprise)",
    "ease": "EASE, ratings from 4 as 1",
    "ease_all": "EASE, every rating as 1",
    "ease_liked": "EASE, ratings from 4 as 1",
    "ease_weighted": "EASE, weighted",
    "notebook, published": "the notebook, as published",
    "notebook, reproduced": "the notebook, reproduced (`mf`, batch_sum)",
    "notebook, corrected": "`mf`, the default",
    "our default model": "`mf`, the default",
    "softmax_mf": "`softmax_mf`, as in params.yaml",
}
PEERS: Final = ("als", "ials", "slim", "bpr", "ease_all", "ease_liked", "ease_weighted")  # that rank
FINDING: Final = ("notebook, published", "notebook, corrected", "our rating model", "popularity", "ease_weighted")
STARTED: Final = ("docker build", "make repro", "make test", "make explore")  # of what was timed in a container
# The command that README changes something by; its experiment is removed again.
EXAMPLE: Final = "dvc exp run --temp --quiet --name readme-example -S train.mf.embedding_size=20 -S train.mf.epochs=10"


def main() -> None:
    """Write every page."""
    _print(EXAMPLE)
    try:
        for page in PAGES:
            write_text(page, fill(page.read_text(encoding="utf-8"), output))
    finally:
        _print("dvc exp remove --quiet readme-example")


def fill(text: str, printed: Callable[[str], str] | None) -> str:
    """Return a page with its blocks filled; outputs of commands are left alone where `printed` is None."""
    sources = {"table": table, "results": section, "output": printed}

    def block(match: re.Match[str]) -> str:
        start, kind, name, end = match.groups()
        source = sources[kind]
        return f"{start}{source(name).strip(chr(10))}\n{end}" if source else match[0]

    return BLOCK.sub(block, text)


def output(command: str) -> str:
    """Return what a command prints, fenced."""
    command, _, shown = command.partition(" as ")
    printed = _print(command).replace("readme-example", "workspace     ").strip("\n")
    lines = [line.rstrip() for line in printed.split("\n")]
    prompt = [f"$ {line.strip()}" for line in shown.split(";")] if shown else []
    return "\n".join(["```console" if prompt else "```", *prompt, *lines, "```"])


def _print(command: str) -> str:
    wide = os.environ | {"COLUMNS": "120"}
    result = subprocess.run(shlex.split(command), env=wide, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        raise UserError(f"`{command}` failed: {result.stderr}")
    return result.stdout


def section(title: str) -> str:
    """Return a section of the benchmark's report without its heading."""
    return RESULTS.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


def table(name: str) -> str:
    """Return the Markdown of one of `TABLES`, by its name and, after a space, its data set."""
    kind, _, dataset = name.partition(" ")
    return TABLES[kind](dataset)


def comparison(dataset: str) -> str:
    """All models on a data set, from metrics/comparison.json."""
    found = read_json(Path("metrics/comparison.json"))[dataset]
    models = dict(sorted(found["models"].items(), key=lambda model: model[1]["map"]))
    rows = []
    for name, metrics in models.items():
        cells = [_label(name, metrics)]
        for column in METRICS:
            cell = _number(metrics.get(column), 1 if column == "seconds" else 4)
            if ends := found["intervals"].get(name, {}).get(column):
                cell = f"**{cell}**" if name in found["best"][column] else cell
                cell += f" <br>{as_text(Estimate(0, *ends), 3)}"
            cells.append(cell)
        rows.append(cells)
    shown = markdown_table(["", *(column.replace("_", " ") for column in METRICS)], rows)
    gain = found["difference"]["map"]
    better, worse, holm = gain["gain"], gain["lose"], gain["holm"]
    beats = "beats" if holm < LEVEL and gain["value"] > 0 else "is not known to beat"
    return shown + (
        f"\nOn {dataset} {_label('our ranking model', models['our ranking model'])}, mean of {found['seeds']} seeds, "
        f"**{beats} weighted EASE**: "
        f"MAP {gain['value']:+.4f}, 95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}; "
        f"better for {better:.0%} of the users, worse for {worse:.0%}; Holm p {holm:.4f}.\n"
    )


def split_seeds(dataset: str) -> str:
    """Our ranking model and the strongest peer on a data set, split with several seeds."""
    rows = []
    for name, found in read_json(Path("metrics/comparison.json")).items():
        if name.partition(",")[0] == dataset:
            models, gain = found["models"], found["difference"]["map"]
            peer = max((model for model in models if model in PEERS), key=lambda model: models[model]["map"])
            cells = [_number(models["our ranking model"]["map"]), f"{NAMES[peer]}, {_number(models[peer]['map'])}"]
            interval = f"{gain['low']:+.4f} to {gain['high']:+.4f}"
            best = ", ".join(_label(model, models[model]) for model in found["best"]["map"])
            seed = name.rpartition(" ")[2] if "," in name else "7"
            rows.append([seed, *cells, interval, _number(gain["holm"]), best])
    columns = ["`kernel`, MAP", "strongest peer", "difference to weighted EASE", "Holm p", "not known to be worse"]
    return markdown_table(["split seed", *columns], rows)


def finding(dataset: str) -> str:
    """The few models that show what matters."""
    models = read_json(Path("metrics/comparison.json"))[dataset]["models"]
    return _models({name: models[name] for name in (*FINDING, "our ranking model")}, (*METRICS[:4], "rmse"))


def folded_in(dataset: str) -> str:
    """Users left out of training, folded in and trained, from metrics/fold_in.json."""
    measured = ["recall, trained", "folded in", "95 % interval of the difference", "change of all others"]
    measured += ["rmse, trained", "folded in"]
    rows = []
    for name, values in read_json(Path("metrics/fold_in.json"))[dataset].items():
        recall, errors = (
            [_number(values[metric].get(how)) for how in ("trained", "folded_in")] for metric in ("recall", "rmse")
        )
        change = ["{:+.4f} to {:+.4f}".format(*values["difference_interval_95"]), f"{values['others_change']:+.4f}"]
        milliseconds = _number(1000 * values["seconds_a_person"], 1)
        rows.append([f"`{name}`", str(values["people"]), *recall, *change, *errors, milliseconds])
    return markdown_table(["", "users", *measured, "ms"], rows)


def splits(dataset: str) -> str:
    """MAP of all models by how the ratings were split, from metrics/splits.json; in brackets without unknown users."""
    results = read_json(Path("metrics/splits.json"))[dataset]
    found = {method: results[method] for method in METHODS if method in results}
    first = found["random"]["models"]
    rows = []
    for name in sorted(first, key=lambda name: first[name]["map"]):
        values = [method["models"][name] for method in found.values()]
        known = [f" ({_number(each['known_users']['map'])})" if "known_users" in each else "" for each in values]
        cells = [_number(each["map"]) + rest for each, rest in zip(values, known, strict=True)]
        rows.append([_label(name, values[0]), *cells])
    rows.append(["users measured", *(f"{method['models']['popularity']['users']:,}" for method in found.values())])
    return markdown_table(["", *(f"`{method}`" for method in found)], rows)


def notebook(_: str) -> str:
    """The notebook's table, from metrics/notebook.json."""
    found = read_json(Path("metrics/notebook.json"))
    ranges = [
        f"The published {name} {values['published']:.4f} lies within {values['lowest']:.4f} to {values['highest']:.4f} "
        f"of batch_sum over {found['seeds']} seeds."
        for name, values in found["ranges"].items()
    ]
    return _models(found["models"], METRICS[:-1]) + "\n" + "\n".join(ranges) + "\n"


def _label(name: str, metrics: dict[str, Any]) -> str:
    """Return what a model is called: a tuned one of ours by the model that it was when it was measured."""
    return f"`{metrics['model']}`, tuned" if "model" in metrics else NAMES.get(name, name.replace("_", " "))


def _models(models: dict[str, dict[str, Any]], columns: tuple[str, ...]) -> str:
    rows = []
    for name, metrics in models.items():
        cells = [_number(metrics.get(column), 1 if column == "seconds" else 4) for column in columns]
        rows.append([_label(name, metrics), *cells])
    return markdown_table(["", *(column.replace("_", " ") for column in columns)], rows)


def _number(value: float | None, decimals: int = 4) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def speed(_: str) -> str:
    """Training beside Keras' own, from benchmarks/results.json, in a sentence."""
    found = read_json(Path("benchmarks/results.json"))
    ours, stock, tuned = (
        statistics.median(found["measured"][name]["seconds"]) for name in ("stage train", "stock Keras", "tuned Keras")
    )
    return (
        f"Training the default model on {found['dataset']} takes {ours:.1f} s, start-up included: stock Keras takes "
        f"{stock / ours:.1f} times as long, and Keras with its fastest settings {tuned / ours:.1f} times."
    )


def landmarks(dataset: str) -> str:
    """Rank with fewer users that stand for all, and at a larger size, from metrics/landmarks.json."""
    found = read_json(Path("metrics/landmarks.json"))
    best_first = dict(sorted(found[dataset].items(), key=lambda row: -row[1]["map"]))
    large = {f"kernel, {name}": row["kernel"] for name, row in found.items() if name.startswith("synthetic")}
    rows = {name: {**row, "gib": row["mib"] / 1024} for name, row in {**best_first, **large}.items()}
    return _models(rows, ("precision", "recall", "map", "ndcg", "seconds", "gib"))


def serving(dataset: str) -> str:
    """What a request of the exported model costs, from metrics/serving.json."""
    found = read_json(Path("metrics/serving.json"))[dataset]
    cores, versions = found.pop("cores"), found.pop("versions")
    names = {
        "exported": "exported, in TensorFlow",
        "ours": "`recommender/ranking`",
        "faiss": "FAISS, a flat index",
        "faiss, all items": "the same, and rated items are not left out",
    }
    rows, said = [], []
    for model, values in found.items():
        for way, name in names.items():
            took = [
                f"{low:.1f} ({least:.1f} to {most:.1f})" for low, least, most in values["milliseconds"][way].values()
            ]
            rows.append([f"`{model}`: {name}", *took])
        said.append(
            f"`{model}`: {values['mib']:.0f} MiB, exported in {values['export_seconds']:.1f} s; the lists of "
            f"{values['equal']:,} of {values['users']:,} users are ours, ids and scores to the last bit; FAISS finds "
            f"{values['faiss_recall']:.4f} of them."
        )
    shown = markdown_table(["milliseconds", "one user", "1,000 users at once"], rows)
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{shown}\n" + "\n".join(f"- {line}" for line in said) + f"\n\nOn {cores} cores, with {packages}.\n"


def explanations(dataset: str) -> str:
    """Why some users get what they get, from metrics/explanations.json."""

    def title(item: dict[str, Any]) -> str:
        return str(item["title"]).replace("|", "\\|")

    rows = []
    for person in read_json(Path("metrics/explanations.json"))[dataset]["people"]:
        name = f"**{person['user_id']}**: {', '.join(map(title, person['favourites']))}"
        for item in person["recommendations"]:
            why = ", ".join(f"{title(each)} {each['share']:+.3f}" for each in item["why"]["rated"])
            rows.append([name, title(item), f"{item['score']:.3f}", why, str(item["rated"])])
            name = ""
    columns = ["user: five of the best rated", "recommended", "score", "the largest shares", "of"]
    return markdown_table(columns, rows, left=(0, 1, 3))


def container(_: str) -> str:
    """Size and times of the image and of what ran in it, from benchmarks/container.json."""
    found = read_json(Path("benchmarks/container.json"))
    rows = [[f"`{name}`", f"{found['seconds'][name]:.0f} s"] for name in STARTED]
    return (
        markdown_table(["", "time"], rows)
        + f"\nThe image has {found['bytes'] / 1e9:.1f} GB: Debian {found['debian']} on {found['machine']}, Python "
        f"{found['python']}, user `{found['user']}`; {found['engine']}.\n"
    )


def blocks(dataset: str) -> str:
    """Training in blocks beside random batches, from metrics/blocks.json."""
    found = read_json(Path("metrics/blocks.json"))[dataset]
    first = found["parts"]["1"]
    rows = []
    for parts, means in found["parts"].items():
        name = "random batches" if parts == "1" else f"{int(parts) ** 2} blocks, of {parts} parts"
        ratios = [_number(means[metric] / first[metric], 4) for metric in ("rmse", "map")]
        rows.append([name, *(_number(means[metric]) for metric in ("rmse", "map", "precision", "ndcg")), *ratios])
    shown = markdown_table(["", "rmse", "map", "precision", "ndcg", "rmse, ratio", "map, ratio"], rows)
    return f"{shown}\nMeans of {found['seeds']} seeds on the test part of {dataset}.\n"


TABLES: Final = {
    "blocks": blocks,
    "container": container,
    "comparison": comparison,
    "explanations": explanations,
    "finding": finding,
    "landmarks": landmarks,
    "fold-in": folded_in,
    "notebook": notebook,
    "serving": serving,
    "splits": splits,
    "speed": speed,
    "split-seeds": split_seeds,
}


if __name__ == "__main__":
    run(main)
