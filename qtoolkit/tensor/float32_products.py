"""Matrix products in float32 on a CPU that multiplies bfloat16 or float16 slowly, whoever asks torch for them."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch.overrides import TorchFunctionMode

from qtoolkit.tensor.processor import product_dtype

# Weights that are in float32 at one time: they stay in the cache.
_BLOCK_WEIGHTS = 2**19
# Names of operations outside torch that multiply: bitsandbytes::gemm_4bit.
_FOREIGN_PRODUCT = re.compile(r"^(?!aten::|transformers::).*(gemm|gemv|linear)")

# Tokens up to which torch's own product with the rows of a weight takes no longer than reading these as float32.
# Measured on SmolLM2 (torch 2.13, AVX2): one thread, 2, 4 and 8 tokens: 28, 50 and 95 ms instead of 45, 46 and 57; two
# threads, 4 and 8 tokens: 37 and 69 ms instead of 104 and 120.
FEW_TOKENS, FEW_TOKENS_OF_THREADS = 3, 8


class Float32Products(TorchFunctionMode):
    """Multiply in float32, while this is entered, what this CPU multiplies slowly in its own type.

    Tensors keep their type: a product's arguments are read as float32, and its result is rounded once. Of a linear
    layer, some rows of the weight are in float32 at one time; few tokens are left to torch, which is fast there.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        multiply = _PRODUCTS.get(func) or (_several_tokens if _is_foreign_product(func) else None)
        if multiply is None or not any(map(_is_slow, args)):
            return func(*args, **kwargs)
        return multiply(func, *args, **kwargs)


def _is_slow(value: Any) -> bool:
    return torch.is_tensor(value) and product_dtype(value.dtype, value.device.type) != value.dtype


def _widened(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the result of `func` on the same numbers as float32, in their own type."""
    if kwargs.get("out") is not None:
        return func(*args, **kwargs)
    options = {name: _wide(value) for name, value in kwargs.items()}
    return func(*map(_wide, args), **options).to(next(filter(_is_slow, args)).dtype)


def _is_foreign_product(func: Callable[..., Any]) -> bool:
    """Whether it is a product that another library gave torch; what such an operation calls is not seen here."""
    return isinstance(func, torch._ops.OpOverload) and bool(_FOREIGN_PRODUCT.search(func.name()))  # noqa: SLF001


def _several_tokens(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """`_widened` where x holds several tokens."""
    is_one = not torch.is_tensor(x) or x.numel() == x.shape[-1]
    return func(x, *args, **kwargs) if is_one else _widened(func, x, *args, **kwargs)


def _wide(value: Any) -> Any:
    return value.float() if _is_slow(value) else value


def _linear(func: Callable[..., Any], x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """x[..., in] W[out, in]^T + bias[out] -> [..., out]."""
    is_plain = x.dim() > 0 and weight.dim() == 2 and x.dtype == weight.dtype and _fits(bias, weight)
    # torch.func takes what torch knows how to differentiate and map, and that is torch's own product.
    if not is_plain or _is_fast(x, weight) or torch._C._are_functorch_transforms_active():  # noqa: SLF001
        return func(x, weight, bias)
    # [..., in] -> [tokens, in]
    y = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    # [tokens, out] -> [..., out]
    return y.view(*x.shape[:-1], len(weight))


def _is_fast(x: torch.Tensor, weight: torch.Tensor) -> bool:
    few = FEW_TOKENS if torch.get_num_threads() == 1 else FEW_TOKENS_OF_THREADS
    return x.numel() <= few * x.shape[-1] and weight.is_contiguous()


def _fits(bias: torch.Tensor | None, weight: torch.Tensor) -> bool:
    return bias is None or (bias.shape == weight.shape[:1] and bias.dtype == weight.dtype)


class _Linear(torch.autograd.Function):
    """x[tokens, in] W[out, in]^T + bias[out] -> [tokens, out] in x.dtype, with some rows of W in float32 at a time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        # Each is kept for the other's gradient alone: where a weight is frozen, its inputs are let go.
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        y, inputs = x.new_empty(len(x), len(weight)), x.float()
        for rows in _row_blocks(weight):
            y[:, rows] = F.linear(inputs, weight[rows].float(), None if bias is None else bias[rows].float())
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """grad[tokens, out] -> grad W [tokens, in], grad^T x [out, in], and the sum of grad [out]."""
        x, weight = ctx.saved_tensors
        wide, grad_x, grad_weight, grad_bias = grad.float(), None, None, None
        if ctx.needs_input_grad[0]:
            total = wide.new_zeros(len(grad), weight.shape[1])
            for rows in _row_blocks(weight):
                total += wide[:, rows] @ weight[rows].float()
            grad_x = total.to(grad.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = (wide.T @ x.float()).to(grad.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = wide.sum(0).to(grad.dtype)
        return grad_x, grad_weight, grad_bias


def _row_blocks(weight: torch.Tensor) -> Iterator[slice]:
    step = max(1, _BLOCK_WEIGHTS // weight.shape[1])
    return (slice(start, start + step) for start in range(0, len(weight), step))


def _grouped(
    func: Callable[..., Any], x: torch.Tensor, weight: torch.Tensor, *, offs: torch.Tensor | None = None, **others: Any
) -> Any:
    """Rows of x[tokens, in] by the weight of their expert, weight[experts, in, out] -> [tokens, out]; expert by expert.

    Args:
        func: torch's own, which all else is left to.
        x, weight: as above.
        offs: where the rows of each expert end, int32 [experts].
        others: a bias or a type of the outputs.
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
