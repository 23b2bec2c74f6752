"""Weights of tokens are measured once for a job; what a journal holds in their place is measured again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qtoolkit.models.opening import open_checkpoint
from qtoolkit.records import ProgressEvent
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.journal import Journal, JournalLocation
from qtoolkit.stream.token_weights import token_weights
from tests.sample_models import random_model

TOKENS = torch.arange(3, 43).reshape(2, 20)
LAYERS = [["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"]] * 2
NAMES = [f"model.layers.{block}.{name}" for block in range(2) for name in LAYERS[0]]


@pytest.fixture(scope="module")
def streamed() -> StreamedModel:
    model = random_model("llama", torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda event: None)
    return StreamedModel(checkpoint, device="cpu", dtype=torch.float32)


def found(streamed: StreamedModel, journal: Journal) -> tuple[dict[str, torch.Tensor], int]:
    """The weights, and how many blocks were run for them."""
    events = list[ProgressEvent]()
    weights = token_weights(streamed, LAYERS, TOKENS, journal, events.append)
    return weights, max((event.done for event in events), default=0)


def journal_in(folder: Path) -> Journal:
    return Journal(JournalLocation(folder), {"bits": 4})


@pytest.fixture
def stored(streamed: StreamedModel, tmp_path: Path) -> dict[str, torch.Tensor]:
    weights, run = found(streamed, journal_in(tmp_path))
    assert list(weights) == [*NAMES[3:], *NAMES[:3]] and run == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["recipe.json", "weights.json", "weights.safetensors"]
    return weights


def test_they_are_read_again_to_the_bit(
    stored: dict[str, torch.Tensor], streamed: StreamedModel, tmp_path: Path
) -> None:
    weights, run = found(streamed, journal_in(tmp_path))
    assert run == 0 and weights.keys() == stored.keys()
    assert all(torch.equal(weights[name], stored[name]) for name in stored)
    assert weights[NAMES[0]] is weights[NAMES[1]] is not weights[NAMES[2]]


def test_without_a_folder_they_are_measured(streamed: StreamedModel, stored: dict[str, torch.Tensor]) -> None:
    weights, run = found(streamed, Journal(None, {"bits": 4}))
    assert run == 4 and all(torch.equal(weights[name], stored[name]) for name in stored)


def without_one(weights: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    del weights[NAMES[2]]
    facts["groups"] = [group for group in facts["groups"] if NAMES[2] not in group]


def one(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], None]:
    return lambda weights, facts: weights.__setitem__(NAMES[0], change(weights[NAMES[0]]))


DAMAGE: dict[str, Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]] = {
    "no groups": lambda weights, facts: facts.clear(),
    "groups of no kind": lambda weights, facts: facts.update(groups=[[0], None]),
    "a layer twice": lambda weights, facts: facts["groups"][0].append(NAMES[2]),
    "a layer less": without_one,
    "an empty group": lambda weights, facts: facts["groups"].append([]),
    "other names": lambda weights, facts: weights.update(other=weights.pop(NAMES[0])),
    "other tokens": one(lambda value: value[:1]),
    "other type": one(lambda value: value.double()),
    "negative": one(lambda value: value.index_fill(0, torch.tensor([0]), -1)),
    "no number": one(lambda value: value.index_fill(0, torch.tensor([1]), torch.nan)),
    "another mean": one(lambda value: value * 1.001),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_they_cannot_be_is_measured_again(damage: str, streamed: StreamedModel, tmp_path: Path) -> None:
    weights, _ = found(streamed, Journal(None, {"bits": 4}))
    stored = {name: weights[name].clone() for name in (NAMES[0], NAMES[2], NAMES[3], NAMES[5])}
    facts = {"groups": [NAMES[:2], NAMES[2:3], NAMES[3:5], NAMES[5:]]}
    journal_in(tmp_path).write_token_weights(stored, facts)
    assert found(streamed, journal_in(tmp_path))[1] == 0
    DAMAGE[damage](stored, facts)
    journal_in(tmp_path).write_token_weights(stored, facts)
    again, run = found(streamed, journal_in(tmp_path))
    assert run == 4 and all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_changed_byte_costs_a_measurement(
    stored: dict[str, torch.Tensor], streamed: StreamedModel, tmp_path: Path
) -> None:
    file = tmp_path / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert found(streamed, journal_in(tmp_path))[1] == 4


def test_blocks_count_for_their_weights_alone(
    stored: dict[str, torch.Tensor], streamed: StreamedModel, tmp_path: Path
) -> None:
    journal = journal_in(tmp_path)
    found(streamed, journal)
    journal.write(0, {"a": torch.ones(1)}, {})
    for changed in (False, True):
        again = journal_in(tmp_path)
        if changed:
            again.write_token_weights({"other": torch.ones(1)}, {})
        else:
            found(streamed, again)
        assert (again.read(0, lambda tensors, facts: True) is None) == changed
