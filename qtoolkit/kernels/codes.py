"""Integer codes of a weight: what whoever stores or packs them says of them, and what a layer asks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from math import prod
from typing import ClassVar, Protocol

import torch

from qtoolkit.kernels.blockwise import expand
from qtoolkit.tensor.lazy import LazyTensor


class Codes(ABC):
    """W[o, i] = (code[i, o] - zero_point[g, o]) * scale[g, o], where g is the group of input i; never changed.

    A subclass gives codes and scales, and overrides what it can do faster.

    Attributes:
        bits: of a code.
        in_features, out_features: of W[out_features, in_features].
        inputs_per_scale: inputs that share a scale.
        device: where the tensors are.
        zero_points: gives the zero points of some outputs, uint8 [groups, outputs] or [1, 1], or the one that all have.
            It keeps nothing else alive, so that packed codes may take it over.
        order: which input stands at each place here, int32 [in]; None where they stand as a layer gets them.
        groups: the group of each place, int [in]; None where groups of equal size stand in their order.
        centered: whether their format says that all zero points are in the middle.
        block: outputs that lie together: `codes` gives whole blocks.
        rows: the codes less half their range, int8 [out, in], where they are stored so; otherwise None.
        expands_fast: whether they lie in memory as expanding wants them. If not, packing helps without a kernel too.
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
    block: int = 1
    rows: torch.Tensor | None = None
    expands_fast: ClassVar[bool] = False

    @abstractmethod
    def codes(self, outputs: slice) -> torch.Tensor:
        """The codes of some outputs: uint8 [in, outputs], each below 2**bits, in memory of their own."""

    @abstractmethod
    def scale(self, outputs: slice) -> torch.Tensor:
        """The scales of some outputs: [groups, outputs], or [1, 1] where one serves all."""

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights of some outputs in `dtype`, computed in float32 and rounded once: W^T [in, outputs]."""
        return expand(self.codes(outputs), self.scale(outputs), self.zero_points(outputs), self.groups, dtype)

    def factor(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor | None:
        """Without their scale, where one serves an output, what `unscaled` has to be multiplied with: [outputs].

        None where `unscaled` gives the weights themselves.
        """
        return None

    def unscaled(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """As `expanded`, but without what `factor` tells."""
        return self.expanded(outputs, dtype)

    def multiply(self, x: torch.Tensor) -> torch.Tensor | None:
        """x[tokens, in] -> x W^T [tokens, out] in x.dtype by a kernel; None where none takes x. Inputs in `order`."""
        return None

    def sorted(self) -> "Codes | None":
        """Return the same weight with groups of equal size in their order; None where that cannot be."""
        return self if self.groups is None else None

    def buffers(self) -> Mapping[str, torch.Tensor]:
        """Tensors that it keeps in the place of stored ones, by name; none where it is stored itself."""
        return {}


class StoredTensors(Protocol):
    """How a file stores a weight: the tensors that stand for it, and the way to `Codes` and back. A frozen value."""

    @property
    def in_features(self) -> int:
        """Columns of the weight W[out_features, in_features]."""

    @property
    def out_features(self) -> int:
        """Its rows."""

    @property
    def bits(self) -> int:
        """Size of a code."""

    @property
    def inputs_per_scale(self) -> int:
        """Inputs that share a scale."""

    @property
    def centered(self) -> bool:
        """Whether all zero points are in the middle of the codes, as far as is known before they are read."""

    @property
    def scale_name(self) -> str:
        """The tensor of scales: never rounded to another type."""

    @property
    def packed_names(self) -> tuple[str, ...]:
        """The tensors that packed codes take the place of: codes and scales."""

    @property
    def expands_fast(self) -> bool:
        """As that of `Codes`."""

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor by name, in their order in a file.

        Raises:
            ValueError: no such weight can be stored; the message says why.
        """

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        """The codes that these tensors hold."""

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """The tensors of `packed_names`, exactly as they were before `codes` were packed from them."""


def stored_bytes(stored: StoredTensors, names: Collection[str] | None = None) -> int:
    """Return the bytes of the tensors that stand for a weight, or of those of these names; nothing is allocated.

    Raises:
        ValueError: no such weight can be stored; the message says why.
    """
    tensors = stored.tensors()
    return sum(
        prod(shape) * dtype.itemsize for name, (shape, dtype) in tensors.items() if names is None or name in names
    )


class Kernel(ABC):
    """One way to multiply with codes: which it takes, and the form in which it takes them."""

    @abstractmethod
    def takes(self, weight: Codes | StoredTensors, device: torch.device) -> bool:
        """Whether it is there on a device, and faster for such a weight than expanding it; looks at shapes alone."""

    @abstractmethod
    def pack(self, codes: Codes) -> Codes | None:
        """The same weight in its form, whose `multiply` is the kernel; None where the values do not allow it."""

    @abstractmethod
    def packed_bytes(self, stored: StoredTensors, device: torch.device) -> int:
        """Bytes of what its form keeps in the place of `stored.packed_names`; nothing is allocated."""
