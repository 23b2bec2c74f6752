"""Let models multiply in float32 if this machine's CPU is slow in the type of their weights."""

import inspect
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import CodeType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from qtoolkit.tensor.float32_products import Float32Products
from qtoolkit.tensor.processor import product_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fast_products(device: torch.device | str, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return `Float32Products` if the CPU is slow in a type and they are not active yet; otherwise a null context.

    Args:
        device: the device on which a model computes.
        dtype: the type of its weights.
    """
    is_slow = product_dtype(dtype, torch.device(device).type) != dtype
    return Float32Products() if is_slow and not _are_active() else nullcontext()


def multiply_fast(model: "PreTrainedModel") -> None:
    """Make a model run its `forward` with `fast_products`, called directly or by its `generate`."""
    if product_dtype(model.dtype, model.device.type) != model.dtype:
        model.forward = _FastForward(model)


class _FastForward:
    """Run the `forward` of a model's class within `fast_products`; set as the attribute `forward` of the model.

    It refers to the model weakly, so that the model can be freed; copies and pickles of the model get their own.

    Args:
        model: the model whose attribute this becomes.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = weakref.ref(model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = self.__self__
        # A compiler chooses how to compute products itself.
        products = nullcontext() if torch.compiler.is_compiling() else fast_products(model.device, model.dtype)
        if model.training and isinstance(products, Float32Products):
            _patch_gradient_checkpointing(model)
        with products:
            return type(model).forward(model, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _FastForward, (self.__self__,)

    @property
    def __self__(self) -> "PreTrainedModel":
        model = self._model()
        assert model is not None
        return model

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(MethodType(type(self.__self__).forward, self.__self__))

    @property
    def __code__(self) -> CodeType:
        """Return the code of the class's `forward`, from which torch.export takes the model's name."""
        return type(self.__self__).forward.__code__  # type: ignore[no-any-return]


def _patch_gradient_checkpointing(model: nn.Module) -> None:
    """Make gradient checkpointing, which runs layers again within `backward`, multiply as in `forward`."""
    for module in model.modules():
        checkpoint = vars(module).get("_gradient_checkpointing_func")
        if checkpoint is not None and getattr(checkpoint, "func", None) is not _checkpoint_fast:
            module._gradient_checkpointing_func = partial(_checkpoint_fast, checkpoint)  # type: ignore[assignment]  # noqa: SLF001


def _checkpoint_fast(checkpoint: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(partial(_run_fast, function), *args, **kwargs)


def _run_fast(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with nullcontext() if _are_active() else Float32Products():
        return function(*args, **kwargs)


def _are_active() -> bool:
    return any(isinstance(mode, Float32Products) for mode in _get_current_function_mode_stack())
