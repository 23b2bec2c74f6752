"""The codes of a stored layer as a conversion sees them: what another format must hold to store them unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from qtoolkit.errors import CheckpointError
from qtoolkit.formats.stored_layer import Headers, StoredLayer, again
from qtoolkit.kernels import Codes

# Types of scales, those that take least room first.
_SCALE_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class LayerCodes:
    """The codes of one layer of a file, and what of their values a format asks for.

    Attributes:
        layer: how the file stores them.
        tensors: all tensors of the file.
        least_zero, largest_zero: the range of the zero points.
        in_order: whether groups are equal and those of the inputs in order.
        scale_errors: by type, the largest error of a scale in it, relative to the scale; infinite where one overflows.
        largest_scale: the largest magnitude of a scale.
        largest_minimum: the largest magnitude of what the code 0 stands for.
        sym: whether all zero points of this layer, and of the others that are stored alike, are in the middle.
        place: "block" for a layer of a block, "embedding", or "head" for a linear layer outside the blocks.
        transposed: whether the model holds the weight as [in, out], as GPT-2's Conv1D does.
    """

    layer: StoredLayer
    tensors: Headers
    least_zero: int
    largest_zero: int
    in_order: bool
    scale_errors: Mapping[torch.dtype, float]
    largest_scale: float
    largest_minimum: float
    sym: bool
    place: str = "block"
    transposed: bool = False

    @property
    def name(self) -> str:
        """Return its name in the file."""
        return self.layer.name

    @property
    def bits(self) -> int:
        """Return the size of a code."""
        return self.layer.tensors.bits

    @property
    def shape(self) -> tuple[int, int]:
        """Return (out_features, in_features)."""
        return self.layer.tensors.out_features, self.layer.tensors.in_features

    @property
    def inputs_per_scale(self) -> int:
        """Return how many inputs share a scale."""
        return self.layer.tensors.inputs_per_scale

    @property
    def scale_dtypes(self) -> frozenset[torch.dtype]:
        """Return the types in which all scales are exact."""
        return frozenset(dtype for dtype, error in self.scale_errors.items() if error == 0)

    @property
    def is_centered(self) -> bool:
        """Check whether all zero points of this layer are in the middle."""
        return self.least_zero == self.largest_zero == 1 << (self.bits - 1)

    @property
    def scale_dtype(self) -> torch.dtype:
        """Return the type of its scales in the file."""
        return self.layer.tensors.tensors()[self.layer.tensors.scale_name][1]

    def codes(self) -> Codes:
        """Read the layer's tensors, and return its codes."""
        return self.layer.tensors.decode(_read(self.layer, self.tensors))


def layer_codes(layer: StoredLayer, tensors: Headers, *, place: str, transposed: bool) -> LayerCodes:
    """Read scales and zero points of a layer, not its codes.

    Raises:
        CheckpointError: scales that are not finite, or tensors that do not belong together.
    """
    stored = layer.tensors
    values = _read(layer, tensors, without=stored.packed_names[0])
    codes = stored.decode(values)
    every = slice(0, stored.out_features)
    zeros = torch.as_tensor(codes.zero_points(every))
    scale = codes.scale(every)
    if not scale.isfinite().all():
        raise CheckpointError(f"{layer.name} has scales of NaN or infinity: {again(tensors)}")
    if codes.groups is not None and not ((codes.groups >= 0) & (codes.groups < len(scale))).all():
        low, high = codes.groups.min().item(), codes.groups.max().item()
        raise CheckpointError(f"{layer.name} names groups {low} to {high} of {len(scale)}: {again(tensors)}")
    least, largest = int(zeros.amin()), int(zeros.amax())
    return LayerCodes(
        layer,
        tensors,
        least,
        largest,
        in_order=codes.groups is None and stored.in_features % stored.inputs_per_scale == 0,
        scale_errors={dtype: _largest_error(scale.double(), dtype) for dtype in _SCALE_DTYPES},
        largest_scale=scale.double().abs().max().item(),
        largest_minimum=(scale.double() * zeros.double()).abs().max().item(),
        sym=least == largest == 2 ** (stored.bits - 1),
        place=place,
        transposed=transposed,
    )


def _largest_error(scale: torch.Tensor, dtype: torch.dtype) -> float:
    """Return by how much of itself a scale changes at most in another type; infinity where it overflows."""
    changes = (scale.to(dtype).double() - scale).abs() / scale.abs()
    # A scale of 0 stays one.
    return changes.nan_to_num(nan=0.0, posinf=torch.inf).amax().item()


def _read(layer: StoredLayer, tensors: Headers, without: str = "") -> Mapping[str, torch.Tensor]:
    """Return the tensors of a layer by their names in it; `without` names one that is left on the meta device.

    So are those that the file leaves out: what they would say follows from the others.
    """
    values = {}
    for name, (shape, dtype) in layer.tensors.tensors().items():
        if name == without or name in layer.absent:
            values[name] = torch.empty(shape, dtype=dtype, device="meta")
        else:
            values[name] = tensors[f"{layer.name}.{name}"][...]
    return values
