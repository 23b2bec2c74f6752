"""Find what the layers of a block can be corrected by: their exact inputs, or the residual stream that they write."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from qtoolkit.stream.forward import Call
from qtoolkit.stream.groups import Group, is_indexed

# Tokens that are compared, the last of a sample, and the difference that counts as none, as a share of the output.
_TOKENS = 64
_NEARLY = 0.01


@dataclass(frozen=True)
class ResidualAdd:
    """Locate where the output of a layer is added to the residual stream.

    Attributes:
        before: the module whose input is the residual stream without the output; "" for the block itself.
        after: the module whose input is the sum; "" if the sum is the block's output.
    """

    before: str
    after: str


# What corrects a group: the exact inputs (None), or for a layer that writes into the residual stream, the exact stream.
Corrections = Mapping[Group, ResidualAdd | None]


def find_corrections(block: nn.Module, groups: Sequence[Group], call: Call) -> Corrections:
    """Run a block once, and return which groups can be corrected, and by what.

    Two streams are compared token by token. Left out are therefore experts, to which the router sends other tokens in
    each stream, layers that run several times, and those that do not see every token.

    A layer writes into the residual stream if the stream so far, plus its output, is the input of a later module or the
    output of the block. The stream so far is the input of the block at first, then the sum that was found last. In a
    block that has a norm before the sum (Gemma 3), or one sum for attention and MLP (Falcon), there is none.

    Args:
        block: a block that is in memory, with its original weights.
        groups: of `trace`.
        call: runs the block on any sample.
    """
    run = _Run()
    with run.observing(block, [name for group in groups for name in group]), torch.no_grad():
        output = call()
    adds = run.residual_adds(output)
    found: dict[Group, ResidualAdd | None] = {}
    for group in groups:
        sees_all = all(run.calls[name] == 1 and name in run.outputs and not is_indexed(name) for name in group)
        if sees_all:
            # A sum holds the output of one layer.
            found[group] = adds.get(group[0]) if len(group) == 1 else None
    return found


@dataclass
class _Run:
    """Record inputs of modules and outputs of layers that have all tokens of a block, in one run.

    Attributes:
        calls: how often each module ran.
        inputs: name of a module and the last tokens of its input [tokens, in], in the order in which they run.
        outputs: name of a layer -> number of inputs recorded by then, and the last tokens of its output [tokens, out].
        num_tokens: that the block gets.
    """

    calls: Counter[str] = field(default_factory=Counter)
    inputs: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    outputs: dict[str, tuple[int, torch.Tensor]] = field(default_factory=dict)
    num_tokens: int = 0

    @contextmanager
    def observing(self, block: nn.Module, layers: Iterable[str]) -> Iterator[None]:
        """Record while a `with` block runs."""
        named = dict(block.named_modules())
        handles = [module.register_forward_pre_hook(self._input_hook(name)) for name, module in named.items()]
        handles += [named[name].register_forward_hook(self._output_hook(name)) for name in dict.fromkeys(layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _input_hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.calls[name] += 1
            x = args[0] if args else None
            if not name:
                self.num_tokens = _tokens(x)
            if x is not None and _tokens(x) == self.num_tokens:
                self.inputs.append((name, _last(x)))

        return hook

    def _output_hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            if _tokens(output) == self.num_tokens:
                self.outputs[name] = len(self.inputs), _last(output)

        return hook

    def residual_adds(self, output: torch.Tensor) -> dict[str, ResidualAdd]:
        """Return the layers whose output is added to the residual stream, given the block's output."""
        before, stream = self.inputs[0]
        adds = {}
        for layer, (position, y) in self.outputs.items():
            later = [(name, x) for name, x in self.inputs[position:] if self.calls[name] == 1]
            for name, x in [*later, ("", _last(output))]:
                if _is_sum(x, stream, y):
                    adds[layer] = ResidualAdd(before, name)
                    before, stream = name, x
                    break
        return adds


def _tokens(x: Any) -> int:
    """Return the number of tokens of activations x[..., hidden]; 0 for anything else."""
    return x[..., 0].numel() if torch.is_tensor(x) and x.dim() > 1 else 0


def _last(x: torch.Tensor) -> torch.Tensor:
    """Return the last tokens of activations, x[..., hidden] -> [tokens, hidden], copied."""
    return x.detach().reshape(-1, x.shape[-1])[-_TOKENS:].clone()


def _is_sum(x: torch.Tensor, stream: torch.Tensor, y: torch.Tensor) -> bool:
    """Check whether x is stream + y, but for rounding."""
    if not x.shape == stream.shape == y.shape:
        return False
    difference = x.float() - (stream + y).float()
    return bool(difference.norm() <= _NEARLY * y.float().norm())
