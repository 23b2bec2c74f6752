"""The kernel for 8-bit codes in groups: torch's product of bfloat16 inputs and int8 rows, once for each group."""

from collections.abc import Mapping
from math import prod

import torch

from qtoolkit.kernels.blockwise import output_blocks
from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors
from qtoolkit.kernels.int8_rows import FEW_TOKENS, MULTIPLE, in_vmap, offset_of, outweigh
from qtoolkit.tensor.processor import product_dtype


class Int8Groups(Codes):
    """Codes of 8 bits in equal, ordered groups, as int8 [groups, out, group_size], with their exact scales.

    Args:
        source: sorted codes. Only its zero points stay referenced.
    """

    expands_fast = True

    def __init__(self, source: Codes) -> None:
        self.describe_as(source)
        self.order = source.order
        self._scale = source.scale(slice(0, self.out_features)).contiguous()
        shape = (self.in_features // self.inputs_per_scale, self.inputs_per_scale)
        # uint8 [in, outputs] -> int8 [groups, group_size, outputs] -> [groups, outputs, group_size]
        parts = [source.codes(part).bitwise_xor_(128).unflatten(0, shape).mT for part in output_blocks(source)]
        self._rows = torch.cat(parts, dim=1).view(torch.int8)

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        # int8 [groups, outputs, group_size] -> uint8 [in, outputs]
        return self._rows[:, outputs].bitwise_xor(-128).view(torch.uint8).mT.flatten(0, 1)

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._scale[:, outputs]

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`: the product is taken in float32 and rounded once."""
        rows = self._rows[:, outputs]
        groups, count, size = rows.shape
        weight = torch.empty(count, groups, size, device=self.device)
        weight.transpose(0, 1).copy_(rows)
        offset = offset_of(self, outputs)
        if offset is not None:
            weight.add_(offset.T[..., None])
        weight.mul_(self.scale(outputs).float().T[..., None])
        # [outputs, groups, group_size] -> [in, outputs]
        return weight.flatten(1).to(dtype).T

    def multiply(self, x: torch.Tensor) -> torch.Tensor | None:
        """See `Codes`: for few tokens in 16 bits on a CPU, as for rows; groups are added in float32."""
        few = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) and 0 < x.shape[0] <= FEW_TOKENS
        if not few or in_vmap(x):
            return None
        # [tokens, in] -> [groups, tokens, group_size]
        inputs = x.bfloat16().unflatten(1, (-1, self.inputs_per_scale)).transpose(0, 1).contiguous()
        ones = inputs.new_ones(self.out_features)
        products = zip(inputs.unbind(), self._rows.unbind(), strict=True)
        # of all groups: [groups, tokens, out]
        parts = torch.stack([torch._weight_int8pack_mm(*factors, ones) for factors in products]).float()  # noqa: SLF001
        scale = self._scale.float()
        y = parts.mul_(scale[:, None]).sum(0)
        offset = offset_of(self, slice(0, self.out_features))
        if offset is not None:
            y += inputs.float().sum(2).T @ (offset * scale)
            if outweigh(parts, y):
                return None
        return y.to(x.dtype)

    def buffers(self) -> Mapping[str, torch.Tensor]:
        """See `Codes`."""
        named = {"int8_groups": self._rows, "group_scales": self._scale}
        return named if self.order is None else named | {"order": self.order}


class Int8GroupsKernel(Kernel):
    """Multiply with 8-bit codes in groups."""

    def takes(self, weight: Codes | StoredTensors, device: torch.device) -> bool:
        """See `Kernel`: on a CPU only.

        With AVX512, two planes of 4 bits multiply few tokens in 0.7 to 1.0 of the time (and many in 1.3 times it), but
        take more memory than codes that are stored as bytes.
        """
        size = weight.inputs_per_scale
        fits = size % MULTIPLE == 0 and size < weight.in_features and weight.in_features % size == 0
        gains = weight.expands_fast or product_dtype(torch.bfloat16, device.type) == torch.float32
        return weight.bits == 8 and fits and gains and device.type == "cpu"

    def pack(self, codes: Codes) -> Codes | None:
        """See `Kernel`: None for scales that are not finite, or groups of different sizes."""
        in_order = codes.sorted()
        finite = bool(codes.scale(slice(0, codes.out_features)).isfinite().all())
        return None if in_order is None or not finite else Int8Groups(in_order)

    def packed_bytes(self, stored: StoredTensors, device: torch.device) -> int:
        """See `Kernel`: a byte for each code, and the scales as they are stored."""
        shape, dtype = stored.tensors()[stored.scale_name]
        return stored.in_features * stored.out_features + prod(shape) * dtype.itemsize


KERNEL = Int8GroupsKernel()
