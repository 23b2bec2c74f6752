"""Layers of any shape are quantized in 4 bits, run, trained through and dequantized rightly on a CPU."""

from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

import qtoolkit as qt
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.verifier import check_running
from tests.publishing.checks import in_this_process
from tests.sample_models import plain_logits, random_model

# As outputs no multiple of 32, as inputs none of 64; and as inputs what bitsandbytes alone expands with wrong scales.
WIDTHS = (552, 96)
TOKENS = torch.arange(2, 34)[None]  # [1, tokens]


def rounded(weight: torch.Tensor, quant_type: str) -> torch.Tensor:
    """Return a weight by its codes, levels and scales."""
    codes, state = bnb.functional.quantize_4bit(weight, compress_statistics=True, quant_type=quant_type)
    both = torch.stack([codes.flatten() >> 4, codes.flatten() & 15], dim=1).flatten()[: weight.numel()]
    scales = bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    values = state.code[both.int()] * scales.repeat_interleave(64)[: weight.numel()]
    return values.reshape(weight.shape)  # [outputs, inputs]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("method", ["nf4", "fp4"])
def test_layers_of_any_shape_run_as_their_codes_say(method: str, width: int, tmp_path: Path) -> None:
    model = random_model("llama", dtype=torch.float32, intermediate_size=width)
    q = qt.quantize(model, method, device="cpu", output=tmp_path / "result")
    assert q.memory.footprint_after == q.memory.predicted_footprint_after
    assert len(q.report.layers) == 14
    first = "gate_proj [552, 64]" if width == 552 else "down_proj [64, 96]"
    (note,) = [note for note in q.report.notes if "bitsandbytes alone" in note]
    assert note.startswith(f"{6 if width == 552 else 2} of 14 layers, such as model.layers.0.mlp.{first}: ")
    for layer in q.report.layers:
        linear = model.get_submodule(layer.name)
        linear.weight.data = rounded(linear.weight.data, method)
    expected, ours = plain_logits(model, TOKENS), plain_logits(q.model, TOKENS)
    # Packed layers multiply in bfloat16.
    assert (ours - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(plain_logits(qt.load(tmp_path / "result", device="cpu").model, TOKENS), ours)
    # Plain transformers loads it, and whether it runs is a matter of the processor: the check says so.
    loads = next(check_running(open_artifact(tmp_path / "result"), None, in_this_process))
    assert (loads.passed, loads.note) == (True, note)


def test_gradients_and_dequantized_weights_are_those_of_the_codes() -> None:
    model = random_model("llama", dtype=torch.float32, intermediate_size=96)
    weight = model.get_submodule("model.layers.0.mlp.down_proj").weight.detach()
    expected = rounded(weight, "nf4")
    quantized = qt.quantize(model, "nf4", device="cpu").model
    x = torch.randn(3, 96, requires_grad=True)
    quantized.get_submodule("model.layers.0.mlp.down_proj")(x).square().sum().backward()
    assert torch.allclose(x.grad, 2 * x.detach() @ expected.T @ expected, rtol=1e-4, atol=1e-5)
    plain = quantized.dequantize().get_submodule("model.layers.0.mlp.down_proj").weight
    assert torch.allclose(plain.float(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [64, 96])
def test_inputs_that_are_a_transposed_view_are_multiplied_as_they_are_read(width: int) -> None:
    layer = qt.quantize(random_model("llama", intermediate_size=width), "nf4", device="cpu").model.get_submodule(
        "model.layers.0.mlp.down_proj"
    )
    x = torch.randn(1, width, 8, dtype=torch.bfloat16).transpose(1, 2)  # [1, tokens, in]
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x.contiguous()))
