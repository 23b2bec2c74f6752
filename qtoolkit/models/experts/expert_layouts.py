"""Describe how a module keeps the weights of all its experts, and where each linear layer of an expert lies in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from qtoolkit.errors import CheckpointError

# How a module is called, which decides what replaces it: with the experts that each token was sent to; with every token
# for every expert, in the order of the experts; or as one linear layer for each expert, with sorted tokens.
ROUTED, REPEATED, SORTED = "routed", "repeated", "sorted"
# Modules on which transformers says nothing, read in its sources (5.15 to 5.23): gate and up one after the other, each
# called as said.
_UNDECLARED = {"LongcatFlashExperts": ROUTED, "Step3p7Experts": ROUTED, "Llama4TextExperts": REPEATED}
_SORTED_LINEARS = ("JetMoeParallelExperts",)
_GATE_UP, _UP, _DOWN = "gate_up_proj", "up_proj", "down_proj"


@dataclass(frozen=True)
class ExpertLinear:
    """One linear layer of each expert, as part of the tensors that hold it for all.

    Attributes:
        name: the layer's name as a child of an expert, "gate_proj"; empty where an expert is one layer.
        weight: name of the parameter that holds it: [experts, out, in], or [experts * out, in].
        outputs: which of the outputs that the parameter holds for an expert are the layer's.
        bias: name of the parameter [experts, out] with its bias; None without one.
        transposed: whether the parameter holds [in, out] for an expert.
    """

    name: str
    weight: str
    outputs: slice = field(default_factory=partial(slice, None))
    bias: str | None = None
    transposed: bool = False

    def weight_of(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return W[out, in] as a view of what the parameter holds for one expert."""
        return (matrix.T if self.transposed else matrix)[self.outputs]

    def child_of(self, experts: str, index: int) -> str:
        """Return the full name of the layer of one expert, given that of the module."""
        return ".".join(part for part in (experts, str(index), self.name) if part)


@dataclass(frozen=True)
class ExpertLayout:
    """How a module keeps its experts.

    Attributes:
        num_experts: how many experts have weights.
        linears: the layers of each; the last one makes the output.
        called: ROUTED, REPEATED or SORTED.
        is_apart: whether checkpoints keep the layers of each expert by themselves.
        interleaved: whether the gate takes one output of either layer in turn, and not one layer after the other.
    """

    num_experts: int
    linears: tuple[ExpertLinear, ...]
    called: str = ROUTED
    is_apart: bool = False
    interleaved: bool = False

    @property
    def parameters(self) -> Mapping[str, tuple[tuple[ExpertLinear, str], ...]]:
        """Return, by the name of each parameter, its layers and what it is of each: "weight" or "bias"."""
        found: dict[str, tuple[tuple[ExpertLinear, str], ...]] = {}
        for linear in self.linears:
            found[linear.weight] = (*found.get(linear.weight, ()), (linear, "weight"))
            if linear.bias is not None:
                found[linear.bias] = (*found.get(linear.bias, ()), (linear, "bias"))
        return found

    def rows_of(self, shape: Sequence[int], index: int, kind: str = "weight") -> tuple[int, int]:
        """Return the first row and the one after the last that a parameter of this shape holds for an expert."""
        height = shape[0] // self.num_experts if kind == "weight" and len(shape) == 2 else 1
        return index * height, (index + 1) * height


def layout_of(module: nn.Module, names: Sequence[str] | None, *, default: Sequence[str]) -> ExpertLayout | None:
    """Return how a module keeps its experts; None for one that keeps none, or computes what is not known.

    Args:
        module: of a model.
        names: of the layers of an expert in checkpoints that keep each by itself; None where experts are in one tensor.
        default: names of gate, up and down for checkpoints that do not name them.
    """
    kind = type(module).__name__
    parameters = dict(module.named_parameters(recurse=False))
    if kind in _SORTED_LINEARS:
        return ExpertLayout(len(parameters["weight"]), (ExpertLinear("", "weight"),), SORTED)
    if kind == "DbrxExperts":
        # Databricks' names; each is [experts * intermediate, hidden], and w2 is used transposed.
        parts = (ExpertLinear("w1", "mlp.w1"), ExpertLinear("v1", "mlp.v1"))
        return ExpertLayout(module.num_experts, (*parts, ExpertLinear("w2", "mlp.w2", transposed=True)))  # type: ignore[arg-type]
    called = ROUTED if hasattr(module, "has_gate") else _UNDECLARED.get(kind)
    if called is None or _DOWN not in parameters:
        return None
    gated = getattr(module, "has_gate", True)
    biased = getattr(module, "has_bias", False)
    interleaved = not getattr(module, "is_concatenated", True)
    first = _GATE_UP if gated else _UP
    expected = {first, _DOWN, *((f"{first}_bias", f"{_DOWN}_bias") if biased else ())}
    if parameters.keys() != expected or any(parameters[name].ndim != 3 for name in (first, _DOWN)):
        return None
    transposed = _is_transposed(module, parameters[first].shape, parameters[_DOWN].shape, gated=gated)
    width = parameters[first].shape[2 if transposed else 1]
    found = names or (default if gated else default[1:])
    if len(found) != (3 if gated else 2):
        return None
    outputs = _halves(width, interleaved=interleaved) if gated else (slice(None),)
    bias = f"{first}_bias" if biased else None
    linears = [ExpertLinear(name, first, part, bias, transposed) for name, part in zip(found, outputs, strict=False)]
    linears.append(ExpertLinear(found[-1], _DOWN, bias=f"{_DOWN}_bias" if biased else None, transposed=transposed))
    count = len(parameters[_DOWN])
    return ExpertLayout(count, tuple(linears), called, names is not None, interleaved and gated)


def _is_transposed(module: Any, first: Sequence[int], down: Sequence[int], *, gated: bool) -> bool:
    """Return whether parameters hold [in, out] for an expert; transformers says so, or the shapes do."""
    declared = getattr(module, "is_transposed", None)
    if declared is not None:
        return bool(declared)
    factor = 2 if gated else 1
    _, rows, columns = first
    _, down_rows, down_columns = down
    if (rows, columns) == (factor * down_columns, down_rows):
        return False
    if (columns, rows) == (factor * down_rows, down_columns):
        return True
    kind = type(module).__name__
    raise CheckpointError(f"{kind} has experts of shapes {list(first)} and {list(down)}, which do not fit each other")


def _halves(width: int, *, interleaved: bool) -> tuple[slice, slice]:
    """Return which of `width` outputs are the gate's, and which those of the layer beside it."""
    if interleaved:
        return slice(0, None, 2), slice(1, None, 2)
    return slice(0, width // 2), slice(width // 2, width)
