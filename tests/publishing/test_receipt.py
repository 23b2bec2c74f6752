"""What is written down beside a saved model, and what is not."""

import hashlib
import json
import os
from pathlib import Path

import datasets
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card import make_card
from qtoolkit.records import CalibrationReport, Receipt, Verification
from qtoolkit.requests import PublishRequest
from tests.fake_hub.fixture import hub
from tests.fake_hub.server import Hub
from tests.methods.gptq.jobs import TEXTS, gptq

__all__ = ["hub"]

pytestmark = pytest.mark.slow


def receipt_of(folder: Path) -> Receipt:
    receipt = read_receipt(folder)
    assert receipt is not None
    return receipt


def test_every_file_stands_in_it_with_its_hash(made: dict[str, Path]) -> None:
    receipt = receipt_of(made["nf4"])
    files = {file.name: file.read_bytes() for file in made["nf4"].iterdir() if file.name != "qtoolkit.json"}
    written = {name: (entry.size, entry.sha256) for name, entry in receipt.files.items()}
    assert written == {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}


def test_it_says_what_was_made_of_what(made: dict[str, Path], base: Path) -> None:
    receipt = receipt_of(made["gptq"])
    assert (receipt.source.name, receipt.source.path, receipt.source.commit_hash) == ("tiny-llama", None, None)
    assert (receipt.license, receipt.gated) == ("apache-2.0", None)
    assert (receipt.method, receipt.settings["bits"], receipt.settings["calibration"]) == ("gptq", 4, "4 texts")
    assert (receipt.num_layers, receipt.device, receipt.versions["qtoolkit"]) == (14, "cpu", qtoolkit_version())
    assert receipt.skipped == {"embedding": 1, "norm": 5, "excluded by name": 1}
    assert receipt.memory.disk_after == (made["gptq"] / "model.safetensors").stat().st_size
    assert receipt.memory.peak is not None and receipt.memory.peak_rss


def test_it_says_whether_the_bytes_of_the_base_were_compared(hub: Hub, base: Path, tmp_path: Path) -> None:
    hub.add("org/model", base)
    for model, told in (
        ("org/model", "checked: every file has the hash that the Hub names"),
        (base, "not checked: a folder, of which no hashes are known"),
        (AutoModelForCausalLM.from_pretrained(base), "not checked: a model in memory"),
    ):
        folder = tmp_path / "out"
        qt.quantize(model, "absmax", device="cpu", output=folder, overwrite=True)
        receipt = receipt_of(folder)
        assert receipt.source_check == told
        assert f"bytes of the base    {told}" in str(receipt)
        card = str(make_card(receipt, Verification("out", ()), PublishRequest("out", "me/out", license="apache-2.0")))
        assert ("had the hash by which the Hub names it" in card) == told.startswith("checked")
        assert ("were not compared with hashes" in card) == told.startswith("not")


def test_an_older_one_that_does_not_say_so_is_read(made: dict[str, Path], tmp_path: Path) -> None:
    older = json.loads((made["nf4"] / "qtoolkit.json").read_text())
    del older["source_check"]
    (tmp_path / "qtoolkit.json").write_text(json.dumps(older))
    receipt = receipt_of(tmp_path)
    assert receipt.source_check == ""
    assert "bytes of the base" not in str(receipt)
    card = str(make_card(receipt, Verification("out", ()), PublishRequest("out", "me/out", license="apache-2.0")))
    assert "by which the Hub names it" not in card
    assert "were not compared" not in card


def qtoolkit_version() -> str:
    from qtoolkit.version import __version__

    return __version__


def test_it_holds_a_hash_of_the_tokens_of_a_stream(base: Path, tmp_path: Path) -> None:
    stream = datasets.IterableDataset.from_generator(lambda: ({"text": text} for text in TEXTS))
    qt.quantize(base, gptq(calibration=stream, num_samples=4), device="cpu", output=tmp_path / "out")
    calibration = receipt_of(tmp_path / "out").calibration
    tokens = AutoTokenizer.from_pretrained(base)(TEXTS[0])["input_ids"][: 4 * 64]
    used = b"[4, 64]" + b"".join(token.to_bytes(8, "little") for token in tokens)
    assert calibration is not None and calibration.fingerprint == hashlib.sha256(used).hexdigest()
    older = calibration.to_dict()
    del older["fingerprint"], older["text_check"]
    assert CalibrationReport.from_dict(older).fingerprint == ""


def test_it_tells_nothing_of_the_machine_or_the_text(base: Path, tmp_path: Path) -> None:
    text = tmp_path / "private" / "text.txt"
    text.parent.mkdir()
    text.write_text("\n\n".join(TEXTS))
    folder = tmp_path / "out"
    qt.quantize(base, gptq(calibration=str(text)), device="cpu", output=folder)
    written = (folder / "qtoolkit.json").read_text()
    assert receipt_of(folder).settings["calibration"] == "text.txt"
    for private in (str(tmp_path), str(base.parent), str(Path.home()) + "/", TEXTS[0][:40], os.uname().nodename):
        assert private not in written


def test_saved_later_it_is_there_too(base: Path, tmp_path: Path) -> None:
    quantized = qt.quantize(base, "int8", device="cpu")
    assert quantized.receipt is not None and quantized.receipt.files == {}
    folder = quantized.save(tmp_path / "out")
    assert quantized.receipt == receipt_of(folder)
    assert qt.verify(folder).passed


def test_the_licence_of_a_base_without_a_card_is_not_known(tiny_llama: Path) -> None:
    receipt = qt.quantize(tiny_llama, "absmax", device="cpu").receipt
    assert receipt is not None and receipt.license is None


def test_a_damaged_receipt_is_told_and_left_out(made: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(made["absmax"], tmp_path / "copy")
    (folder / "qtoolkit.json").write_text("{}")
    loaded = qt.load(folder, device="cpu")
    assert isinstance(loaded, qt.QuantizedModel)
    assert loaded.receipt is None
    assert any("qtoolkit.json is no receipt" in note for note in loaded.report.notes)
    assert not (loaded.save(tmp_path / "again") / "qtoolkit.json").exists()


def test_a_model_that_does_not_run_here_is_saved_and_says_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized = qt.quantize(base, "absmax", device="cpu")

    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("no kernel for this processor")

    monkeypatch.setattr(type(quantized.model), "forward", broken)
    folder = quantized.save(tmp_path / "out")
    receipt = receipt_of(folder)
    assert receipt.probe is None
    assert "no kernel for this processor" in receipt.notes[-1]


def test_it_is_json_that_anybody_reads(made: dict[str, Path]) -> None:
    values = json.loads((made["nf4"] / "qtoolkit.json").read_text(), parse_constant=pytest.fail)
    assert values["record"] == "Receipt"


def test_a_tokenizer_that_cannot_be_described_does_not_stop_the_job(base: Path) -> None:
    class Odd:
        def __call__(self, text: str) -> None:
            raise TypeError("only for speech")

    receipt = qt.quantize(base, "absmax", device="cpu", tokenizer=Odd()).receipt
    assert receipt is not None and receipt.behaviour.token_ids is None
    assert any("only for speech" in note for note in receipt.notes)
