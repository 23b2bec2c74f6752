"""A job calibrates on chats, mixtures and token ids; its journal and receipt know what was chosen, and hold no text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import ConfigError, OutputError
from qtoolkit.records import ProgressEvent
from tests.methods.gptq.jobs import TEXTS, gptq
from tests.sample_models import random_model
from tests.texts.calibration_texts import load

ROWS = [
    {name: [{"role": "user", "content": f"Xylophon {name}? {text}"}] for name in ("dialog", "other")} for text in TEXTS
]


class Stop(Exception):
    pass


def stop_in_the_second_block(event: ProgressEvent) -> None:
    if event.phase == "quantize" and event.done > 7:
        raise Stop


@pytest.fixture
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


def test_a_mixture_with_chats_is_stopped_and_goes_on(tiny_llama: Path, tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(TEXTS))
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    mixture = {str(folder / "a.txt"): 0.25, str(folder / "chat.jsonl"): 0.75}
    config = gptq(calibration=mixture, calibration_column="dialog")
    output = tmp_path / "out"
    with pytest.raises(Stop):
        qt.quantize(tiny_llama, config, output=output, device="cpu", on_progress=stop_in_the_second_block)
    with pytest.raises(OutputError, match="calibration_column dialog, and this call has other"):
        qt.quantize(tiny_llama, gptq(calibration=mixture, calibration_column="other"), output=output, device="cpu")
    written = ",".join(f"{name}={share}" for name, share in mixture.items())
    again = gptq(calibration=written, calibration_column="dialog")
    assert again == config
    result = qt.quantize(tiny_llama, again, output=output, device="cpu")
    calibration = result.report.calibration
    assert calibration is not None and calibration.resumed == 1
    expected = load(mixture, tokenizer, num_samples=8, column="dialog")
    assert (calibration.fingerprint, calibration.text) == (expected.fingerprint, "a.txt + chat.jsonl")
    assert "samples of the mixture: 2 of a.txt, 6 of chat.jsonl" in result.report.notes
    settings = json.loads((output / "qtoolkit.json").read_text())["settings"]
    assert settings["calibration"] == "a.txt=0.25,chat.jsonl=0.75" and settings["calibration_column"] == "dialog"
    for file in output.iterdir():
        assert not any(private in file.read_bytes() for private in (b"Xylophon", str(tmp_path).encode()))


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list], ids=["tensor", "array", "lists"])
def test_token_ids_need_no_tokenizer(kind: Any) -> None:
    model = random_model("llama")
    ids = torch.randint(model.config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0)).tolist()
    config = gptq(calibration=kind(ids), num_samples=4, seq_len=32, refine=0)
    assert qt.plan(model, config, device="cpu").settings["calibration"] == "4 rows"
    calibration = qt.quantize(model, config, device="cpu").report.calibration
    assert calibration is not None
    assert (calibration.text, calibration.num_samples, calibration.seq_len) == ("4 rows of token ids", 4, 32)


def test_a_column_that_is_not_there_is_refused_by_the_plan(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"^text: item 1 of the list has no column 'chat': it has dialog, other$"):
        qt.plan(tiny_llama, gptq(calibration=ROWS, calibration_column="chat"), device="cpu")


def test_the_measured_layout_looks_at_the_same_column(tiny_llama: Path) -> None:
    config = gptq(calibration=ROWS, calibration_column="dialog", target_bits=6)
    assert qt.plan(tiny_llama, config, device="cpu").settings["calibration_column"] == "dialog"
