"""The interfaces between formats, kernels and the linear layer: codes, stored tensors, kernels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from math import prod
from typing import ClassVar, Protocol

import torch

from qtoolkit.kernels.blockwise import OUTPUTS_TOGETHER, expand
from qtoolkit.tensor.lazy import LazyTensor


class Codes(ABC):
    """The integer codes of a weight; immutable.

    W[o, i] = (code[i, o] - zero_point[g, o]) * scale[g, o], where g is the group of input i. A subclass defines `codes`
    and `scale`, and overrides what it can do faster.

    Attributes:
        bits: size of a code.
        in_features, out_features: of W[out_features, in_features].
        inputs_per_scale: inputs that share a scale.
        device: device of the tensors.
        zero_points: returns the zero points of some outputs, uint8 [groups, outputs] or [1, 1], or one number for all.
            It references no other tensors, so that packed codes may reuse it.
        order: the input of the layer that each input of the codes is, int32 [in]; None where they are in equal order.
        groups: the group of each input of the codes, int [in]; None where groups are equal and in order.
        centered: whether all zero points are 2**(bits - 1), by the format's own claim.
        has_minima: whether groups have a float minimum instead of a zero point, so that `expanded` alone knows the
            weight; no kernel packs such codes.
        holds_floats: whether the codes are floats, such as float8, so that `expanded` alone knows the weight; no kernel
            packs such codes.
        rows: the codes less half their range, int8 [out, in], where they are stored so; otherwise None.
        round_inputs: returns inputs x[tokens, in] as they are multiplied with, in x.dtype; None for x itself.
        expands_fast: whether the codes are stored so that they are dequantized fast; if not, packing them helps even
            without a kernel.
    """

    bits: int
    in_features: int
    out_features: int
    inputs_per_scale: int
    device: torch.device
    zero_points: Callable[[slice], torch.Tensor | int]
    order: torch.Tensor | None = None
    groups: torch.Tensor | None = None
    centered: bool = False
    has_minima: bool = False
    holds_floats: bool = False
    rows: torch.Tensor | None = None
    round_inputs: Callable[[torch.Tensor], torch.Tensor] | None = None
    expands_fast: ClassVar[bool] = False

    def describe_as(self, source: "Codes") -> None:
        """Copy the attributes that codes of the same weight in another form share with these."""
        self.bits = source.bits
        self.in_features = source.in_features
        self.out_features = source.out_features
        self.inputs_per_scale = source.inputs_per_scale
        self.device = source.device
        self.zero_points = source.zero_points
        self.centered = source.centered
        self.round_inputs = source.round_inputs

    @abstractmethod
    def codes(self, outputs: slice) -> torch.Tensor:
        """Return the codes of some outputs, a new tensor uint8 [in, outputs], each below 2**bits.

        Args:
            outputs: a slice of `output_blocks`, or of multiples of 64 outputs: packed layouts store some together.
        """

    @abstractmethod
    def scale(self, outputs: slice) -> torch.Tensor:
        """Return the scales of some outputs, [groups, outputs], or [1, 1] where all share one."""

    def words(self) -> torch.Tensor | None:
        """Return all codes as `pack_words` packs them, int32 [in * bits / 32, out], where they are stored so.

        Formats that pack along the inputs have the same words in other orders. A view; None where others are stored.
        """
        return None

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """Dequantize some outputs: return W^T [in, outputs] in `dtype`, computed in float32 and rounded once."""
        scale, zero_points = self.scale(outputs), self.zero_points(outputs)
        return expand(self.codes(outputs), scale, zero_points, self.groups, dtype, bits=self.bits)

    def rows_of(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Dequantize the weights of single outputs: return [n, in] in `dtype`, inputs in the order of the layer.

        Args:
            ids: outputs that there are, int [n], in any order and as often as wanted.
            dtype: type of the result.
        """
        rows = torch.empty(len(ids), self.in_features, dtype=dtype, device=self.device)
        # Packed layouts store this many outputs together.
        places = ids // OUTPUTS_TOGETHER
        for place in places.unique().tolist():
            start = place * OUTPUTS_TOGETHER
            mine = (places == place).nonzero()[:, 0]
            block = self.expanded(slice(start, min(start + OUTPUTS_TOGETHER, self.out_features)), dtype)
            rows[mine] = block.T[ids[mine] - start]
        return rows if self.order is None else rows[:, self.order.argsort()]

    def unscaled(self, outputs: slice, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Dequantize some outputs without their scales, where each output has one.

        Returns:
            W^T [in, outputs] in `dtype`, and what its outputs must be multiplied by, [outputs]; None for nothing.
        """
        return self.expanded(outputs, dtype), None

    def multiply(self, x: torch.Tensor) -> torch.Tensor | None:
        """Multiply by a kernel: x[tokens, in] -> x W^T [tokens, out] in x.dtype, inputs in `order`.

        None where no kernel supports x.
        """
        return None

    def sorted(self) -> "Codes | None":
        """Return the same weight with its inputs sorted into equal groups; None where group sizes differ."""
        return self if self.groups is None else None

    def buffers(self) -> Mapping[str, torch.Tensor]:
        """Return the tensors that replace stored ones in memory, by name; empty where the stored ones are used."""
        return {}


class StoredTensors(Protocol):
    """How a format stores a weight in a file, and the conversion to `Codes` and back; a frozen value, no tensors."""

    @property
    def in_features(self) -> int:
        """Return the columns of the weight W[out_features, in_features]."""

    @property
    def out_features(self) -> int:
        """Return the rows of the weight."""

    @property
    def bits(self) -> int:
        """Return the size of a code."""

    @property
    def inputs_per_scale(self) -> int:
        """Return how many inputs share a scale."""

    @property
    def centered(self) -> bool:
        """Check whether all zero points are 2**(bits - 1); false where that is not known before they are read."""

    @property
    def scale_name(self) -> str:
        """Return the name of the tensor of scales, which is never converted to another type."""

    @property
    def packed_names(self) -> tuple[str, ...]:
        """Return the names of the tensors that packed codes replace: codes and scales."""

    @property
    def expands_fast(self) -> bool:
        """Return `Codes.expands_fast` of the decoded codes."""

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return the shape and type of each tensor by name, in the order of a file.

        Raises:
            ValueError: the format cannot store such a weight; the message says why.
        """

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        """Return the codes in these tensors, which are all of `tensors`."""

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """Return the tensors of `packed_names`, exactly as they were before `codes` were packed."""


def stored_bytes(stored: StoredTensors, names: Collection[str] | None = None) -> int:
    """Return the bytes of the tensors that store a weight, or of those with these names; allocate nothing.

    Raises:
        ValueError: the format cannot store such a weight; the message says why.
    """
    tensors = stored.tensors()
    return sum(
        prod(shape) * dtype.itemsize for name, (shape, dtype) in tensors.items() if names is None or name in names
    )


class Kernel(ABC):
    """One way to multiply with codes: which weights it supports, and how it packs them."""

    @abstractmethod
    def takes(self, weight: Codes | StoredTensors, device: torch.device) -> bool:
        """Check whether it runs on a device and is faster for such a weight than dequantizing; from shapes alone."""

    @abstractmethod
    def pack(self, codes: Codes) -> Codes | None:
        """Return the same weight packed for this kernel, which is its `multiply`; None where the values forbid it."""

    @abstractmethod
    def packed_bytes(self, stored: StoredTensors, device: torch.device) -> int:
        """Return the bytes of the packed tensors that replace `stored.packed_names`; allocate nothing."""
