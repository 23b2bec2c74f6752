"""Put other codes into a layer: those of its weight with a change added, or any others that its format holds."""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.kernels.codes import Codes
from qtoolkit.kernels.linear import QuantizedLinear
from qtoolkit.tensor.lazy import LazyTensor


def codes_as_stored(layer: QuantizedLinear) -> Codes:
    """Return the codes of a layer as its format stores them, however a kernel has packed them.

    Raises:
        UnsupportedModelError: codes that no format takes over: those of FP8, or of layers that round their inputs.
    """
    codes = layer.stored.decode(_tensors(copy.copy(layer)))
    if not codes.has_minima and (codes.round_inputs is not None or not hasattr(layer.stored, "recode")):
        raise UnsupportedModelError(f"codes stored as {layer.stored} are not changed: take GPTQ, absmax or zero-point")
    return codes


def with_codes(layer: QuantizedLinear, codes: Codes) -> QuantizedLinear:
    """Return a layer with other codes and scales, stored as its own are; it stays as it is.

    Raises:
        UnsupportedModelError: as `codes_as_stored`.
    """
    if codes_as_stored(layer).has_minima:
        raise UnsupportedModelError(
            f"groups stored as {layer.stored} have minima: take another format, and convert the result"
        )
    return _replaced(layer, layer.stored.encode(codes))


def with_change(layer: QuantizedLinear, change: torch.Tensor) -> QuantizedLinear:
    """Return a layer whose weight has a change added, as far as its format holds the sum; scales stay as they are.

    Where groups have a float minimum, and the change is one number for each output and group, the minima are moved,
    rounded to their own type, and no code is touched. Otherwise each weight gets the code next to it.

    Args:
        layer: of codes; it stays as it is.
        change: float32 [out_features, in_features].

    Raises:
        UnsupportedModelError: as `codes_as_stored`.
    """
    codes = codes_as_stored(layer)
    change = change.to(codes.device, torch.float32)
    if codes.has_minima:
        stored: Any = layer.stored
        return _replaced(layer, stored.moved(_tensors(copy.copy(layer)), change))
    return _replaced(layer, layer.stored.encode(_Nearest(codes, change)))


def of_inputs(codes: Codes, values: torch.Tensor) -> torch.Tensor:
    """Return values [groups or 1, outputs or 1], or a number, as those of each input [in or 1, outputs or 1]."""
    if values.ndim == 0 or len(values) == 1:
        return values
    if codes.groups is not None:
        return values[codes.groups.long()]
    return values.repeat_interleave(codes.in_features // len(values), dim=0)


def _tensors(layer: QuantizedLinear) -> dict[str, torch.Tensor]:
    """Return the tensors of a copy of a layer: a copy has them as a file stores them, not as a kernel packed them."""
    return {name: layer.get_buffer(name) for name in layer.stored.tensors()}


def _replaced(layer: QuantizedLinear, tensors: Mapping[str, torch.Tensor | LazyTensor]) -> QuantizedLinear:
    """Return a copy of a layer with some other tensors; those of zero points and groups stay."""
    result = copy.copy(layer)
    for name, tensor in tensors.items():
        setattr(result, name, tensor[...].to(result.get_buffer(name).device))
    return result


class _Nearest(Codes):
    """The codes next to a weight with a change, of the same scales and zero points.

    Args:
        source: the codes of the weight, as they are stored.
        change: float32 [out, in].
    """

    def __init__(self, source: Codes, change: torch.Tensor) -> None:
        self.describe_as(source)
        self.groups = source.groups
        self._source = source
        self._change = change

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        source = self._source
        weight = source.expanded(outputs, torch.float32) + self._change[outputs].T  # [in, outputs]
        scale = of_inputs(source, source.scale(outputs).float())
        zero = of_inputs(source, torch.as_tensor(source.zero_points(outputs), device=self.device).float())
        levels = (weight / scale).nan_to_num_(0.0, 0.0, 0.0).add_(zero).round_()
        return levels.clamp_(0, 2**self.bits - 1).to(torch.uint8)

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._source.scale(outputs)
