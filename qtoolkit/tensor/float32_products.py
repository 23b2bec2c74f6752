"""Compute matrix products in float32 on a CPU that multiplies bfloat16 or float16 slowly, whatever code calls torch."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch.overrides import TorchFunctionMode

from qtoolkit.tensor.processor import product_dtype
from qtoolkit.tensor.unseen_calls import unseen_by

# Weights that are in float32 at one time, which fit the cache.
_BLOCK_WEIGHTS = 2**19
# Names of other libraries' operations that multiply, such as bitsandbytes::gemm_4bit.
_FOREIGN_PRODUCT = re.compile(r"^(?!aten::|transformers::).*(gemm|gemv|linear)")

# Tokens up to which torch's own product takes no longer than converting the weight to float32; one or several threads.
# Measured on SmolLM2 (torch 2.13, AVX2): one thread, 2, 4 and 8 tokens: 28, 50 and 95 ms instead of 45, 46 and 57; two
# threads, 4 and 8 tokens: 37 and 69 ms instead of 104 and 120.
FEW_TOKENS, FEW_TOKENS_OF_THREADS = 3, 8


class Float32Products(TorchFunctionMode):
    """A context in which products of types that this CPU multiplies slowly are computed in float32.

    Results have the type that they have without it: the arguments of a product are converted to float32, and its result
    is rounded once. The weight of a linear layer is converted some rows at a time; products with few tokens are left to
    torch, which computes them fast.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        multiply = _PRODUCTS.get(func)
        if multiply is None and type(func) is torch._ops.OpOverload:  # noqa: SLF001
            multiply = _several_tokens if _is_foreign_product(func) else None
        # Most calls are no products: a token of SmolLM2 makes 2,800 of them.
        if multiply is None or not any(map(_is_slow, args)):
            return func(*args, **kwargs)
        return multiply(func, *args, **kwargs)


def own_products() -> AbstractContextManager[object]:
    """Return a context for layers that choose the types of their products: their calls are not seen by the mode."""
    return unseen_by(Float32Products)


def _is_slow(value: Any) -> bool:
    """Check whether a value is a tensor of a type that its device multiplies slowly."""
    return torch.is_tensor(value) and product_dtype(value.dtype, value.device.type) != value.dtype


def _widened(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `func` with slow arguments converted to float32, and return the result in their type."""
    if kwargs.get("out") is not None:
        return func(*args, **kwargs)
    options = {name: _wide(value) for name, value in kwargs.items()}
    return func(*map(_wide, args), **options).to(next(filter(_is_slow, args)).dtype)


@cache
def _is_foreign_product(func: torch._ops.OpOverload) -> bool:
    """Check whether `func` is a product registered by another library, whose own torch calls are not intercepted."""
    return bool(_FOREIGN_PRODUCT.search(func.name()))


def _several_tokens(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `func` as `_widened` does if x holds several tokens, otherwise unchanged."""
    is_one = not torch.is_tensor(x) or x.numel() == x.shape[-1]
    return func(x, *args, **kwargs) if is_one else _widened(func, x, *args, **kwargs)


def _wide(value: Any) -> Any:
    """Return a tensor of a slow type as float32, and any other value unchanged."""
    return value.float() if _is_slow(value) else value


def _linear(func: Callable[..., Any], x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """Replace `F.linear`: x[..., in] W[out, in]^T + bias[out] -> [..., out]."""
    is_plain = x.dim() > 0 and weight.dim() == 2 and x.dtype == weight.dtype and _fits(bias, weight)
    # torch.func can only differentiate and map torch's own product.
    if not is_plain or _is_fast(x, weight) or torch._C._are_functorch_transforms_active():  # noqa: SLF001
        return func(x, weight, bias)
    # [..., in] -> [tokens, in]
    y = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    # [tokens, out] -> [..., out]
    return y.view(*x.shape[:-1], len(weight))


def _is_fast(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Check whether x has so few tokens that torch's own product is fast."""
    few = FEW_TOKENS if torch.get_num_threads() == 1 else FEW_TOKENS_OF_THREADS
    return x.numel() <= few * x.shape[-1] and weight.is_contiguous()


def _fits(bias: torch.Tensor | None, weight: torch.Tensor) -> bool:
    """Check whether there is no bias, or one of the shape and type that a weight needs."""
    return bias is None or (bias.shape == weight.shape[:1] and bias.dtype == weight.dtype)


class _Linear(torch.autograd.Function):
    """Compute x[tokens, in] W[out, in]^T + bias[out] -> [tokens, out] in x.dtype, with some rows of W at a time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        # Each is only needed for the other's gradient: with a frozen weight, the inputs are not saved.
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        y = x.new_empty(len(x), len(weight))
        inputs = x.float()
        for rows in row_blocks(weight):
            y[:, rows] = F.linear(inputs, weight[rows].float(), None if bias is None else bias[rows].float())
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute grad[tokens, out] -> grad W [tokens, in], grad^T x [out, in], and the sum of grad [out]."""
        x, weight = ctx.saved_tensors
        wide = grad.float()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            total = wide.new_zeros(len(grad), weight.shape[1])
            for rows in row_blocks(weight):
                total += wide[:, rows] @ weight[rows].float()
            grad_x = total.to(grad.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = (wide.T @ x.float()).to(grad.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = wide.sum(0).to(grad.dtype)
        return grad_x, grad_weight, grad_bias


def row_blocks(weight: torch.Tensor) -> Iterator[slice]:
    """Return slices of a weight's rows to convert one after the other."""
    step = max(1, _BLOCK_WEIGHTS // weight.shape[1])
    return (slice(start, start + step) for start in range(0, len(weight), step))


def _grouped(
    func: Callable[..., Any], x: torch.Tensor, weight: torch.Tensor, *, offs: torch.Tensor | None = None, **others: Any
) -> Any:
    """Multiply rows of x[tokens, in] by the weight of their expert, weight[experts, in, out] -> [tokens, out].

    Args:
        func: torch's own product, called for any other arguments.
        x, weight: as above.
        offs: the end of each expert's rows, int32 [experts].
        others: a bias, or the type of the outputs.
    """
    is_plain = (x.dim(), weight.dim()) == (2, 3) and not any(other is not None for other in others.values())
    if offs is None or not is_plain:
        return func(x, weight, offs=offs, **others)
    parts = x.tensor_split(offs.cpu().long())[: len(weight)]
    return torch.cat([_widened(torch.mm, part, expert) for part, expert in zip(parts, weight, strict=True)])


_PRODUCTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    torch._grouped_mm: _grouped,  # noqa: SLF001  # what F.grouped_mm calls
    **dict.fromkeys(
        (
            F.conv1d,
            F.conv2d,
            F.scaled_dot_product_attention,
            torch.Tensor.__matmul__,
            torch.Tensor.addmm,
            torch.Tensor.baddbmm,
            torch.Tensor.bmm,
            torch.Tensor.matmul,
            torch.Tensor.mm,
            torch.addmm,
            torch.baddbmm,
            torch.bmm,
            torch.einsum,
            torch.matmul,
            torch.mm,
        ),
        _widened,
    ),
}
