"""The card of a folder whose codes were chosen elsewhere claims no method, no recipe and no calibration of its own."""

from pathlib import Path

import qtoolkit as qt
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.records import Verification
from qtoolkit.requests import PublishRequest
from tests.formats.awq import awq_files


def card_of(folder: Path) -> str:
    receipt = read_receipt(folder)
    assert receipt is not None
    request = PublishRequest(str(folder), "me/x", license="mit")
    return make_card(receipt, Verification(folder.name, ()), request).text


def test_a_converted_awq_folder(tmp_path: Path) -> None:
    awq_files.write_checkpoint(awq_files.Recipe(), tmp_path)
    qt.convert(tmp_path / "packed", "gptq_v2", tmp_path / "v2")
    qt.convert(tmp_path / "v2", "compressed-tensors", tmp_path / "again")
    for name, layout in (("v2", r"gptq\_v2"), ("again", "compressed-tensors")):
        text = card_of(tmp_path / name)
        assert f"quantized there, whose codes were taken over and are stored as {layout}, 4 bits" in text
        assert f"qt.convert('packed', format='{layout.replace(chr(92), '')}', output='output')" in text
        assert "How the codes were chosen, the files that were converted do not tell." in text
        for claim in ("qt.quantize(", "qt.GPTQ(", "No calibration text", "in GPTQ", "| base |"):
            assert claim not in text
