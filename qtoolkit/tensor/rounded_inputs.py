"""Round the inputs of a product to 8 bits, with a scale for each token: what servers do before they multiply in 8 bits.

vLLM 0.33, csrc/quantization/w8a8: int8/scaled_quant.cu and fp8/common.cu. Scales are float32.
"""

from collections.abc import Callable
from functools import partial

import torch

from qtoolkit.tensor.float8 import CODES, LARGEST, float8_values

_LARGEST_INT8 = 127.0


def inputs_rounding(kind: str, group_size: int = -1) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what rounds inputs x[tokens, in] to 8 bits and back: scale = max|x| / 448 or 127, x ~ round(x / scale).

    The result has x's type and shape. A token of zeros stays so; one with NaN or infinity has no finite number.

    Args:
        kind: "float" for float8 e4m3fn, "int" for integers.
        group_size: neighbours of one token that share a scale; -1 for all of them.

    Example: the scale is 2.54 / 127 = 0.02, and 1.005 lies between 50 and 51 of it.

        >>> x = torch.tensor([[2.54, 1.005, -0.001]])
        >>> [round(value, 4) for value in inputs_rounding("int")(x)[0].tolist()]
        [2.54, 1.0, 0.0]
    """
    return partial(_rounded, kind=kind, group_size=group_size)


def _rounded(x: torch.Tensor, *, kind: str, group_size: int) -> torch.Tensor:
    """Round x[tokens, in]; see `inputs_rounding`. The last group may be smaller."""
    tokens, width = x.shape
    size = width if group_size == -1 else group_size
    # [tokens, in] -> [tokens, groups, size]
    padded = torch.nn.functional.pad(x, (0, -width % size)).float().view(tokens, -(-width // size), size)
    scale = padded.abs().amax(-1, keepdim=True) / (LARGEST if kind == "float" else _LARGEST_INT8)
    scale = torch.where(scale == 0, 1.0, scale)
    levels = padded / scale
    levels = float8_values(levels.to(CODES)) if kind == "float" else levels.round_()
    return levels.mul_(scale).flatten(1)[:, :width].to(x.dtype)
