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

    compute_type_is_set: bool

    @property
    def weight(self) -> Any:
        """Return the weight as it is stored; where it is packed, this puts it back.

        Who reads it knows no packed ones: from those, peft 0.21 would merge an adapter into numbers that have nothing
        to do with the weight, and begin DoRA with their norms, without a word.
        """
        return self._unpacked()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in] W^T + bias -> [..., out]."""
        # bitsandbytes multiplies packed weights without a gradient for the inputs: whoever trained an adapter after an
        # evaluation would train the last layers alone, without a word.
        weight = self._packed() if self._packs(x) else self._unpacked()
        if is_misread(weight):
            inputs = x.to(self.compute_dtype) if self.compute_type_is_set and self.compute_dtype else x
            product: torch.Tensor = _ExpandedProduct.apply(inputs, weight)  # type: ignore[no-untyped-call]  # [..., out]
            return (product if self.bias is None else product + self.bias.to(product.dtype)).to(x.dtype)
        if getattr(weight, "quant_state", None) is None:
            return super().forward(x)  # type: ignore[no-any-return]
        if not self.compute_type_is_set:
            self.set_compute_type(x)
            self.compute_type_is_set = True
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
        weight: Any = self._parameters["weight"]
        if _is_packed(weight) or getattr(weight, "quant_state", None) is None:
            return weight
        with _PACKING:
            weight = self._parameters["weight"]
            if _is_packed(weight):
                return weight
            packed = copy.copy(weight)
            packed.data, packed.quant_state = functional._convert_weight_packed_for_cpu(  # noqa: SLF001
                weight.data, copy.copy(weight.quant_state)
            )
            packed.quant_state.exact = weight.quant_state
            return self._replaced_by(packed)

    def _unpacked(self) -> Any:
        """Return the weight as it is stored, with its exact scales; where it is packed, this puts it back."""
        weight = self._parameters["weight"]
        if not _is_packed(weight):
            return weight
        with _PACKING:
            weight = self._parameters["weight"]
            if not _is_packed(weight):
                return weight
            stored = copy.copy(weight)
            stored.data, stored.quant_state = _stored_codes(weight), _stored_state(weight)
            return self._replaced_by(stored)

    def _replaced_by(self, weight: Any) -> Any:
        """Put a weight in the place of another at once, for all threads, and return it."""
        self.quant_state = weight.quant_state
        self._parameters["weight"] = weight
        return weight

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """See nn.Module: bitsandbytes takes packed weights to a GPU as they are, which misreads them."""
        self._unpacked()
        return super()._apply(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See nn.Module: pickle makes a plain parameter of a weight, which a copy would leave without its scales."""
        super().__setstate__(state)
        weight = self._parameters["weight"]
        if not isinstance(weight, bnb.nn.Params4bit):
            whole = bnb.nn.Params4bit.__new__(bnb.nn.Params4bit)
            whole.__setstate__({**vars(weight), "data": weight.data, "requires_grad": weight.requires_grad})
            self._parameters["weight"] = whole

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)  # noqa: SLF001
        weight: Any = self._parameters["weight"]
        if getattr(weight, "quant_state", None) is None:
            return
        state = weight.quant_state
        if _is_packed(weight):
            make = partial(_stored_codes, weight)
            codes = LazyTensor(tuple(state.original_qshape), weight.quant_storage, make)
            destination[f"{prefix}weight"] = codes if isinstance(destination, LazyState) else make()
            state = _stored_state(weight)
        else:
            # What is there already may have been packed by another thread.
            destination[f"{prefix}weight"] = weight if keep_vars else weight.detach()
        for name, part in state.as_dict(packed=True).items():
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


def _is_packed(weight: Any) -> bool:
    """Check whether bitsandbytes has packed a weight for products on a CPU."""
    return getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False)


def _stored_codes(weight: Any) -> torch.Tensor:
    """Return codes [outputs * inputs / 2, 1] of a packed weight [outputs, inputs / 2], which is not changed."""
    state = copy.copy(weight.quant_state)
    # Its scales, rounded, are not quantized again.
    state.original_nested = False
    codes: torch.Tensor = functional._convert_weight_packed_for_cpu_inverse(weight.data, state)[0]  # noqa: SLF001
    return codes


def _stored_state(weight: Any) -> Any:
    """Return the scales and what else describes the codes of a packed weight: the exact ones, unless lost before."""
    exact = getattr(weight.quant_state, "exact", None)
    if exact is not None:
        return exact
    return functional._convert_weight_packed_for_cpu_inverse(weight.data, copy.copy(weight.quant_state))[1]  # noqa: SLF001
