"""A 4-bit linear layer of bitsandbytes that other threads can run while it is packed, saved or copied."""

import copy
import threading
from functools import partial
from typing import Any

import torch
from torch import nn

from qtoolkit.formats.bitsandbytes.cpu_shapes import rows_hold_blocks
from qtoolkit.optional import optional
from qtoolkit.tensor.lazy import LazyState, LazyTensor

bnb: Any = optional("bitsandbytes", "a 4-bit layer")
functional: Any = optional("bitsandbytes.functional", "a 4-bit layer")

# Held while a layer is packed, so that two threads do not pack it twice.
_PACKING = threading.Lock()


class Linear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]
    """Replace bitsandbytes' layer of the same name, by setting its `__class__`.

    At its first product on a CPU with AVX512-BF16, bitsandbytes 0.50 repacks the codes and rounds the scales to
    bfloat16; `state_dict` undoes the former but not the latter. Both happen in place and step by step: threads that
    multiply at the same time get wrong results. Here the packed weight is a new object that replaces the old one at
    once, and saving reads codes from it without changing it. The exact scales are stored too, which takes 0.13 bits per
    weight with double quantization and 0.5 without.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in] W^T + bias -> [..., out]."""
        if is_misread(self.weight):
            inputs = x.to(self.compute_dtype) if self.compute_type_is_set and self.compute_dtype else x
            product: torch.Tensor = _ExpandedProduct.apply(inputs, self.weight)  # type: ignore[no-untyped-call]  # [..., out]
            return (product if self.bias is None else product + self.bias.to(product.dtype)).to(x.dtype)
        if torch.is_grad_enabled() and x.requires_grad:
            weight = self._unpacked()
        else:
            weight = self._packed() if self._packs(x) else self.weight
        if getattr(weight, "quant_state", None) is None or not self.compute_type_is_set:
            return super().forward(x)  # type: ignore[no-any-return]
        # bitsandbytes 0.50 multiplies packed weights with inputs as they lie in memory: those of Mamba's `x_proj` are a
        # transposed view, with which plain transformers is wrong without a word.
        inputs = (x if self.compute_dtype is None else x.to(self.compute_dtype)).contiguous()
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        return bnb.matmul_4bit(inputs, weight, bias=bias, quant_state=weight.quant_state).to(x.dtype)  # type: ignore[no-any-return]

    def _packs(self, x: torch.Tensor) -> bool:
        """Check whether bitsandbytes packs a layer for such inputs."""
        return x.device.type == "cpu" and self.support_avx512bf16_for_cpu and not self.training and not x.requires_grad

    def _packed(self) -> Any:
        """Return the packed weight; the first call packs the weight and replaces it."""
        weight = self.weight
        state = getattr(weight, "quant_state", None)
        if state is None or getattr(state, "packing_format_for_cpu", False):
            return weight
        with _PACKING:
            if self.weight is not weight:
                return self.weight
            packed = copy.copy(weight)
            packed.data, packed.quant_state = functional._convert_weight_packed_for_cpu(weight.data, copy.copy(state))  # noqa: SLF001
            # Not by nn.Module's own setter, which would register the weight a second time.
            object.__setattr__(self, "_before_packing", (packed, state))
            self.quant_state = packed.quant_state
            self._parameters["weight"] = packed
        return packed

    def _unpacked(self) -> Any:
        """Return the weight as it is stored; where it is packed, this puts it back.

        bitsandbytes multiplies packed weights without a gradient for the inputs: whoever trained an adapter after an
        evaluation trained the last layers alone, without a word.
        """
        weight = self.weight
        state = getattr(weight, "quant_state", None)
        if not getattr(state, "packing_format_for_cpu", False):
            return weight
        with _PACKING:
            if self.weight is not weight:
                return self.weight
            stored = copy.copy(weight)
            stored.data, original = functional._convert_weight_packed_for_cpu_inverse(weight.data, copy.copy(state))  # noqa: SLF001
            remembered = getattr(self, "_before_packing", None)
            stored.quant_state = remembered[1] if remembered is not None and remembered[0] is weight else original
            self.quant_state = stored.quant_state
            self._parameters["weight"] = stored
        return stored

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        weight = self.weight
        remembered = getattr(self, "_before_packing", None)
        # A weight that was replaced since, for example by merging an adapter, has other scales.
        if remembered is None or remembered[0] is not weight:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            return
        nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)  # noqa: SLF001
        make = partial(_stored_codes, weight.data, weight.quant_state)
        codes = LazyTensor(tuple(weight.quant_state.original_qshape), weight.quant_storage, make)
        destination[f"{prefix}weight"] = codes if isinstance(destination, LazyState) else make()
        for name, part in remembered[1].as_dict(packed=True).items():
            destination[f"{prefix}weight.{name}"] = part if keep_vars else part.detach()


class _ExpandedProduct(torch.autograd.Function):
    """Multiply by a weight that is expanded for each product, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Any) -> torch.Tensor:
        """Compute x[..., in] W^T -> [..., out]."""
        ctx.weight = weight
        return nn.functional.linear(x, expanded(weight).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Compute g[..., out] W -> [..., in]."""
        (gradient,) = gradients
        return gradient @ expanded(ctx.weight).to(gradient.dtype), None


def is_misread(weight: Any) -> bool:
    """Check whether bitsandbytes expands a 4-bit weight wrongly: on a CPU, where a block of a scale crosses rows."""
    state = getattr(weight, "quant_state", None)
    return state is not None and weight.device.type == "cpu" and not rows_hold_blocks(state.shape[-1], state.blocksize)


def expanded(weight: Any) -> torch.Tensor:
    """Return a weight [out, in] by its codes and scales, in the type that it was quantized from.

    It is expanded as if it were one row, in which no block crosses an end.
    """
    state = copy.copy(weight.quant_state)
    shape, state.shape = state.shape, torch.Size([1, state.shape.numel()])
    row: torch.Tensor = functional.dequantize_4bit(weight.data, state)  # [1, out * in]
    return row.reshape(shape)  # [out, in]


def _stored_codes(data: torch.Tensor, state: Any) -> torch.Tensor:
    """Return codes [outputs * inputs / 2, 1] from packed ones [outputs, inputs / 2], which are not changed."""
    state = copy.copy(state)
    # The exact scales are saved, not these rounded ones.
    state.original_nested = False
    codes: torch.Tensor = functional._convert_weight_packed_for_cpu_inverse(data, state)[0]  # noqa: SLF001
    return codes
