"""The card of a folder whose codes were chosen elsewhere claims no method, recipe or calibration; old receipts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.records import Receipt, TakenOver, Verification
from qtoolkit.requests import PublishRequest
from tests.formats.awq import awq_files

CLAIMS = ("qt.quantize(", "qt.GPTQ(", "qt.GGUF(", "No calibration text", "in GPTQ", "| base |")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `packed`, an AWQ model, and what it was converted to."""
    folder = tmp_path_factory.mktemp("converted")
    awq_files.write_checkpoint(awq_files.Recipe(), folder)
    qt.convert(folder / "packed", "gptq_v2", folder / "v2")
    qt.convert(folder / "v2", "compressed-tensors", folder / "again")
    qt.convert(folder / "again", "gguf", folder / "file", lossy=True)
    return folder


def receipt_in(folder: Path) -> Receipt:
    receipt = read_receipt(folder)
    assert receipt is not None
    return receipt


def card_of(folder: Path) -> str:
    request = PublishRequest(str(folder), "me/x", license="mit")
    return make_card(receipt_in(folder), Verification(folder.name, ()), request).text


@pytest.mark.parametrize(("name", "layout"), [("v2", "gptq_v2"), ("again", "compressed-tensors"), ("file", "gguf")])
def test_a_converted_awq_folder(converted: Path, name: str, layout: str) -> None:
    assert receipt_in(converted / name).taken_over == TakenOver(recipe="", format=layout)
    text = card_of(converted / name)
    stored_as = layout.replace("_", r"\_")
    assert "A converted copy of packed: 14 linear layers, quantized there, " in text
    assert f"quantized there, whose codes were taken over and are stored as {stored_as}, " in text
    assert "How the codes were chosen, the files that were converted do not tell." in text
    # A file may have taken more options than a line could name.
    command = f"qt.convert('packed', format='{layout}', output='output')"
    assert (command in text) == (name != "file")
    assert ("No codes were chosen for this file: `qt.convert` took over those of packed" in text) == (name == "file")
    for claim in CLAIMS:
        assert claim not in text


# Of older qtoolkits: the method, two texts, and what they say.
OLDER = {
    "somebody's layers": ("gptq", {"taken_over": "gptq_v2", "converted_from": ""}, TakenOver("", "gptq_v2")),
    "somebody's file": ("gguf", {"taken_over": "", "converted_from": "awq"}, TakenOver("", "gguf")),
    "a file of ours": (
        "gguf",
        {"taken_over": "", "converted_from": "gptq (bits=4)"},
        TakenOver("gptq (bits=4)", "gguf"),
    ),
    "codes of its own": ("gptq", {"taken_over": "", "converted_from": ""}, None),
    "before there were files": ("gptq", {"taken_over": "mlx"}, TakenOver("", "mlx")),
    "before there were conversions": ("gptq", {}, None),
}


@pytest.mark.parametrize("case", OLDER)
def test_an_older_receipt_is_read(converted: Path, tmp_path: Path, case: str) -> None:
    method, texts, wanted = OLDER[case]
    receipt = replace(receipt_in(converted / "v2"), method=method, taken_over=wanted)
    older = {key: value for key, value in receipt.to_dict().items() if key != "taken_over"}
    (tmp_path / "qtoolkit.json").write_text(json.dumps(older | texts))
    assert receipt_in(tmp_path) == receipt
