"""Multiply any number of tokens in few shapes: oneDNN keeps what it compiles for each shape that it meets.

A router sends each expert another number of tokens, so that a mixture's job meets hundreds of shapes. In bfloat16 each
takes 0.6 MB for the life of the process (torch 2.13, AVX512-BF16), up to 1,024 of them, and torch has no call to free
them. Products of float32 keep nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch.overrides import TorchFunctionMode

from qtoolkit.tensor.processor import product_dtype

# Below, a number of rows becomes the next power of two; above, a multiple of this or of a sixteenth to an eighth of it.
_STEP = 64


def padded(x: torch.Tensor) -> torch.Tensor:
    """Return x[tokens, in] with rows of zeros below, so that the number of rows is one of few: 22 up to 1,024.

    Example:
        >>> [len(padded(torch.ones(tokens, 1))) for tokens in (0, 1, 5, 64, 65, 1000, 1025)]
        [0, 1, 8, 64, 128, 1024, 1152]
    """
    added = _padded_size(len(x)) - len(x)
    return F.pad(x, (0, 0, 0, added)) if added else x


def _padded_size(rows: int) -> int:
    if rows < _STEP:
        return 1 << (rows - 1).bit_length() if rows else 0
    step = max(_STEP, 1 << (rows.bit_length() - 4))
    return -(-rows // step) * step


class PaddedProducts(TorchFunctionMode):
    """A context in which linear layers multiply bfloat16 inputs [tokens, in] on a CPU in few shapes.

    A row of a product does not depend on the others. Inputs of more dimensions are those of all samples, whose number
    does not change.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear or not args or not _varies(args[0]):
            return func(*args, **kwargs)
        x, *others = args
        return func(padded(x), *others, **kwargs)[: len(x)]  # [padded tokens, out] -> [tokens, out]


def _varies(x: torch.Tensor) -> bool:
    on_cpu = x.dim() == 2 and x.dtype == torch.bfloat16 and x.device.type == "cpu"
    return on_cpu and product_dtype(x.dtype, "cpu") == x.dtype
