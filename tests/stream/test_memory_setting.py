"""A calibration whose GPU runs out of memory goes on with less of it, and tells that."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.records import ProgressEvent
from qtoolkit.stream import run
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.journal import DoneBlock, Journal
from qtoolkit.stream.memory_setting import MemorySetting
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

TOKENS = torch.arange(3, 163).reshape(4, 40)
NAMES = ["self_attn.q_proj", "mlp.down_proj"]


class Small(GPTQBlocks):
    """Memory runs out where a block has more samples at one time than it has room for."""

    def __init__(self, config: qt.GPTQ, room: dict[int, int]) -> None:
        super().__init__(config, "cpu", torch.float32)
        self.room = room
        self.started: list[str] = []

    def start(self, names: Sequence[str], in_features: int) -> Any:
        self.started.append(names[0])
        group: Any = super().start(names, in_features)
        add, most = group.add, self.room.get(int(names[0].split(".")[2]), 4)

        def added(inputs: Any) -> None:
            if inputs.inputs.numel() > most * 40 * in_features:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            add(inputs)

        group.add = added
        return group


def job(room: dict[int, int]) -> tuple[list[DoneBlock], Small, Journal, list[ProgressEvent]]:
    torch.manual_seed(0)
    model = random_model("llama", torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda event: None)
    streamed = StreamedModel(checkpoint, device="cpu", dtype=torch.float32)
    method, journal, events = Small(gptq(refine=0, qep_alpha=0), room), Journal(None, {}), []
    done = run.quantize_blocks(streamed, [NAMES] * 2, TOKENS, method, journal, events.append, {})
    return done, method, journal, events


def test_it_goes_on_with_half_of_the_samples_and_keeps_what_is_done() -> None:
    whole, *_ = job({})
    done, method, journal, events = job({1: 1})
    where = "hidden states in main memory and"
    assert journal.noted == [
        f"the GPU's memory ran out with {where} {more} at one time: the job went on with {where} {less} at one time"
        for more, less in ((4, 2), (2, 1))
    ]
    assert journal.notes == journal.noted
    assert [event.detail for event in events if event.detail in journal.noted] == journal.noted
    assert [name for name in method.started if ".0." in name] == [f"model.layers.0.{name}" for name in NAMES]
    for block, wanted in zip(done, whole, strict=True):
        for name, tensor in wanted.tensors.items():
            # Sums of one sample after the other may round another way.
            assert (block.tensors[name][...] != tensor[...]).float().mean() < 0.02, name


def test_where_nothing_is_left_to_save_it_ends() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        job({0: 0})


def test_hidden_states_leave_the_gpu_before_batches_shrink() -> None:
    setting: MemorySetting | None = MemorySetting("cuda:0", 4)
    seen = []
    while setting is not None:
        seen.append((setting.states, setting.at_once))
        setting = setting.smaller()
    assert seen == [("cuda:0", 4), ("cpu", 4), ("cpu", 2), ("cpu", 1)]
    assert str(MemorySetting("cuda:0", 4)) == "hidden states in the memory of cuda:0 and 4 at one time"
