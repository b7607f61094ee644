"""Parameters reach DVC as they are."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from tools.experiments import as_settings


@pytest.mark.parametrize("value", ["/home/josé/my copy, 'new'.zip", "a=b", 5e-4, 7, True, None, "7", "true"])
def test_a_setting_is_read_back_as_it_was(tmp_path: Path, value: Any) -> None:  # noqa: ANN401 - of any parameter
    path = tmp_path / "params.yaml"
    path.write_text("data: {archive: x}\n")
    apply_overrides(path, as_settings({"data.archive": value}))
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["archive"] == value
