"""The licence that a card names, and none where it names none."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCardData

from qtoolkit.hub.licenses import inherited, license_of_folder, named_license

CARDS = {
    "one": ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
    "its own": ("---\nlicense: other\nlicense_name: mine\n---\n", "other"),
    "a list of one": ("---\nlicense: [mit]\n---\n", "mit"),
    "a list of two": ("---\nlicense: [mit, gpl]\n---\n", None),
    "none": ("---\ntags: [x]\n---\n", None),
    "empty": ("---\nlicense:\n---\n", None),
    "a number": ("---\nlicense: 3\n---\n", None),
    "no metadata": ("# x\nlicense: mit\n", None),
    "broken metadata": ("---\nlicense: [mit\n---\n", None),
    "no mapping": ("---\n- mit\n---\n", None),
}


@pytest.mark.parametrize(("text", "expected"), CARDS.values(), ids=CARDS)
def test_a_card_in_a_folder(tmp_path: Path, text: str, expected: str | None) -> None:
    (tmp_path / "README.md").write_text(text)
    assert license_of_folder(tmp_path) == expected


def test_no_card_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    assert license_of_folder(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"\xff\xfe---\nlicense: mit")
    assert license_of_folder(tmp_path) is None


def test_what_the_hub_says_of_a_model() -> None:
    assert named_license(ModelCardData(license="llama3.2")) == "llama3.2"
    assert named_license(None) is None


INHERITED = {
    "languages": ({"language": ["en", "de"], "tags": ["x"]}, {"language": ["en", "de"]}),
    "a language": ({"language": "en"}, {"language": "en"}),
    "a licence of its own": (
        {"license": "other", "license_name": "mine", "license_link": "LICENSE"},
        {"license_name": "mine", "license_link": "LICENSE"},
    ),
    "what YAML made of Norwegian": ({"language": [False]}, {}),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize(("values", "expected"), INHERITED.values(), ids=INHERITED)
def test_what_holds_for_a_copy(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert inherited(ModelCardData(**values)) == expected
    assert inherited(None) == {}
