"""A receipt that no job wrote costs its row, and no error of another kind: it comes with the folder of anybody."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qtoolkit.errors import CheckpointError
from qtoolkit.publishing import read_receipt
from tests.publishing.checks import checks_of

pytestmark = pytest.mark.slow

HUGE = 10**400
DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]

# What is wrong -> the value's place, and the value.
ODD: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "a size of 400 digits": (("files", "model.safetensors", "size"), HUGE),
    "a negative size": (("files", "model.safetensors", "size"), -1),
    "a hash that is none": (("files", "model.safetensors", "sha256"), "x"),
    "a file name that is no text": (("files", "\udce9"), {"size": 1, "sha256": "0" * 64}),
    "bytes of a type of 400 digits": (("dtypes", "BF16"), HUGE),
    "negative bytes of a type": (("dtypes", "BF16"), -5),
    "a plan of 400 digits": (("memory", "predicted_disk_after"), HUGE),
    "a negative footprint": (("memory", "footprint_after"), -5),
    "a number of layers of 400 digits": (("num_layers",), HUGE),
    "a count of skipped layers of 400 digits": (("skipped", "why"), HUGE),
    "a loss of 400 digits": (("probe", "loss"), HUGE),
    "a loss that is no number": (("probe", "loss"), float("nan")),
    "an infinite deviation, which every logit would fit": (("probe", "std", 0), float("inf")),
    "a negative deviation, which every logit would fit": (("probe", "std", 0), -1.0),
    "no logits, which any would fit": (("probe", "top_logits"), []),
    "no positions at all": (("probe",), {"top_ids": [], "top_logits": [], "std": []}),
    "fewer logits than ids": (("probe", "top_logits", 0), [1.0]),
    "a negative token": (("probe", "token_ids", 0), -1),
    "a million tokens": (("probe", "token_ids"), [5] * 1_000_000),
    "settings that are nested deep": (("settings", "exclude"), DEEP),
    "a note that is no text": (("notes",), ["\ud800"]),
}


def changed(values: dict[str, Any], place: tuple[str | int, ...], value: Any) -> None:
    inner: Any = values
    for key in place[:-1]:
        inner = inner[key]
    if isinstance(value, dict) and place[-1] in inner:
        inner[place[-1]] |= value
    elif isinstance(value, dict):
        inner[place[-1]] = {"record": "FileEntry", "schema_version": 1, **value}
    else:
        inner[place[-1]] = value


@pytest.mark.parametrize(("place", "value"), ODD.values(), ids=ODD)
def test_it_is_refused(made: dict[str, Path], tmp_path: Path, place: tuple[str | int, ...], value: Any) -> None:
    values = json.loads((made["absmax"] / "qtoolkit.json").read_text())
    changed(values, place, value)
    (tmp_path / "qtoolkit.json").write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match=r"qtoolkit\.json is no receipt \(.*\): restore it, or remove it"
    ) as error:
        read_receipt(tmp_path)
    assert len(str(error.value)) < 400
    str(error.value).encode()


@pytest.mark.parametrize("name", ["a size of 400 digits", "fewer logits than ids"])
def test_the_other_checks_are_made_without_it(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "absmax")
    values = json.loads((folder / "qtoolkit.json").read_text())
    changed(values, *ODD[name])
    (folder / "qtoolkit.json").write_text(json.dumps(values))
    checks = checks_of(folder)
    assert [check.name for check in checks.values() if check.passed is False] == ["receipt"]
    assert checks["logits"].value == "not compared"
