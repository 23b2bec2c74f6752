"""What linear layers share that keep codes in the place of a weight."""

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import nn


class CodedLinear(nn.Module):
    """y = x W^T + bias, where W[out_features, in_features] is kept as codes and scales.

    x may have any floating type and y has the same. `.to(dtype)`, `.half()` and the like convert the bias alone: codes
    are integers, and a scale rounded to bfloat16 would shift all its weights by up to 0.4 %.

    Attributes:
        scale_name: the buffer of scales.
        in_features, out_features: of the weight.
        bias: [out_features], or None.
    """

    scale_name: ClassVar[str]
    in_features: int
    out_features: int
    bias: torch.Tensor | None

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x[tokens, in_features] -> x W^T [tokens, out_features] in x.dtype; gradients flow to x."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x[..., in_features] -> [..., out_features] in x.dtype, or in autocast's type where that is on."""
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.forward(x.to(torch.get_autocast_dtype(device)))
        # [..., in] -> [tokens, in]
        y = self.multiply(x.reshape(-1, x.shape[-1]))
        bias = self.bias
        y = y if bias is None else y + bias.to(y.dtype)
        # [tokens, out] -> [..., out]
        return y.view(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Called for every tensor by `.to`, `.half`, `.cuda` and the like.
        scale: torch.Tensor | None = getattr(self, self.scale_name)

        def convert(tensor: torch.Tensor) -> torch.Tensor:
            converted = fn(tensor)
            # Never rounded, not even for a moment: another thread may be multiplying.
            rounded = tensor is scale and converted.dtype != tensor.dtype
            return tensor.to(converted.device) if rounded else converted

        super()._apply(convert, recurse)  # type: ignore[no-untyped-call]
        return self
