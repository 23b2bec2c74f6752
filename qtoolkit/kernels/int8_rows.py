"""The kernel for 8-bit codes with one scale an output: torch's product of bfloat16 inputs and int8 rows."""

from collections.abc import Mapping
from math import prod

import torch

from qtoolkit.kernels.blockwise import output_blocks
from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors

# Tokens up to which the kernel is faster than dequantizing, measured on a 2048 x 2048 layer.
FEW_TOKENS = 8
# Inputs of a row in multiples: with another length the kernel reads past the end, and crashes.
MULTIPLE = 16
# Times the size of the outputs that products may have: their rounding, 0.17 %, is so many times larger beside these.
_MOST = 2


class Int8Rows(Codes):
    """Codes int8 [out, in] with a scale for each output, or one for all.

    They are in memory as they are stored, where they are stored so; otherwise these rows replace what is stored.

    Args:
        source: codes that have one scale and one zero point an output, or one for all.
    """

    expands_fast = True

    def __init__(self, source: Codes) -> None:
        self.describe_as(source)
        self._is_stored = source.rows is not None
        rows = source.rows
        if rows is None:
            # uint8 [in, outputs] -> int8 [outputs, in]
            parts = [source.codes(part).bitwise_xor_(128).T.contiguous() for part in output_blocks(source)]
            rows = torch.cat(parts).view(torch.int8)
        self._rows = self.rows = rows
        scale = source.scale(slice(0, self.out_features))
        self._scale = scale if self._is_stored else scale.contiguous()

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        # int8 [outputs, in] -> uint8 [in, outputs]
        return self._rows[outputs].bitwise_xor(-128).view(torch.uint8).T.contiguous()

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._scale if self._scale.shape[1] == 1 else self._scale[:, outputs]

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`: the product is taken in float32 and rounded once."""
        weight = self._levels(outputs, torch.float32).mul_(self.scale(outputs).float())
        return weight.to(dtype)

    def unscaled(self, outputs: slice, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Codes`. Scaled in float16, where sums of products with codes could exceed the maximum, 65504."""
        if dtype == torch.float16:
            return self.expanded(outputs, dtype), None
        return self._levels(outputs, dtype), self.scale(outputs)[0]

    def _levels(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """Return codes of some outputs less their zero points, [in, outputs]: at most 255, exact in any type."""
        levels = self._rows[outputs].to(dtype).T
        offset = offset_of(self, outputs)
        return levels if offset is None else levels.add_(offset.to(dtype))

    def multiply(self, x: torch.Tensor) -> torch.Tensor | None:
        """See `Codes`: for few tokens in bfloat16 on a CPU, unless zero points take most of the products away."""
        products = multiply_rows(x, self._rows)
        if products is None:
            return None
        everything = slice(0, self.out_features)
        scale, offset = self.scale(everything), offset_of(self, everything)
        if offset is None:
            return products.mul_(scale[0])
        scaled = products.float().mul_(scale[0])
        y = scaled.addmm(x.float().sum(1, keepdim=True), offset.expand(1, self.out_features) * scale[0].float())
        return None if outweigh(scaled[None], y) else y.to(x.dtype)

    def buffers(self) -> Mapping[str, torch.Tensor]:
        """See `Codes`."""
        return {} if self._is_stored else {"int8_rows": self._rows, "row_scales": self._scale}


def multiply_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor | None:
    """Compute x[tokens, in] rows[out, in]^T -> [tokens, out], rows int8; None but for few tokens in bfloat16 on a CPU.

    Sums are rounded to bfloat16.
    """
    few = x.device.type == "cpu" and x.dtype == torch.bfloat16 and 0 < len(x) <= FEW_TOKENS
    if not few or rows.shape[1] % MULTIPLE or in_vmap(x):
        return None
    # The kernel supports only bfloat16 scales: it gets ones, and the exact scales are applied after it.
    return torch._weight_int8pack_mm(x.contiguous(), rows, x.new_ones(len(rows)))  # noqa: SLF001


def in_vmap(x: torch.Tensor) -> bool:
    """Check whether `torch.func.vmap` goes over x: the kernel has no rule for it, and it has no values to decide by."""
    return torch._C._functorch.is_batchedtensor(x)  # noqa: SLF001


def outweigh(products: torch.Tensor, y: torch.Tensor) -> bool:
    """Check whether rounded products are too large beside the outputs that they and zero points add up to.

    The products hold the sum of a token's inputs, which zero points subtract again: after an activation, or where a
    row's codes are all at one end of their range, what remains may be less than the rounding of the products.

    Args:
        products: of each group, rounded to bfloat16 and scaled, [groups, tokens, out].
        y: the outputs [tokens, out].
    """
    sizes = torch.linalg.vector_norm(products, dim=(0, 2))  # [tokens]
    return bool((sizes > _MOST * torch.linalg.vector_norm(y, dim=1)).any())


def offset_of(codes: Codes, outputs: slice) -> torch.Tensor | None:
    """Return what int8 codes of some outputs, less 128, lack to be those less their zero points; None for nothing.

    Returns:
        float32 [groups, outputs] or [1, 1].
    """
    zero = 128 if codes.centered else codes.zero_points(outputs)
    if isinstance(zero, int):
        return None if zero == 128 else torch.full((1, 1), 128.0 - zero, device=codes.device)
    return 128 - zero.float()


class Int8RowsKernel(Kernel):
    """Multiply with 8-bit rows that have one scale an output."""

    def takes(self, weight: Codes | StoredTensors, device: torch.device) -> bool:
        """See `Kernel`: on a CPU only."""
        per_output = weight.inputs_per_scale == weight.in_features
        return weight.bits == 8 and per_output and device.type == "cpu"

    def pack(self, codes: Codes) -> Codes | None:
        """See `Kernel`: None for inputs in another order than the layer's."""
        return None if codes.groups is not None or codes.order is not None else Int8Rows(codes)

    def packed_bytes(self, stored: StoredTensors, device: torch.device) -> int:
        """See `Kernel`: a byte for each code, and the scales as they are stored."""
        shape, dtype = stored.tensors()[stored.scale_name]
        return stored.in_features * stored.out_features + prod(shape) * dtype.itemsize


KERNEL = Int8RowsKernel()
