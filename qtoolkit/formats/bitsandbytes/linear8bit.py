"""An int8 linear layer of bitsandbytes that takes inputs of any number of dimensions, and logs no line a product."""

import logging
import threading
from typing import Any

import torch

from qtoolkit.optional import optional

bnb: Any = optional("bitsandbytes", "an int8 layer")
# Whether this thread is in a product of a layer of ours.
_multiplying = threading.local()
# Dimensions of the inputs that bitsandbytes multiplies rightly: 0.50 flattens those of three, `MatMul8bitLt.forward`.
_MOST_DIMENSIONS = 3


class Linear8bitLt(bnb.nn.Linear8bitLt):  # type: ignore[misc]
    """Replace bitsandbytes' layer of the same name, by setting its `__class__`.

    Given [batch, 1, tokens, in], as attention with latent keys gives it (DeepSeek-V3), bitsandbytes 0.50 returns
    [batch, 1, tokens, tokens * out] on a CPU. Of inputs in another type than float16 it logs a line each time.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in] W^T + bias -> [..., out]."""
        _multiplying.ours = True
        try:
            return self._multiply(x)
        finally:
            _multiplying.ours = False

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() <= _MOST_DIMENSIONS:
            return super().forward(x)  # type: ignore[no-any-return]
        output: torch.Tensor = super().forward(x.reshape(-1, x.shape[-1]))  # [..., in] -> [tokens, in]
        return output.reshape(*x.shape[:-1], -1)  # [tokens, out] -> [..., out]


def mute_products() -> None:
    """Leave out the lines that products of these layers log; those of other layers are logged as before."""
    # The same filter is added once.
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not (getattr(_multiplying, "ours", False) and "inputs will be cast" in str(record.msg))
