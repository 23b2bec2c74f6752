"""What the wheel holds beside the package: the small Hub of a notebook, which needs nothing else of the tests."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent


def test_the_notebooks_hub_runs_by_itself(tmp_path: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        included = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in included.items():
        place = tmp_path / target
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile)(ROOT / source, place)
    code = "from tests.fake_hub.writable import WritableHub\nwith WritableHub() as hub: print(hub.url)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "qtoolkit/example_hub")}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.startswith("http://127.0.0.1"), run.stderr
