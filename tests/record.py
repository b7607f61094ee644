"""Run a stage in the working directory and record the parameters that it reads and the modules that it loads.

python record.py STAGE RECORD.json
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the stage and write the record."""
    name, path = sys.argv[1:]
    sys.path[0] = str(Path.cwd())
    params, params_file = (importlib.import_module(f"recommender.{module}") for module in ("params", "params_file"))
    read, prefixes, every = set(), {}, []
    load, plain = params_file.load_params, params.Section.__getattribute__

    def recording_load() -> Any:  # noqa: ANN401 - Params
        loaded = load()
        every.append(loaded)  # which keeps the identity of its sections
        find_prefixes(loaded, "")
        read.clear()  # the validators' reads
        return loaded

    def find_prefixes(section: Any, prefix: str) -> None:  # noqa: ANN401 - a Section
        prefixes[id(section)] = prefix
        for key in type(section).model_fields:
            if isinstance(plain(section, key), params.Section):
                find_prefixes(plain(section, key), f"{prefix}{key}.")

    def recording(self: Any, key: str) -> Any:  # noqa: ANN401 - any parameter
        found = plain(self, key)
        if id(self) in prefixes and key in type(self).model_fields and not isinstance(found, params.Section):
            read.add(f"{prefixes[id(self)]}{key}")
        return found

    params_file.load_params, params.Section.__getattribute__ = recording_load, recording
    sys.argv = [name]
    importlib.import_module(f"stages.{name}").main()
    Path(path).write_text(json.dumps({"params": sorted(read), "modules": sorted(sys.modules)}))


if __name__ == "__main__":
    main()
