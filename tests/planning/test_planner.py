"""Planning decides things about a checkpoint and leaves it as it is."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.planning.planner import plan_job, plan_with_advice
from qtoolkit.records import Machine, ignore_progress

# Its GPU has no bfloat16, and too little memory for the model.
SMALL = Machine("small", 10**9, (10_000,), has_bfloat16=False)


@pytest.fixture
def checkpoint(smollm2: Path) -> Checkpoint:
    return open_checkpoint(smollm2, revision=None, token=None, tokenizer=None, on_progress=ignore_progress)


@pytest.mark.parametrize("config", [qt.NF4(), qt.Int8(), qt.GPTQ(group_size=64)], ids=str)
def test_planning_twice_gives_equal_plans(checkpoint: Checkpoint, config: Any) -> None:
    before = checkpoint.dtype, checkpoint.notes
    first, second = (plan_with_advice(checkpoint, config, "cuda:0", SMALL, rss=0) for _ in range(2))
    assert first.plan == second.plan and first.config == second.config
    assert first.plan.advice and not first.plan.fits
    assert (checkpoint.dtype, checkpoint.notes) == before


def test_what_planning_decides_is_returned(checkpoint: Checkpoint) -> None:
    planned = plan_job(checkpoint, qt.NF4(), "cuda:0", SMALL, rss=0)
    assert (checkpoint.dtype, planned.checkpoint.dtype) == (torch.bfloat16, torch.float16)
    (note,) = set(planned.checkpoint.notes) - set(checkpoint.notes)
    assert note == "loaded in torch.float16 instead of torch.bfloat16, which cuda:0 does not have"
    assert planned.plan.notes[: len(planned.checkpoint.notes)] == planned.checkpoint.notes


def test_a_checkpoint_is_frozen(checkpoint: Checkpoint) -> None:
    with pytest.raises(FrozenInstanceError):
        checkpoint.dtype = torch.float32  # type: ignore[misc]
    assert isinstance(checkpoint.notes, tuple)
