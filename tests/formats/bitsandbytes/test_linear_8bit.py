"""An int8 layer computes the same of inputs of any dimensions, and on an older processor as bitsandbytes does here."""

import pytest
import torch

import qtoolkit as qt
from qtoolkit.tensor import processor
from tests.sample_models import random_model


def test_inputs_of_four_dimensions_are_multiplied_as_those_of_three() -> None:
    model = qt.quantize(random_model("llama"), "int8", device="cpu").model
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(2, 3, 5, 64, dtype=torch.bfloat16)  # [batch, heads, tokens, in]
    with torch.no_grad():
        assert torch.equal(layer(x), torch.stack([layer(one) for one in x]))


@pytest.mark.parametrize("tokens", [1, 9], ids=["a token", "nine tokens"])
@pytest.mark.parametrize("largest", [1.0, 20.0], ids=["no outliers", "outliers"])
def test_an_older_processor_gives_what_bitsandbytes_does(
    largest: float, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = qt.quantize(random_model("llama"), "int8", device="cpu").model
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(1, tokens, 64).bfloat16().float()
    x[..., 5] = largest
    with torch.no_grad():
        monkeypatch.setattr(processor, "bfloat16_is_fast", lambda: True)
        theirs = layer(x)
        monkeypatch.setattr(processor, "bfloat16_is_fast", lambda: False)
        ours = layer(x)
    assert not torch.equal(ours, theirs) and ours.shape == theirs.shape
    # bitsandbytes 0.50 has 6.200124e-05 for 1 / 127^2; sums of one token are rounded to bfloat16.
    assert (ours - theirs).norm() < (3e-3 if tokens == 1 else 3e-5) * theirs.norm()
