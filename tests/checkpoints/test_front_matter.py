"""The YAML block of a card, whatever stands there: read in bounded time and memory, or not at all."""

import os
from pathlib import Path

import pytest

from qtoolkit.checkpoints.front_matter import read_front_matter
from qtoolkit.hub.licenses import license_of_folder

# Without a bound, each of the bombs takes longer, or all memory.
pytestmark = pytest.mark.timeout(60)

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 5))
MERGES = "a0: &a0 {x: y}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 5))
BOMBS = {
    "laughs": LAUGHS,
    "merged mappings": MERGES,
    "deep": "a: " + "[" * 100_000,
    "deep mappings": "".join(f"{' ' * n}a:\n" for n in range(900)),
    "a number to the base 60": "a: 1" + ":1" * 200_000,
    "a long number": "a: " + "9" * 400_000,
    "too much": "a: b\n" * 120_000,
    "a tag": "a: !!python/object/apply:os.getcwd []",
    "no end": "a: b\n" * 10 + "x" * 600_000,
    "a key that is no text": "3: x",
    "two kinds": "- a",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_read_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{text}\n---\n# x")
    assert read_front_matter(tmp_path / "README.md") == {}
    assert license_of_folder(tmp_path) is None


@pytest.mark.parametrize("text", ["- a\n- b", "a text", "1", "null", "{}\n---\n{}"])
def test_what_is_no_mapping_is_read_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n# x")
    assert read_front_matter(tmp_path / "README.md") == {}


GOOD = {
    "plain": "---\nlicense: mit\ntags: [a, 1]\n---\n# x",
    "of Windows": "---\r\nlicense: mit\r\ntags: [a, 1]\r\n---\r\n# x",
    "after a mark and blanks": "\ufeff\n  ---\nlicense: mit\ntags: [a, 1]\n--- \n",
    "without a text below": "---\nlicense: mit\ntags: [a, 1]\n---",
    "with an anchor that nobody uses": "---\nlicense: &l mit\ntags: [a, 1]\n---\n",
    "before megabytes": "---\nlicense: mit\ntags: [a, 1]\n---\n" + "x\n" * 2_000_000,
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_a_block_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert read_front_matter(tmp_path / "README.md") == {"license": "mit", "tags": ["a", 1]}


def test_a_card_with_hundreds_of_figures_names_its_licence(tmp_path: Path) -> None:
    figure = "  - {task: {type: t}, dataset: {type: d, name: d}, metrics: [{type: m, value: 1.5}]}\n"
    text = f"---\nmodel-index:\n- name: x\n  results:\n{figure * 500}license: mit\n---\n"
    (tmp_path / "README.md").write_text(text)
    assert license_of_folder(tmp_path) == "mit"


def test_what_is_no_file_is_no_card(tmp_path: Path) -> None:
    assert read_front_matter(tmp_path / "README.md") == {}
    os.mkfifo(tmp_path / "README.md")
    assert read_front_matter(tmp_path / "README.md") == {}
