"""What a method is to do for jobs that go block by block: collect the inputs of layers, and quantize these."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.stream.groups import GroupInputs


class Accumulator(Protocol):
    """Collect the inputs of layers that share them, then quantize these layers.

    Attributes:
        wants_more: whether there are so few inputs that those of other experts help, where the layers are an expert's.
    """

    @property
    def wants_more(self) -> bool:
        """See the class."""

    def lean_on(self, inputs: torch.Tensor) -> None:
        """Take inputs [tokens, in] of other experts' tokens into account, beside the layers' own."""

    def add(self, batch: GroupInputs) -> None:
        """Add a batch of inputs."""

    def finish(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, "Result"]:
        """Quantize the layers, given the weight W[out, in] of each by its name."""


class Result(NamedTuple):
    """Hold one quantized layer.

    Attributes:
        tensors: by their names in a layer, on the CPU.
        facts: JSON-ready values about it.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class BlockMethod(Protocol):
    """Quantize groups of layers that share their inputs.

    Attributes:
        true_sequential: whether a layer gets the outputs of already quantized layers of its block.
        wants_exact: whether accumulators get what the full-precision model has at the same tokens, by a second stream.
    """

    true_sequential: bool
    wants_exact: bool

    def start(self, names: Sequence[str], in_features: int) -> Accumulator:
        """Return a new accumulator for a group of layers, given by their full names."""

    def dequantize(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the weight W[out, in] that the tensors of a layer encode, as a loaded model multiplies with it.

        Args:
            name: the layer's full name.
            tensors: of `Result`.
        """

    def fits(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, StoredTensor | torch.Tensor],
        facts: Mapping[str, Any],
    ) -> bool:
        """Return whether tensors and facts, by full names, are valid results of `finish` for layers of these shapes."""
