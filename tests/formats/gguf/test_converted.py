"""Files in F16 of small models of each architecture are those that llama.cpp's own converter writes."""

import json
import struct
import weakref
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from qtoolkit.checkpoints.gguf_architectures import ARCHITECTURES
from qtoolkit.formats.gguf.file_plan import FilePlan, plan_file
from tests.data import llama_cpp
from tests.formats.gguf.small_models import SMALL, small_model

# What `convert_hf_to_gguf.py` wrote of them (`convert_models.py` beside it).
CONVERTED: dict[str, Any] = json.loads((Path(llama_cpp.__file__).parent / "converted.json").read_text(encoding="utf-8"))
# The size in words, "75K", of which no reader computes.
UNREAD = {"general.size_label"}


@pytest.mark.parametrize("title", SMALL)
def test_tensors_and_values_are_those_of_llama_cpp(title: str) -> None:
    """Names, order of rows, types, and every number that its converter tells; each byte of each tensor."""
    model = small_model(title)
    state = {name: weight for name, weight in model.state_dict().items() if name not in model.all_tied_weights_keys}
    plan = planned(model, state)
    assert described(plan, state) == CONVERTED[title]["tensors"]
    told = {key: value for key, value in CONVERTED[title]["values"].items() if key not in UNREAD}
    assert {key: rounded(plan.values[key].content) for key in told} == {key: rounded(told[key]) for key in told}


@pytest.mark.parametrize("title", [title for title, (kind, _) in SMALL.items() if ARCHITECTURES[kind].experts])
def test_experts_that_lie_apart_become_the_same_stacks(title: str, tmp_path: Path) -> None:
    """A folder has each matrix of each expert on its own, and transformers 5 holds those of a layer as one tensor."""
    model = small_model(title)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    assert any(".experts.1." in name for name in state)
    assert described(planned(model, state), state) == CONVERTED[title]["tensors"]


def test_experts_are_read_one_at_a_time(tmp_path: Path) -> None:
    """Each is given back before the next is asked for, so that no layer is whole in memory in 16 bits."""
    model = small_model("mixtral")
    model.save_pretrained(tmp_path)
    held: list[weakref.ref[torch.Tensor]] = []
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping

    def read(name: str) -> torch.Tensor:
        assert all(earlier() is None for earlier in held)
        weight = state[name].clone()
        held.append(weakref.ref(weight))
        return weight

    stack = next(tensor for tensor in planned(model, state).tensors if "_exps" in tensor.entry.name)
    assert stack.made(read).numel() == stack.entry.nbytes
    assert len(held) == 8


def test_the_first_checkpoints_of_gpt2_have_no_prefix() -> None:
    """And buffers that are no weights."""
    model = small_model("gpt2")
    state = {name.removeprefix("transformer."): weight for name, weight in model.transformer.state_dict().items()}
    state["h.0.attn.bias"] = torch.ones(1, 1, 128, 128)
    assert described(planned(model, state), state) == CONVERTED["gpt2"]["tensors"]


def test_every_architecture_is_compared() -> None:
    """None is written that llama.cpp was not asked about."""
    assert {kind for kind, _ in SMALL.values()} == {*ARCHITECTURES}


def planned(model: Any, state: Mapping[str, torch.Tensor]) -> FilePlan:
    """Plan the file of a model without a tokenizer."""
    shapes = {name: tuple(weight.shape) for name, weight in state.items()}
    return plan_file(model.config, shapes, None, "F16", {"general.name": "small"})


def described(plan: FilePlan, state: Mapping[str, torch.Tensor]) -> dict[str, list[Any]]:
    """Return each tensor's type, shape and hash, as `convert_models.py` stores them."""
    return {
        tensor.entry.name: [
            tensor.type_.name,
            [*tensor.entry.shape],
            sha256(tensor.made(state.__getitem__).contiguous().numpy().tobytes()).hexdigest()[:16],
        ]
        for tensor in plan.tensors
    }


def rounded(value: Any) -> Any:
    """Return a number as float32 holds it."""
    return struct.unpack("f", struct.pack("f", value))[0] if isinstance(value, float) else value
