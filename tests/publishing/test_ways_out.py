"""What a failed check says to do: to download again only where other bytes can come of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.process import NoAnswerError
from qtoolkit.publishing.verifier import all_checks


def other_sizes(folder: Path) -> None:
    """As where a receipt was written for another model: the hashes of the files are right."""
    receipt = json.loads((folder / "qtoolkit.json").read_text())
    receipt["dtypes"] = dict.fromkeys(receipt["dtypes"], 1)
    (folder / "qtoolkit.json").write_text(json.dumps(receipt))


def a_wrong_bit(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def another_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def not_run(request: dict[str, Any]) -> dict[str, Any]:
    raise NoAnswerError("not run")


CASES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "the bytes are right": (other_sizes, "dtypes and sizes", "make it anew: its files are as they were written"),
    "a wrong bit": (a_wrong_bit, "file hashes", "save or download the model again"),
    "a file too many": (another_file, "file hashes", "notes.txt was not written by the job: remove it"),
}


@pytest.mark.parametrize(("change", "name", "way"), CASES.values(), ids=CASES)
def test_the_way_out_can_help(
    change: Callable[[Path], None], name: str, way: str, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(made["absmax"], folder)
    change(folder)
    checks = all_checks(open_artifact(folder), None, None, not_run)
    failed = [check for check in checks if check.passed is False and check.name != "loads in transformers"]
    assert [(check.name, check.note or check.value) for check in failed] == [(name, way)]
