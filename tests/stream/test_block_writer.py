"""On a GPU, finished blocks are written while the next one runs: in order, and without losing an error."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.stream import run
from qtoolkit.stream.block_writer import block_writer
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.journal import DoneBlock, Journal, JournalLocation
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model


def journal_in(folder: Path) -> Journal:
    return Journal(JournalLocation(folder, None), {"text": "any"})


def test_the_next_block_runs_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, may_end, began = journal_in(tmp_path), threading.Event(), []
    write = journal.write

    def slowly(index: int, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> DoneBlock:
        began.append(index)
        assert may_end.wait(60)
        return write(index, tensors, facts)

    monkeypatch.setattr(journal, "write", slowly)
    with block_writer(journal, behind=True) as write_block:
        first = write_block(0, {"a": torch.arange(3)}, {})
        may_end.set()
        second = write_block(1, {"a": torch.arange(4)}, {})
    # All are written when the block ends.
    assert began == [0, 1]
    assert sorted(file.name for file in tmp_path.glob("block*.json")) == ["block-00000.json", "block-00001.json"]
    assert first().tensors["a"][...].tolist() == [0, 1, 2]
    assert second().tensors["a"][...].tolist() == [0, 1, 2, 3]


def full(*args: Any) -> DoneBlock:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("asked", ["by the next block", "at the end"])
def test_an_error_is_raised(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_in(tmp_path)
    monkeypatch.setattr(journal, "write", full)
    with block_writer(journal, behind=True) as write_block:
        first = write_block(0, {}, {})
        with pytest.raises(OSError, match="No space"):
            first() if asked == "at the end" else write_block(1, {}, {})


@pytest.mark.parametrize("is_full", [False, True])
def test_a_job_writes_the_same_files(is_full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = random_model("llama", torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda event: None)
    streamed = StreamedModel(checkpoint, device="cpu", dtype=torch.float32)
    method = GPTQBlocks(gptq(refine=0, qep_alpha=0), "cpu", torch.float32)
    tokens = torch.arange(3, 83).reshape(2, 40)

    def job(folder: Path) -> None:
        layers = [["self_attn.q_proj"]] * 2
        run.quantize_blocks(streamed, layers, tokens, method, journal_in(folder), lambda event: None, {})

    job(tmp_path / "plain")
    monkeypatch.setattr(run, "writes_behind", lambda device: True)
    if is_full:
        monkeypatch.setattr(Journal, "write", full)
        with pytest.raises(OSError, match="No space left"):
            job(tmp_path / "full")
        return
    job(tmp_path / "behind")
    files = {file.name: file.read_bytes() for file in (tmp_path / "plain").glob("block*")}
    assert len(files) == 4
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "behind").glob("block*")}
