"""Run a stage in the working directory and record which parameters it reads and which modules it loads.

python record.py STAGE RECORD.json
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def nested(section: Any, base: type, prefix: str) -> Iterator[tuple[type, str]]:  # noqa: ANN401 - a Section
    """Give the type and the dotted prefix of every section below one."""
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, base):
            yield field.annotation, f"{prefix}{key}."
            yield from nested(field.annotation, base, f"{prefix}{key}.")


def main() -> None:
    """Run the stage and write the record."""
    name, path = sys.argv[1:]
    sys.path[0] = str(Path.cwd())
    params = importlib.import_module("stages.lib.params")
    sections = dict(nested(params.Params, params.Section, ""))
    read = set()
    plain = params.Section.__getattribute__

    def recording(self: Any, key: str) -> Any:  # noqa: ANN401 - any parameter
        found = plain(self, key)
        if type(self) in sections and key in type(self).model_fields and not isinstance(found, params.Section):
            read.add(f"{sections[type(self)]}{key}")
        return found

    params.Section.__getattribute__ = recording
    sys.argv = [name]
    importlib.import_module(f"stages.{name}").main()
    Path(path).write_text(json.dumps({"params": sorted(read), "modules": sorted(sys.modules)}))


if __name__ == "__main__":
    main()
