"""Codes in planes of 4 bits: in the layout of torch's 4-bit kernels, or in one that is dequantized fast."""

from collections.abc import Mapping
from math import prod

import torch

from qtoolkit.kernels import gpu_products
from qtoolkit.kernels.blockwise import output_blocks
from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors
from qtoolkit.kernels.tinygemm import PLAIN_BLOCK, Layout, layout_for, multiply, pairs_of

# Tokens, divided by the planes of codes, up to which a kernel is faster than dequantizing: measured on layers of
# 2048 x 2048 and 576 x 1536.
_FEW_TOKENS = 64


class PackedInt4(Codes):
    """Codes of 2 to 8 bits in equal, ordered groups, packed for one device.

    Where torch has a 4-bit kernel for the device, 2, 3 and 4 bits are one plane of 4-bit codes, and 5 to 8 bits are
    two, the upper and the lower halves of 8-bit codes. Where it has none, the codes are stored so that they are
    dequantized fast: 4 bits as such a plane, 8 bits as bytes; so are 5 to 8 bits on a GPU that runs Triton's kernels.

    The kernels' scales are rounded to bfloat16. The exact ones are stored with them; if they are float16, as their
    difference from the rounded ones, in one byte instead of two, and if they are bfloat16, not at all.

    Args:
        source: sorted codes with finite scales. Only its zero points stay referenced.
        layout: of `tinygemm.layout_for`.
    """

    expands_fast = True

    def __init__(self, source: Codes, layout: Layout) -> None:
        self.describe_as(source)
        self.order = source.order
        self._layout = layout
        all_outputs = slice(0, self.out_features)
        scale = source.scale(all_outputs)
        zero_point = source.zero_points(all_outputs)
        common = _common(zero_point)
        if common is not None:
            self.zero_points = lambda outputs: common
        self.centered = source.centered and common == 2 ** (source.bits - 1)
        pieces = [self._pack(source.codes(part)) for part in output_blocks(source)]
        self._planes = tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
        self._pairs: tuple[torch.Tensor, ...] = ()
        # Not a view of a transposed tensor, which another device or type would keep in memory with gaps.
        self._exact = scale.contiguous()
        if layout.group_size is None:
            return
        expanded = scale.expand(-1, self.out_features)
        repeats = self.in_features // len(scale) // layout.group_size
        self._pairs = tuple(pairs_of(*numbers, repeats) for numbers in self._numbers(expanded, zero_point))
        if scale.dtype == torch.bfloat16 and scale.shape == expanded.shape:
            self._exact = scale.new_empty(0)
        elif scale.dtype == torch.float16 and scale.shape == expanded.shape:
            self._exact = (_bits_of(scale) - _bits_of(scale.bfloat16().half())).to(torch.int8)

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        if self._holds_bytes:
            # [outputs, in] bytes, each block as [in, outputs] -> [in, outputs]
            rows = self._planes[0][outputs]
            blocks = rows.view(len(rows) // self._layout.block, self.in_features, self._layout.block)
            return blocks.transpose(0, 1).reshape(self.in_features, len(rows))
        codes = self._layout.unpack(self._planes[0], self.in_features, outputs)
        if self.bits > 4:
            lower = self._layout.unpack(self._planes[1], self.in_features, outputs)
            codes.bitwise_left_shift_(4).bitwise_or_(lower)
        return codes.sub_(_shift(self.bits)) if _shift(self.bits) else codes

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`: in one launch on a GPU."""
        if gpu_products.may_use_triton(self.device):
            # Outputs in a row of a plane.
            each = 1 if self._layout.block else 8
            rows = slice(outputs.start // each, -(-outputs.stop // each))
            weight: torch.Tensor = gpu_products.plane_kernels().expand_planes(
                [plane[rows] for plane in self._planes],
                self.scale(outputs),
                self.zero_points(outputs),
                block=self._layout.block,
                in_features=self.in_features,
                shift=0 if self._holds_bytes else _shift(self.bits),
                dtype=dtype,
            )
            return weight
        return super().expanded(outputs, dtype)

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`: the exact scales in their own type."""
        exact = self._exact
        if exact.numel() and exact.dtype != torch.int8:
            return exact if exact.shape[1] == 1 else exact[:, outputs]
        # With 8 bits, the lower plane has the scales, and the upper one 16 times these.
        rounded = self._pairs[-1][:, outputs, 0].view(torch.bfloat16)
        # The kernel's groups may be parts of ours, and repeat their scales.
        rounded = rounded[:: len(rounded) * self.inputs_per_scale // self.in_features]
        if not exact.numel():
            return rounded
        return (_bits_of(rounded.half()) + exact[:, outputs]).view(torch.float16)

    @property
    def _holds_bytes(self) -> bool:
        """Whether more than 4 bits are stored as bytes, and not as two planes."""
        return self.bits > 4 and not self._pairs

    def multiply(self, x: torch.Tensor) -> torch.Tensor | None:
        """See `Codes`: for few tokens in 16 bits; on a GPU also by Triton's kernels, with the exact scales."""
        if x.device.type == "cuda":
            return self._multiply_on_gpu(x)
        return self._multiply_by_torch(x, _FEW_TOKENS)

    def _multiply_on_gpu(self, x: torch.Tensor) -> torch.Tensor | None:
        """Multiply by the fastest kernel for so many tokens that runs on the device; None where none takes x."""
        runs_triton = gpu_products.may_use_triton(x.device)
        y = self._multiply_by_torch(x, gpu_products.MOST_FOR_TORCH if runs_triton else _FEW_TOKENS)
        kernel = gpu_products.kernel_for(
            x, num_planes=len(self._planes), block=self._layout.block, inputs_per_scale=self.inputs_per_scale
        )
        if y is not None or kernel is None:
            return y
        everything = slice(0, self.out_features)
        return kernel(
            x,
            self._planes[0],
            self.scale(everything),
            self.zero_points(everything),
            block=self._layout.block,
            shift=0 if self._holds_bytes else _shift(self.bits),
        )

    def _multiply_by_torch(self, x: torch.Tensor, most: int) -> torch.Tensor | None:
        """Multiply up to `most` tokens by torch's kernel, for one plane; None where it does not take x."""
        size = self._layout.group_size
        if size is None or not 0 < len(x) <= most // len(self._planes):
            return None
        if x.dtype == torch.float16:
            y = self._multiply_by_torch(x.to(torch.bfloat16), most)
            return None if y is None else y.to(x.dtype)
        if x.dtype != torch.bfloat16:
            return None
        y = multiply(x, self._planes[0], self._pairs[0], size)
        return y if len(self._planes) == 1 else y.add_(multiply(x, self._planes[1], self._pairs[1], size))

    def buffers(self) -> Mapping[str, torch.Tensor]:
        """See `Codes`."""
        parts = {"plane": self._planes, "pairs": self._pairs, "exact": (self._exact,)}
        named = {f"{name}_{index}": tensor for name, tensors in parts.items() for index, tensor in enumerate(tensors)}
        return named if self.order is None else named | {"order": self.order}

    def _pack(self, codes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the planes of codes uint8 [in, outputs]."""
        if self.bits <= 4:
            return (self._layout.pack(codes + _shift(self.bits)),)
        if self._layout.group_size is not None:
            bytes_ = codes + _shift(self.bits)
            return self._layout.pack(bytes_ >> 4), self._layout.pack(bytes_ & 15)
        # [in, outputs] -> [in, blocks, block] -> [blocks, in, block] -> [outputs, in]
        blocks = codes.unflatten(1, (-1, self._layout.block)).transpose(0, 1)
        return (blocks.reshape(codes.shape[1], codes.shape[0]),)

    def _numbers(
        self, scale: torch.Tensor, zero_point: torch.Tensor | int
    ) -> tuple[tuple[torch.Tensor, torch.Tensor | None], ...]:
        """Return scale and offset of each plane: W is the sum of (code - 8) * scale + offset over the planes."""
        scale = scale.float()
        if self.bits > 4:
            # byte - z = 16 * (upper - 8) + (lower - 8) + 136 - z, where byte and z are those of the code and its shift
            return (16 * scale, _offset(136 - _shift(self.bits), zero_point, scale)), (scale, None)
        return ((scale, None if self.centered else _offset(8 - _shift(self.bits), zero_point, scale)),)


class PackedInt4Kernel(Kernel):
    """Multiply by torch's 4-bit kernels; without one, pack codes so that they are dequantized faster."""

    def takes(self, weight: Codes | StoredTensors, device: torch.device) -> bool:
        """See `Kernel`."""
        return _layout_of(weight, device) is not None

    def pack(self, codes: Codes) -> Codes | None:
        """See `Kernel`: None for scales that are not finite, or groups of different sizes."""
        layout = _layout_of(codes, codes.device)
        in_order = codes.sorted()
        finite = bool(codes.scale(slice(0, codes.out_features)).isfinite().all())
        return None if layout is None or in_order is None or not finite else PackedInt4(in_order, layout)

    def packed_bytes(self, stored: StoredTensors, device: torch.device) -> int:
        """See `Kernel`: 2 and 3 bits take as much memory as 4, and 5 to 7 as much as 8."""
        layout = _layout_of(stored, device)
        shape, dtype = stored.tensors()[stored.scale_name]
        scales = prod(shape)
        weights = stored.in_features * stored.out_features
        if layout is None or layout.group_size is None:
            return (weights if stored.bits > 4 else weights // 2) + scales * dtype.itemsize
        pairs = stored.in_features // layout.group_size * stored.out_features
        each = 6 if stored.bits > 4 else 2 if stored.centered else 4
        own = scales == stored.in_features // stored.inputs_per_scale * stored.out_features
        exact = {torch.float16: 1, torch.bfloat16: 0}.get(dtype, dtype.itemsize) if own else dtype.itemsize
        return weights * (2 if stored.bits > 4 else 1) // 2 + each * pairs + scales * exact


def _layout_of(weight: Codes | StoredTensors, device: torch.device) -> Layout | None:
    """Return the layout of a weight's planes on a device; None where packing would not help."""
    on_gpu = gpu_products.may_use_triton(device)
    # Float8 is not centered.
    if not 2 <= weight.bits <= 8 or (weight.bits == 8 and weight.expands_fast and not (on_gpu and weight.centered)):
        # Two planes would gain little speed, and take memory for more scales.
        return None
    layout = layout_for(weight.in_features, weight.out_features, weight.inputs_per_scale, device)
    if on_gpu and weight.bits > 4 and layout is not None and weight.out_features % PLAIN_BLOCK == 0:
        # Bytes, for Triton's kernels.
        return Layout(PLAIN_BLOCK, None)
    # Without a kernel, packing 2 and 3 bits as 4, or 5 to 7 as 8, would cost memory for no speed.
    needs_kernel = weight.bits not in (4, 8) or (weight.expands_fast and not on_gpu)
    return None if layout is not None and layout.group_size is None and needs_kernel else layout


def _common(zero_point: torch.Tensor | int) -> int | None:
    """Return the zero point that all groups share; None where they differ."""
    if isinstance(zero_point, int):
        return zero_point
    first = int(zero_point[0, 0])
    return first if bool((zero_point == first).all()) else None


def _offset(middle: int, zero_point: torch.Tensor | int, scale: torch.Tensor) -> torch.Tensor:
    """Return (middle - zero_point) * scale, of the shape of the scales."""
    zero = zero_point if isinstance(zero_point, int) else zero_point.float()
    return (middle - zero) * scale


def _shift(bits: int) -> int:
    """Return what is added to codes, so that a zero point in their middle becomes 8, or 128 for more than 4 bits.

    The kernels round offsets to bfloat16, so that these must be small.
    """
    return (8 if bits <= 4 else 128) - (1 << bits - 1)


def _bits_of(scale: torch.Tensor) -> torch.Tensor:
    """Return float16 numbers as their bits, int16: consecutive numbers are consecutive integers."""
    return scale.contiguous().view(torch.int16)


KERNEL = PackedInt4Kernel()
