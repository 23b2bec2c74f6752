"""Speed up decoding one token at a time on a CPU: keys and values that are not copied, and attention of one query."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import DynamicLayer

# Tokens by which a cache is enlarged at a time.
_ENLARGED_BY = 64


class BufferedLayer(DynamicLayer):  # type: ignore[misc]
    """Hold keys and values in buffers that are longer than needed: appending by concatenation copies all at each step.

    The tensors that it returns are views of these buffers, and carry them as an attribute `buffer`: a matrix product on
    a CPU would copy a view, but not the buffer, whose unused part is zero.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = _appended(self.keys, key_states)
        self.values = _appended(self.values, value_states)
        return self.keys, self.values


def _appended(cached: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Append new keys or values to the cached ones, [rows, heads, tokens, width]; the result is a view of a buffer."""
    rows, heads, count, width = new.shape
    begin = cached.shape[2] if cached.numel() else 0
    buffer = getattr(cached, "buffer", new.new_empty(rows, heads, 0, width))
    if begin + count > buffer.shape[2]:
        buffer = torch.cat([buffer, new.new_zeros(rows, heads, count + _ENLARGED_BY, width)], dim=2)
    buffer[:, :, begin : begin + count] = new
    view = buffer[:, :, : begin + count]
    setattr(view, "buffer", buffer)  # noqa: B010  # no attribute that a type checker knows
    return view


class OneQuery(TorchFunctionMode):
    """Replace torch's attention by two matrix products over all heads that share keys, if there is one query.

    torch's own kernel for the CPU is made for many queries: for one, in 16 bits, it is up to 8 times as slow.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3 and _is_plain(args[0], kwargs):
            return attend(args[0], args[1], args[2], kwargs.get("scale"))
        return func(*args, **kwargs)


def _is_plain(query: torch.Tensor, options: dict[str, Any]) -> bool:
    """Check for one query per head, in 16 bits on the CPU, that attends to all keys."""
    is_masked = options.get("attn_mask") is not None or options.get("is_causal") or options.get("dropout_p")
    return query.shape[2] == 1 and query.device.type == "cpu" and query.dtype.itemsize == 2 and not is_masked


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Compute softmax(q K^T scale) V for one query per head.

    Args:
        query: [rows, heads, 1, width].
        key: [rows, key heads, tokens, width], a view of a buffer of `BufferedLayer`, or any other tensor.
        value: [rows, key heads, tokens, value width], likewise.
        scale: None for 1 / sqrt(width).
    """
    rows, heads, _, width = query.shape
    keys = getattr(key, "buffer", key)
    values = getattr(value, "buffer", value)
    grouped = query.reshape(rows, key.shape[1], -1, width)  # [rows, key heads, heads that share, width]
    scores = (grouped @ keys.transpose(2, 3)).float() * (width**-0.5 if scale is None else scale)
    scores[..., key.shape[2] :] = -torch.inf  # [rows, key heads, heads that share, buffer]
    return (scores.softmax(-1).to(value.dtype) @ values).reshape(rows, heads, 1, -1)
