"""Run a stage in the working directory and record which parameters it reads and which modules it loads.

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
    params = importlib.import_module("stages.lib.params")
    sections = {field.annotation: key for key, field in params.Params.model_fields.items()}
    read = set()
    plain = params.Section.__getattribute__

    def recording(self: Any, key: str) -> Any:  # noqa: ANN401 - any parameter
        if type(self) in sections and key in type(self).model_fields:
            read.add(f"{sections[type(self)]}.{key}")
        return plain(self, key)

    params.Section.__getattribute__ = recording
    sys.argv = [name]
    importlib.import_module(f"stages.{name}").main()
    Path(path).write_text(json.dumps({"params": sorted(read), "modules": sorted(sys.modules)}))


if __name__ == "__main__":
    main()
