"""The published memory figures of GPT-2, from its shapes."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from qtoolkit.tensor.grouping import to_groups
from qtoolkit.tensor.integer_codes import absmax_quantize, zero_point_quantize

LAYERS, CONTEXT = 12, 1024


@pytest.fixture(scope="module")
def gpt2() -> dict[str, torch.Tensor]:
    """GPT-2's parameters on the meta device, the tied head once."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    model.tie_weights()
    return dict(model.named_parameters())


def as_matrix(parameter: torch.Tensor) -> torch.Tensor:
    # Biases and norms: [n] -> [1, n]
    return parameter if parameter.ndim == 2 else parameter[None]


def test_parameters_take_four_bytes_and_then_one(gpt2: dict[str, torch.Tensor]) -> None:
    assert sum(parameter.numel() for parameter in gpt2.values()) == 124_439_808
    assert sum(parameter.nbytes for parameter in gpt2.values()) == 497_759_232
    scales = codes = 0
    for parameter in gpt2.values():
        groups = to_groups(as_matrix(parameter), "tensor")
        codes += groups.to(torch.int8).nbytes
        scales += groups.amax(-1).nbytes
    assert codes == 124_439_808
    assert scales == 4 * len(gpt2) == 592


def test_older_transformers_counted_the_causal_masks_too(gpt2: dict[str, torch.Tensor]) -> None:
    mask = torch.empty(1, 1, CONTEXT, CONTEXT, dtype=torch.bool, device="meta")
    masks = LAYERS * (mask.nbytes + torch.tensor(-1e4).nbytes)
    assert masks == 12_582_960
    before = 4 * 124_439_808
    after = 124_439_808
    assert before + masks == 510_342_192
    assert after + masks == 137_022_768
    assert 1 - (after + masks) / (before + masks) == pytest.approx(0.7315, abs=1e-4)
    assert 1 - (after + 4 * len(gpt2)) / before == pytest.approx(0.75, abs=1e-4)


@pytest.mark.parametrize("name", ["transformer.h.0.attn.c_proj.weight", "transformer.h.0.ln_1.weight"])
def test_real_codes_take_what_the_shapes_say(gpt2: dict[str, torch.Tensor], name: str) -> None:
    weight = as_matrix(torch.randn(gpt2[name].shape))
    codes, scale = absmax_quantize(to_groups(weight, "tensor"), 8)
    assert (codes.nbytes, scale.nbytes) == (weight.numel(), 4)
    codes, scale, zero_point = zero_point_quantize(to_groups(weight, "tensor"), -127, 127)
    assert (codes.nbytes, scale.nbytes, zero_point.nbytes) == (weight.numel(), 4, 1)
