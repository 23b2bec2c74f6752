"""An int8 linear layer of bitsandbytes that takes inputs of any number of dimensions."""

from typing import Any

import torch

from qtoolkit.optional import optional

bnb: Any = optional("bitsandbytes", "an int8 layer")
# Dimensions of the inputs that bitsandbytes multiplies rightly: 0.50 flattens those of three, `MatMul8bitLt.forward`.
_MOST_DIMENSIONS = 3


class Linear8bitLt(bnb.nn.Linear8bitLt):  # type: ignore[misc]
    """Replace bitsandbytes' layer of the same name, by setting its `__class__`.

    Given [batch, 1, tokens, in], as attention with latent keys gives it (DeepSeek-V3), bitsandbytes 0.50 returns
    [batch, 1, tokens, tokens * out] on a CPU.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in] W^T + bias -> [..., out]."""
        if x.dim() <= _MOST_DIMENSIONS:
            return super().forward(x)  # type: ignore[no-any-return]
        output: torch.Tensor = super().forward(x.reshape(-1, x.shape[-1]))  # [..., in] -> [tokens, in]
        return output.reshape(*x.shape[:-1], -1)  # [tokens, out] -> [..., out]
