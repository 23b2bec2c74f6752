"""Whatever stands in a receipt, a card shows it as text, and no screen takes it for a command."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card import make_card
from qtoolkit.records import Check, Verification
from qtoolkit.records.markdown import escaped
from qtoolkit.requests import PublishRequest
from tests.publishing.checks import checks_of

pytestmark = pytest.mark.slow

TINY = PublishRequest("out", "me/tiny")
VERIFICATION = Verification("out", (Check("logits", True, "off by 0"),))
ATTACKS = (
    "</script><img src=x onerror=alert(1)>",
    "![x](http://evil/x.png) [x](javascript:alert(1)) <http://evil>",
    "a|b|c `x` ```\n# Title\n---\nlicense: mit\n---\n",
    "1. one",
    "\x1b[31mred\x1b[0m \u202eevil\u2066 a\u2028b\x85c",
    "{{ 7*7 }}{% raw %} !!python/object/apply:os.system [id]",
)
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def places(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where texts stand in nested values."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict | list):
            yield from places(value, (*place, key))
        elif isinstance(value, str):
            yield (*place, key)


def shape(text: str) -> list[tuple[str, str]]:
    """What a Markdown text is made of: blocks, links, pictures and raw HTML."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    inner = [part for block in blocks for part in block.children or () if part.type in ("link_open", "image")]
    inner += [part for block in blocks for part in block.children or () if part.type == "html_inline"]
    return [(part.type, str(part.attrGet("href") or part.attrGet("src") or "")) for part in (*blocks, *inner)]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_a_text_of_a_receipt_stays_a_text(made: dict[str, Path], tmp_path: Path, attack: str) -> None:
    folder = shutil.copytree(made["gptq"], tmp_path / "copy")
    plain = json.loads((folder / "qtoolkit.json").read_text())
    plain |= {"license": "other", "gated": True, "source_check": "not checked: so"}
    plain["inherited"] = {"language": "en", "license_name": "x", "license_link": "LICENSE"}
    known = receipt_card(folder, plain)
    for place in places(plain):
        values = json.loads(json.dumps(plain))
        inner = values
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = attack
        try:
            text, shown = receipt_card(folder, values)
        except (CheckpointError, ConfigError) as error:
            text, shown = known[0], str(error).replace("\n", "\0")
        assert not CONTROLS.search(text + shown), place
        # A base that is none on the Hub has no page.
        assert set(shape(ModelCard(text).text)) <= set(shape(ModelCard(known[0]).text)), place
        assert set(ModelCard(text).data.to_dict()) <= set(ModelCard(known[0]).data.to_dict()), place


def receipt_card(folder: Path, values: dict[str, Any]) -> tuple[str, str]:
    """The card that is made by a receipt, and the receipt as it is shown."""
    (folder / "qtoolkit.json").write_text(json.dumps(values))
    receipt = read_receipt(folder)
    assert receipt is not None
    return str(make_card(receipt, VERIFICATION, TINY)), f"{receipt}{receipt._repr_html_()}"


@pytest.mark.parametrize("name", ["someone/tiny-llama", "my own"])
@pytest.mark.parametrize("link", ["javascript:alert(1)", "javascript://x%0aalert(1)", "data:text/html,x", "a b"])
def test_a_licence_link_is_a_page_or_a_file(made: dict[str, Path], name: str, link: str) -> None:
    receipt = read_receipt(made["nf4"])
    assert receipt is not None
    source = replace(receipt.source, name=name)
    hostile = replace(receipt, source=source, license="other", inherited={"license_link": link})
    assert link not in str(make_card(hostile, VERIFICATION, TINY))
    kept = replace(hostile, inherited={"license_link": "https://example.org/licence?v=2"})
    assert "license_link: https://example.org/licence?v=2" in str(make_card(kept, VERIFICATION, TINY))


def test_no_text_begins_a_list() -> None:
    assert [escaped(text) for text in ("- a", "+ a", "12. a", "1) a", "-a", "1.5 a")] == [
        *(r"\- a", r"\+ a", r"12\. a", r"1\) a", "-a", "1.5 a")
    ]


def test_sizes_of_another_model_are_seen(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["nf4"], tmp_path / "copy")
    assert checks_of(folder, running=False)["dtypes and sizes"].passed
    values = json.loads((folder / "qtoolkit.json").read_text())
    values["memory"]["disk_after"] //= 3
    (folder / "qtoolkit.json").write_text(json.dumps(values))
    check = checks_of(folder, running=False)["dtypes and sizes"]
    assert check.passed is False and "weight files of" in check.value
