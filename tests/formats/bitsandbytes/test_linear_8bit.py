"""An int8 layer computes the same of inputs of four dimensions, as latent attention gives them, as of single tokens."""

import torch

import qtoolkit as qt
from tests.sample_models import random_model


def test_inputs_of_four_dimensions_are_multiplied_as_those_of_three() -> None:
    model = qt.quantize(random_model("llama"), "int8", device="cpu").model
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(2, 3, 5, 64, dtype=torch.bfloat16)  # [batch, heads, tokens, in]
    with torch.no_grad():
        assert torch.equal(layer(x), torch.stack([layer(one) for one in x]))
