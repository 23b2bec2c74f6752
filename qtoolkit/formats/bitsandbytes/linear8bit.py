"""An int8 linear layer of bitsandbytes: for inputs of any number of dimensions, silent, and fast with AVX2 alone."""

import logging
import threading
from typing import Any

import torch

from qtoolkit.formats.bitsandbytes import CASTS, is_no_cast
from qtoolkit.kernels import multiply_rows
from qtoolkit.optional import optional
from qtoolkit.tensor.float32_products import own_products, row_blocks
from qtoolkit.tensor.processor import product_dtype

bnb: Any = optional("bitsandbytes", "an int8 layer")
functional: Any = optional("bitsandbytes.functional", "an int8 layer")
# Whether this thread is in a product of a layer of ours.
_multiplying = threading.local()
# Dimensions of the inputs that bitsandbytes multiplies rightly: 0.50 flattens those of three, `MatMul8bitLt.forward`.
_MOST_DIMENSIONS = 3


class Linear8bitLt(bnb.nn.Linear8bitLt):  # type: ignore[misc]
    """Replace bitsandbytes' layer of the same name, by setting its `__class__`.

    Given [batch, 1, tokens, in], as attention with latent keys gives it (DeepSeek-V3), bitsandbytes 0.50 returns
    [batch, 1, tokens, tokens * out] on a CPU. Of inputs in another type than float16 it logs a line each time. On a CPU
    without AVX512 it converts all of the weight to float32 for each token, and sums to int32 and back: there, this
    multiplies the same rounded inputs with the same codes.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in] W^T + bias -> [..., out]."""
        _multiplying.ours = True
        try:
            return self._multiply(x)
        finally:
            _multiplying.ours = False

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        needs_gradient = x.requires_grad and torch.is_grad_enabled()
        if product_dtype(torch.bfloat16, x.device.type) == torch.float32 and not self.training and not needs_gradient:
            if self.weight.CB is not None:
                self.init_8bit_state()
            if x.numel() and not self.state.has_fp16_weights and self.state.CB is not None:
                with own_products():
                    return self._multiply_codes(x)
        if x.dim() <= _MOST_DIMENSIONS:
            return super().forward(x)  # type: ignore[no-any-return]
        output: torch.Tensor = super().forward(x.reshape(-1, x.shape[-1]))  # [..., in] -> [tokens, in]
        return output.reshape(*x.shape[:-1], -1)  # [tokens, out] -> [..., out]

    def _multiply_codes(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in] W^T + bias -> [..., out] as `bitsandbytes::int8_mixed_scaled_mm` does."""
        rows, row_scales = self.state.CB, self.state.SCB.float()
        # bitsandbytes takes float16, which holds all that bfloat16 does but the smallest numbers and the largest.
        inputs = x.reshape(-1, x.shape[-1]).float()  # [..., in] -> [tokens, in]
        codes, scales, outliers = functional.int8_vectorwise_quant(inputs, threshold=self.state.threshold)
        y = _product(codes, rows, x.dtype).mul_(scales[:, None]).mul_(row_scales / 127**2)
        if outliers is not None and outliers.numel():
            y.addmm_(inputs[:, outliers], (rows[:, outliers].float() * (row_scales[:, None] / 127)).T)
        if self.bias is not None:
            y += self.bias.float()
        return y.to(x.dtype).view(*x.shape[:-1], rows.shape[0])  # [tokens, out] -> [..., out]


def mute_products() -> None:
    """Leave out the lines that products of these layers log; those of other layers are logged as before."""
    # The same filter is added once.
    CASTS.addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not getattr(_multiplying, "ours", False) or is_no_cast(record)


def _product(codes: torch.Tensor, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Compute codes[tokens, in] rows[out, in]^T, both int8, -> float32 [tokens, out]; `dtype` is the layer's.

    Of few tokens in bfloat16, sums are rounded to that.
    """
    few = multiply_rows(codes.bfloat16(), rows) if dtype == torch.bfloat16 else None
    if few is not None:
        return few.float()
    inputs = codes.float()
    y = inputs.new_empty(codes.shape[0], rows.shape[0])
    for part in row_blocks(rows):
        y[:, part] = inputs @ rows[part].float().T
    return y
