"""Decoding one token at a time, on a CPU too: keys and values that are not copied, and attention of one query."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import DynamicLayer

# Tokens for which a cache takes room at a time.
_ROOM = 64


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values with room for further tokens, since one that grows by concatenation copies all at each step.

    What it returns carries the whole room along, whose surplus is zero: matrix products of the CPU would copy the part.
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


def _appended(kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """What is kept [rows, heads, tokens, width] and what is new, in a room of which it is the first part."""
    rows, heads, count, width = new.shape
    begin = kept.shape[2] if kept.numel() else 0
    room = getattr(kept, "room", new.new_empty(rows, heads, 0, width))
    if begin + count > room.shape[2]:
        room = torch.cat([room, new.new_zeros(rows, heads, count + _ROOM, width)], dim=2)
    room[:, :, begin : begin + count] = new
    part = room[:, :, : begin + count]
    setattr(part, "room", room)  # noqa: B010  # no attribute that a type checker knows
    return part


class OneQuery(TorchFunctionMode):
    """Attention of one query as two matrix products over all heads that share keys.

    torch's own kernel for the CPU is made for many queries: with one, in 16 bits, it is up to 8 times as slow.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3 and _is_plain(args[0], kwargs):
            return attend(args[0], args[1], args[2], kwargs.get("scale"))
        return func(*args, **kwargs)


def _is_plain(query: torch.Tensor, options: dict[str, Any]) -> bool:
    """Whether it is one query of each head, in 16 bits on the CPU, that sees all keys."""
    is_masked = options.get("attn_mask") is not None or options.get("is_causal") or options.get("dropout_p")
    return query.shape[2] == 1 and query.device.type == "cpu" and query.dtype.itemsize == 2 and not is_masked


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """softmax(q K^T scale) V for one query of each head.

    Args:
        query: [rows, heads, 1, width].
        key: [rows, key heads, tokens, width], in the room that `RoomyLayer` gave it, or in none.
        value: [rows, key heads, tokens, value width], likewise.
        scale: None for 1 / sqrt(width).
    """
    rows, heads, _, width = query.shape
    keys, values = getattr(key, "room", key), getattr(value, "room", value)
    grouped = query.reshape(rows, key.shape[1], -1, width)  # [rows, key heads, heads that share, width]
    scores = (grouped @ keys.transpose(2, 3)).float() * (width**-0.5 if scale is None else scale)
    scores[..., key.shape[2] :] = -torch.inf  # [rows, key heads, heads that share, room]
    return (scores.softmax(-1).to(value.dtype) @ values).reshape(rows, heads, 1, -1)
