"""Layers that write into the residual stream are found by what they do, in any architecture."""

import pytest
import torch

from qtoolkit.stream.groups import trace
from qtoolkit.stream.residuals import ResidualAdd, find_corrections
from tests.sample_models import random_model

# Layers that add to the stream, with the modules that get it before and after; "" is the block.
NORM = "post_attention_layernorm"
GATED = {"self_attn.o_proj": ResidualAdd("", NORM), "mlp.down_proj": ResidualAdd(NORM, "")}
WRITERS = {
    "llama": GATED,
    "qwen3": GATED,
    "phi3": GATED,
    "gpt2": {"attn.c_proj": ResidualAdd("", "ln_2"), "mlp.c_proj": ResidualAdd("ln_2", "")},
    "opt": {"self_attn.out_proj": ResidualAdd("", "final_layer_norm"), "fc2": ResidualAdd("final_layer_norm", "")},
    # A norm stands before the sum; one sum takes both outputs.
    "gemma3_text": {},
    "falcon": {},
}


@pytest.mark.parametrize("architecture", WRITERS)
def test_writers_are_found(architecture: str) -> None:
    model = random_model(architecture)
    block = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))[0]
    names = [
        name
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    ]
    tokens = torch.arange(2, 34)[None]
    found = {}

    def hook(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        handle.remove()

        def call() -> torch.Tensor:
            output = block(*args, **kwargs)
            return output[0] if isinstance(output, tuple) else output

        groups = trace(block, names, call)
        found.update(find_corrections(block, groups, call))

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        model(tokens, use_cache=False)
    assert {group[0]: add for group, add in found.items() if add is not None} == WRITERS[architecture]
    assert {name for group in found for name in group} == set(names)


class Odd(torch.nn.Module):
    """A layer that runs twice, one of a list, and one that sees half of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.some, self.out = (torch.nn.Linear(8, 8) for _ in range(3))
        self.experts = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(8, 8))])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = self.some(x[:, ::2].clone())
        y = self.twice(self.twice(x)) + self.experts[0](x.clone()) + half.repeat_interleave(2, dim=1)
        return x + self.out(y)


def test_layers_that_cannot_be_compared_token_by_token_are_left_out() -> None:
    torch.manual_seed(0)
    block, x = Odd(), torch.randn(1, 6, 8)
    groups = (("twice",), ("experts.0.0",), ("some",), ("out",))
    assert find_corrections(block, groups, lambda: block(x)) == {("out",): ResidualAdd("", "")}
