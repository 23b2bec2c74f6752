"""Models that multiply in float32 where this machine's CPU is slow in the type of their weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.tensor.processor import product_dtype
from qtoolkit.tensor.products import Float32Products

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fast_products(device: torch.device | str, dtype: torch.dtype) -> AbstractContextManager[object]:
    """`Float32Products` where the CPU is slow in a type, and nothing elsewhere.

    Args:
        device: where a model computes.
        dtype: the type of its weights.
    """
    is_slow = product_dtype(dtype, torch.device(device).type) != dtype
    return Float32Products() if is_slow else nullcontext()


def multiply_fast(model: "PreTrainedModel") -> None:
    """Let a model run its `forward` with `fast_products`, by itself and within its `generate`."""
    if product_dtype(model.dtype, model.device.type) != model.dtype:
        model.forward = MethodType(_fast_forward(type(model)), model)


def _fast_forward(model_class: "type[PreTrainedModel]") -> Callable[..., Any]:
    """The `forward` of a class within `fast_products`, with its name and signature."""

    @wraps(model_class.forward)
    def fast_forward(self: "PreTrainedModel", *args: Any, **kwargs: Any) -> Any:
        # What compiles a model chooses its products itself.
        products = nullcontext() if torch.compiler.is_compiling() else fast_products(self.device, self.dtype)
        with products:
            return model_class.forward(self, *args, **kwargs)

    return fast_forward
