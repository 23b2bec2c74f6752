"""What is looked at in a tokenizer's file: all but its words, and nothing is built of it."""

import json
import shutil
import tracemalloc
from pathlib import Path

import pytest

from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.safety_checks import check_paths
from tests.publishing.checks import checks_of

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["absmax"], tmp_path / "absmax"))


@pytest.mark.parametrize(
    ("part", "is_told"),
    [("model", False), ("added_tokens", False), ("normalizer", True), ("post_processor", True)],
)
def test_words_may_be_paths_and_nothing_else_may(folder: Path, part: str, is_told: bool) -> None:
    values = {"version": 'model", "x', "model": [], "added_tokens": [{"content": "x"}], "truncation": None}
    values |= {part: {"a": ["[", {'b"]}': ["/home/ann/x", {"model": []}]}]}, "decoder": {"type": "added_tokens"}}
    (folder / "tokenizer.json").write_text(json.dumps(values, indent=1))
    assert checks_of(folder, running=False)["no local paths"].passed is not is_told


def test_a_file_of_many_values_takes_no_more_memory_than_its_text(folder: Path) -> None:
    text = '{"model": [' + "{}," * 500_000 + "{}]}"
    (folder / "tokenizer.json").write_text(text)
    artifact = open_artifact(folder)
    tracemalloc.start()
    try:
        check_paths(artifact)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(text)
