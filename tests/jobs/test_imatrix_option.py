"""A job with an imatrix: what its result, receipt and card say, and when a kept result is measured anew."""

import json
from dataclasses import replace
from pathlib import Path

import torch

import qtoolkit as qt
from qtoolkit.checkpoints.imatrix import write_imatrix
from qtoolkit.jobs.candidates import Candidate
from qtoolkit.jobs.result_cache import key_of
from qtoolkit.methods import get_method
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card import make_card
from qtoolkit.records import Verification
from qtoolkit.requests import PublishRequest
from tests.jobs.test_comparing_kept import TASK

NAME = "blk.1.ffn_down.weight"


def imatrix_file(folder: Path, width: int, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    file = folder / f"x{seed}.gguf"
    means = {NAME: torch.rand(width)}
    write_imatrix(
        file,
        {name: 8 * mean for name, mean in means.items()},
        {NAME: [8]},
        datasets=["/home/ann/wiki.txt"],
        chunk_count=7,
        chunk_size=512,
    )
    return file


def test_the_receipt_and_the_card_tell_of_the_file(tiny_llama: Path, tmp_path: Path) -> None:
    """By its name alone: the folder is that of this machine."""
    file = imatrix_file(tmp_path / "private", json.loads((tiny_llama / "config.json").read_text())["intermediate_size"])
    config = qt.GGUF("Q4_0", imatrix=file)
    assert config.imatrix == str(file)
    planned = qt.plan(tiny_llama, config)
    report = qt.quantize(tiny_llama, config, output=tmp_path / "out").report
    receipt = read_receipt(tmp_path / "out")
    assert receipt is not None
    told = "importance weights from x0.gguf: wiki.txt, 7 chunks of 512 tokens"
    assert all(told in notes for notes in (planned.notes, report.notes, receipt.notes))
    assert (report.settings["imatrix"], receipt.settings["imatrix"]) == (str(file), "x0.gguf")
    assert "private" not in (tmp_path / "out" / "qtoolkit.json").read_text(encoding="utf-8")
    verification = Verification("out", ())
    card = make_card(receipt, verification, PublishRequest("out", "ann/tiny", license="mit")).content
    assert told in card
    assert "importance of inputs was that of a file" in card
    assert "No calibration text was used" not in card


def test_the_card_of_a_job_without_one_is_as_before() -> None:
    for options in ({"imatrix": None}, {}):
        assert get_method("gguf").calibrated_by(options) == "No calibration text was used."


def test_a_kept_result_is_that_of_the_same_file(tmp_path: Path) -> None:
    """Wherever it lies, and not once it is another."""
    first, same, other = (imatrix_file(tmp_path / name, 64, seed) for name, seed in (("a", 0), ("b", 0), ("a", 1)))
    keys = [key_of(Candidate("a", qt.GGUF("Q4_0", imatrix=str(file))), "", TASK) for file in (first, same, other)]
    assert keys[0] == keys[1] != keys[2]
    plain = qt.GGUF("Q4_0")
    assert plain.to_file() == {"quant_type": "Q4_0", "exclude": []}
    assert replace(plain, imatrix=str(first)).to_file()["imatrix"] == str(first)
