"""A model runs in one thread while another saves, copies, converts or prepares it: no output changes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.kernels import running
from tests.kernels.gptq_layers import Kind, gptq_layer
from tests.kernels.running import while_another
from tests.kernels.schemes import Scheme, quantized

pytestmark = pytest.mark.once

FORWARDS = 1000


def act_order_model() -> nn.Sequential:
    """Two layers whose inputs stand in another order than their groups, prepared."""
    return nn.Sequential(*(gptq_layer(Kind(4, order="act", sym=False), seed=seed).prepare() for seed in (1, 2)))


ACTS = running.ACTS | {"moving": lambda model, folder: model.to("cpu", torch.bfloat16)}


@pytest.mark.parametrize(("act", "tokens"), [*((act, 1) for act in ACTS), ("its state", 70)])
def test_no_output_changes_meanwhile(act: str, tokens: int, tmp_path: Path) -> None:
    model = act_order_model().to(torch.bfloat16)
    x = torch.randn(tokens, 128).bfloat16()
    expected, before = model(x), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(
        while_another(lambda: ACTS[act](model, tmp_path), lambda: torch.equal(model(x), expected), times=FORWARDS)
    )
    after = load_file(tmp_path / "model.safetensors") if act == "saving" else model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_state_is_whole_while_its_layer_is_prepared() -> None:
    stored = gptq_layer(Kind(4, order="act"))
    expected, layers = stored.state_dict(), [copy.deepcopy(stored) for _ in range(FORWARDS)]
    waiting = iter(layers)

    def prepare() -> None:
        for layer in waiting:
            layer.prepare()

    def whole() -> bool:
        state = asked.pop().state_dict()
        return list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in expected)

    asked = layers[::-1]
    assert all(while_another(prepare, whole, times=FORWARDS))


@pytest.mark.parametrize("kind", ["gptq", "absmax"])
def test_scales_are_never_rounded_while_a_model_is_converted(kind: str) -> None:
    """Converting takes the scales along as they are: no other thread sees them in the new type."""
    if kind == "gptq":
        layer: Any = gptq_layer(Kind(4))
    else:
        linear = nn.Linear(64, 64)
        layer = quantized(linear, Scheme(8, "channel", -1, symmetric=True))
    x = torch.randn(2, layer.in_features)
    layer.bias = None
    expected = layer(x)
    types = iter([torch.float16, torch.float32] * 10**6)
    assert all(while_another(lambda: layer.to(next(types)), lambda: torch.equal(layer(x), expected), times=FORWARDS))
