"""The kernel for 8-bit codes with one scale an output: torch's product of bfloat16 inputs and int8 rows."""

import torch

from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors, stored_bytes

# Tokens up to which the kernel is faster than dequantizing, measured on a 2048 x 2048 layer.
_FEW_TOKENS = 8
# Inputs of a row in multiples: with another length the kernel reads past the end, and crashes.
_MULTIPLE = 16


class Int8Rows(Codes):
    """Symmetric codes int8 [out, in] with a scale for each output, or one for all, in memory as they are stored.

    Args:
        source: codes that have `rows`, zero points in the middle, and one scale an output.
    """

    expands_fast = True

    def __init__(self, source: Codes) -> None:
        self.describe_as(source)
        self._source = source
        self.rows = source.rows

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._source.codes(outputs)

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._source.scale(outputs)

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`."""
        return self._source.expanded(outputs, dtype)

    def unscaled(self, outputs: slice, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Codes`."""
        return self._source.unscaled(outputs, dtype)

    def multiply(self, x: torch.Tensor) -> torch.Tensor | None:
        """See `Codes`: for few tokens in bfloat16 on a CPU."""
        few = x.device.type == "cpu" and x.dtype == torch.bfloat16 and 0 < len(x) <= _FEW_TOKENS
        rows = self.rows
        if not few or rows is None or self.in_features % _MULTIPLE:
            return None
        # The kernel supports only bfloat16 scales: it gets ones, and the exact scales are applied after it.
        y = torch._weight_int8pack_mm(x.contiguous(), rows, x.new_ones(len(rows)))  # noqa: SLF001
        return y.mul_(self.scale(slice(0, self.out_features))[0])


class Int8RowsKernel(Kernel):
    """Multiply with symmetric 8-bit rows that have one scale an output."""

    def takes(self, weight: Codes | StoredTensors, device: torch.device) -> bool:
        """See `Kernel`: on a CPU only."""
        per_output = weight.inputs_per_scale == weight.in_features
        return weight.bits == 8 and weight.expands_fast and weight.centered and per_output and device.type == "cpu"

    def pack(self, codes: Codes) -> Codes | None:
        """See `Kernel`."""
        return None if codes.rows is None else Int8Rows(codes)

    def packed_bytes(self, stored: StoredTensors, device: torch.device) -> int:
        """See `Kernel`: nothing is packed, the stored tensors stay in memory."""
        return stored_bytes(stored, stored.packed_names)


KERNEL = Int8RowsKernel()
