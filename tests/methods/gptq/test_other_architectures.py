"""GPTQ of models whose blocks are found, filled and run otherwise than those of plain decoders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qtoolkit as qt
from qtoolkit.models import structure
from tests.sample_models import random_model

CONFIG = qt.GPTQ(bits=8, group_size=32, calibration=[[*range(3, 35)]], num_samples=1, seq_len=32)
TOKENS = torch.arange(3, 35)[None]
# The list of blocks, and quantized layers of each block.
EXPECTED = {
    "bamba": ("model.layers", [{"mamba.out_proj"}, {"self_attn.q_proj"}]),
    "falcon_h1": ("model.layers", [{"mamba.out_proj", "self_attn.q_proj"}] * 2),
    "nemotron_h": ("model.layers", [{"mixer.out_proj"}, {"mixer.q_proj"}, {"mixer.up_proj"}, set()]),
    "gemma3": ("model.language_model.layers", [{"self_attn.q_proj", "mlp.down_proj"}] * 2),
}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_it_is_quantized_and_read_again(architecture: str, tmp_path: Path) -> None:
    model = random_model(architecture)
    q = qt.quantize(model, CONFIG, device="cpu", output=tmp_path / "result")
    blocks, expected = EXPECTED[architecture]
    names = {layer.name for layer in q.report.layers}
    for index, layers in enumerate(expected):
        assert {f"{blocks}.{index}.{layer}" for layer in layers} <= names
    assert all(name.startswith(f"{blocks}.") for name in names)
    with torch.no_grad():
        full, quantized = (one(TOKENS).logits.float() for one in (model, q.model))
        assert (quantized - full).norm() < 0.05 * full.norm()
        loaded = qt.load(tmp_path / "result", device="cpu")
        assert torch.equal(loaded.model(TOKENS).logits.float(), quantized)  # type: ignore[union-attr]


def rename_all(model: nn.Module) -> None:
    """Give every module another name; the code of its owner finds it by the old one."""
    for number, module in enumerate(list(model.modules())):
        if isinstance(module, nn.ModuleList):
            continue
        names = {name: f"part_{number}_{index}" for index, name in enumerate(module._modules)}
        module._modules = {names[name]: child for name, child in module._modules.items()}
        kind = type(module)

        def find(self: Any, name: str, kind: Any = kind, names: dict[str, str] = names) -> Any:
            return kind.__getattr__(self, names.get(name, name))

        module.__class__ = type(kind.__name__, (kind,), {"__getattr__": find, "__module__": kind.__module__})


def test_blocks_are_found_whatever_they_are_called() -> None:
    """Of two lists that are equally long, the one that is called for a text holds the blocks."""
    model: Any = random_model("gemma3").to("meta")
    tower, text = model.model.vision_tower, model.model.language_model.layers
    assert [len(part) for part in tower.modules() if isinstance(part, nn.ModuleList)] == [len(text)]
    rename_all(model)
    known = {"model", "layers", "language_model", "vision_tower", "self_attn", "mlp", "embed_tokens", "lm_head"}
    assert not known & {part for name, _ in model.named_modules() for part in name.split(".")}
    found = structure.block_list(model)
    assert found is not None
    assert found[1] is text
    assert model.get_submodule(found[0]) is text


def test_blocks_are_those_that_a_text_reaches() -> None:
    """Calls alone tell them from a tower of equal depth that stands within the model of the text."""
    model: Any = random_model("gemma3").to("meta")
    inner = model.model
    text = inner.language_model
    text._modules = {"tower": inner._modules.pop("vision_tower"), **text._modules}
    assert structure.block_list(model) == ("model.language_model.layers", text.layers)
