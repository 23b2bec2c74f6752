"""A linear layer that keeps integer codes instead of its weight, and computes from them."""

from typing import Self

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qtoolkit.modules.coded_linear import CodedLinear
from qtoolkit.modules.matmul import QuantizedMatmul
from qtoolkit.modules.scheme import Scheme


class QuantizedLinear(CodedLinear):
    """y = x W^T + bias with W[out_features, in_features] in 8 or 4 bits, absmax or zero-point.

    Codes become numbers block by block while they are multiplied with; a copy of W is never kept. x may have any
    floating type and y has the same; gradients flow to x. The layer itself is not trained: what it holds are buffers,
    `weight`, `scale` and `zero_point` as in `Scheme` (None when symmetric), and `bias` [out_features] or None.

    Args:
        in_features: size of the inputs; even for 4 bits.
        out_features: size of the outputs.
        bias: whether there is one.
        bits: 8 or 4.
        granularity: which weights share one scale: "tensor", "channel" (one output row) or "group".
        group_size: weights per scale; -1 unless granularity is "group".
        symmetric: absmax codes if true, zero-point codes otherwise.
        dtype: type of the bias; torch's default type when None.
        device: where the buffers are made, with unset content; "meta" makes a skeleton.

    Raises:
        ValueError: a scheme that there is not, or that a layer of this shape cannot have.
    """

    scale_name = "scale"
    weight: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        *,
        bits: int,
        granularity: str,
        group_size: int = -1,
        symmetric: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.scheme = Scheme(bits, granularity, group_size, symmetric)
        buffers = self.scheme.buffers(out_features, in_features)
        for name in ("weight", "scale", "zero_point"):
            shape, buffer_dtype = buffers.get(name, (None, None))
            tensor = None if shape is None else torch.empty(shape, dtype=buffer_dtype, device=device)
            self.register_buffer(name, tensor)
        self.register_buffer("bias", torch.empty(out_features, dtype=dtype, device=device) if bias else None)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear | Conv1D,
        *,
        bits: int = 8,
        granularity: str = "tensor",
        group_size: int = -1,
        symmetric: bool = True,
    ) -> Self:
        """The quantized layer of a full-precision one, on the same device; the bias is shared with it.

        Args:
            linear: an `nn.Linear`, or transformers' `Conv1D` (GPT-2), which keeps its weight transposed.
            bits: 8 or 4.
            granularity: which weights share one scale: "tensor", "channel" (one output row) or "group".
            group_size: weights per scale; -1 unless granularity is "group".
            symmetric: absmax codes if true, zero-point codes otherwise.

        Raises:
            ValueError: a scheme that this layer cannot have, or NaN or infinity in its weight.
        """
        # Conv1D: [in, out] -> [out, in]
        weight = linear.weight.detach().T if isinstance(linear, Conv1D) else linear.weight.detach()
        layer = cls(
            weight.shape[1],
            weight.shape[0],
            linear.bias is not None,
            bits=bits,
            granularity=granularity,
            group_size=group_size,
            symmetric=symmetric,
            device="meta",
        )
        for name, tensor in layer.quantize_weight(weight).items():
            setattr(layer, name, tensor)
        if linear.bias is not None:
            layer.bias = linear.bias.detach()
        return layer.train(linear.training)

    @staticmethod
    def stored_bytes(
        out_features: int, in_features: int, bits: int, granularity: str, group_size: int, symmetric: bool
    ) -> int:
        """Bytes of the buffers of such a layer, its bias aside; nothing is allocated.

        Raises:
            ValueError: a scheme that there is not, or that a layer of this shape cannot have; the message says why.
        """
        return Scheme(bits, granularity, group_size, symmetric).stored_bytes(out_features, in_features)

    def quantize_weight(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The buffers that stand for a full-precision W[out_features, in_features]; the layer itself does not change.

        Raises:
            ValueError: a weight of another shape, or one with NaN or infinity.
        """
        if tuple(weight.shape) != (self.out_features, self.in_features):
            expected = [self.out_features, self.in_features]
            raise ValueError(f"weight must have shape {expected}, got {list(weight.shape)}")
        return self.scheme.quantize(weight)

    def dequantize(self) -> torch.Tensor:
        """The weight that the codes stand for, float32 [out_features, in_features]."""
        return self.scheme.dequantize(dict(self.named_buffers()))

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """See `CodedLinear`."""
        y: torch.Tensor = QuantizedMatmul.apply(x, self.weight, self.scale, self.zero_point)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        """Shape and scheme, for `print(model)`."""
        scheme = self.scheme
        group = f", group_size={scheme.group_size}" if scheme.granularity == "group" else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"bits={scheme.bits}, granularity={scheme.granularity!r}{group}, symmetric={scheme.symmetric}"
        )
