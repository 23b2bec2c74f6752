"""Keep some of the tokens that enter the experts of a block, to calibrate experts with that saw few of their own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from qtoolkit.stream.forward import collect, observed
from qtoolkit.stream.groups import is_indexed

# Tokens that are kept of all that enter the experts. The Hessian that stands for all tokens is one of these.
KEPT_TOKENS = 2048


class ExpertInputs:
    """Note what enters the lists of experts in a block, and run it through single experts.

    Args:
        block: in memory.
        names: of its layers that are quantized.

    Attributes:
        kept: tokens [tokens, in] that enter a list of experts, by its name.
    """

    def __init__(self, block: nn.Module, names: Sequence[str]) -> None:
        self._block = block
        self._lists = sorted({list_of(name) for name in names if is_indexed(name)})
        self.kept: dict[str, torch.Tensor] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what enters the experts in a run of the block, for the time of a `with` block."""
        with observed(self._block, self._lists, self._note):
            yield

    def of(self, layer: str) -> torch.Tensor | None:
        """Return what the layer of an expert gets of the kept tokens [tokens, in], as if all were sent to that expert.

        Layers of the expert before it are run with the weights that they have. None for a layer of no expert, and for
        one whose expert ran before any token was noted.
        """
        if not is_indexed(layer) or list_of(layer) not in self.kept:
            return None
        tokens = self.kept[list_of(layer)]
        expert, rest = expert_of(layer)
        if not rest:
            return tokens
        found: list[torch.Tensor] = []
        module = self._block.get_submodule(expert)
        # Ends before the layer: those behind it may wait for inputs of their own.
        collect(module, [rest], [partial(module, tokens)], lambda _, x: found.append(x))
        return found[0]

    def _note(self, name: str, x: torch.Tensor) -> None:
        """Keep some tokens of what enters a list of experts, evenly spread; those of zeros were sent to no expert."""
        if name in self.kept:
            return
        tokens = x.detach().reshape(-1, x.shape[-1])  # [..., in] -> [tokens, in]
        tokens = tokens[tokens.any(dim=-1)]
        step = max(1, len(tokens) // KEPT_TOKENS)
        self.kept[name] = tokens[::step][:KEPT_TOKENS].clone()


def list_of(layer: str) -> str:
    """Return the name of the list of experts that a layer is in.

    >>> list_of("mlp.experts.3.up_proj"), list_of("mlp.input_linear.3")
    ('mlp.experts', 'mlp.input_linear')
    """
    return expert_of(layer)[0].rpartition(".")[0]


def expert_of(layer: str) -> tuple[str, str]:
    """Return the name of a layer's expert within the block, and the layer's name within the expert.

    >>> expert_of("mlp.experts.3.up_proj"), expert_of("mlp.input_linear.3")
    (('mlp.experts.3', 'up_proj'), ('mlp.input_linear.3', ''))
    """
    parts = layer.split(".")
    last = max(index for index, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: last + 1]), ".".join(parts[last + 1 :])
