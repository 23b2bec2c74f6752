"""A GPTQ weight in the layout in which it computes fastest on its device, and the way back to the checkpoint's."""

from collections.abc import Callable, Iterable, Iterator

import torch

from qtoolkit.modules.gptq_format import expand, unpack_zero_points
from qtoolkit.modules.int4 import Layout, layout_for, multiply, pairs_of
from qtoolkit.tensor import pack_words
from qtoolkit.tensor.lazy import LazyTensor


class PreparedWeight:
    """A GPTQ weight, in groups of equal size in their order: never changed, so that any thread may read it.

    Where torch has a 4-bit kernel for the device, 2, 3 and 4 bits are one plane of 4-bit codes, and 8 bits are two,
    the upper and the lower halves of the codes. Where it has none, the codes are kept so that they expand fast: 4 bits
    as such a plane, 8 bits as bytes.

    The kernels' scales are rounded to bfloat16. The exact ones are kept beside them, those in float16 as the distance
    from the rounded ones, which takes one byte and not two.

    Args:
        codes: uint8 [in, outputs], in pieces of whole blocks of outputs.
        scale: [groups, out], finite.
        zero_point: uint8 [groups, out].
        qzeros: the zero points as the checkpoint stores them.
        order: where the inputs stand in the checkpoint, int32 [in], by their order here; None where it is the same.
        bits: size of a code.
        checkpoint_format: "gptq" or "gptq_v2".
        layout: of `layout_of`.
        in_features: columns of the weight.

    Attributes:
        zero_point: the one zero point of all groups; None when they differ.
        qzeros, order: as given.
        planes: packed codes.
        pairs: scales and offsets of each plane; none where there is no kernel.
        exact: what is kept beside `pairs` for the exact scales: int8 [groups, out], or the scales themselves.
    """

    __slots__ = (
        "_bits",
        "_format",
        "_in_features",
        "_layout",
        "exact",
        "order",
        "pairs",
        "planes",
        "qzeros",
        "zero_point",
    )

    def __init__(
        self,
        codes: Iterable[torch.Tensor],
        scale: torch.Tensor,
        zero_point: torch.Tensor,
        *,
        qzeros: torch.Tensor,
        order: torch.Tensor | None,
        bits: int,
        checkpoint_format: str,
        layout: Layout,
        in_features: int,
    ) -> None:
        self._bits, self._format, self._layout, self._in_features = bits, checkpoint_format, layout, in_features
        self.qzeros, self.order = qzeros, order
        first = int(zero_point[0, 0])
        self.zero_point = first if bool((zero_point == first).all()) else None
        pieces = [self._pack(piece) for piece in codes]
        self.planes = tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
        self.pairs: tuple[torch.Tensor, ...] = ()
        self.exact = scale
        if layout.group_size is None:
            return
        repeats = in_features // len(scale) // layout.group_size
        self.pairs = tuple(pairs_of(*numbers, repeats) for numbers in self._numbers(scale, zero_point))
        if scale.dtype == torch.float16:
            self.exact = (_bits_of(scale) - _bits_of(scale.bfloat16().half())).to(torch.int8)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x[tokens, in] -> x W^T [tokens, out], both bfloat16, by the kernel; there must be one."""
        size = self._layout.group_size
        assert size is not None
        y = multiply(x, self.planes[0], self.pairs[0], size)
        return y if len(self.planes) == 1 else y.add_(multiply(x, self.planes[1], self.pairs[1], size))

    @property
    def has_kernel(self) -> bool:
        """Whether `multiply` is there."""
        return self._layout.group_size is not None

    def blocks(self, columns: Iterable[slice], dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """W^T by blocks of outputs: which, and their weights in `dtype` [in, outputs], inputs in `order`."""
        common = self.zero_point
        zero_points = unpack_zero_points(self.qzeros, self._bits, self._format) if common is None else None
        for part in columns:
            zero_point = common if zero_points is None else zero_points[:, part]
            assert zero_point is not None
            yield part, expand(self.codes(part), self.scale(part), zero_point, None, dtype)

    def stored(self, columns: Callable[[], Iterable[slice]]) -> dict[str, LazyTensor]:
        """The tensors of the checkpoint that this stands in the place of, exactly as they were, by name.

        Args:
            columns: gives blocks of outputs to work on, which are all of them together.
        """
        outputs = self.exact.shape[1]

        def qweight() -> torch.Tensor:
            place = None if self.order is None else self.order.argsort()
            pieces = (self.codes(part) for part in columns())
            codes = pieces if place is None else (piece[place] for piece in pieces)
            return torch.cat([pack_words(piece, self._bits) for piece in codes], dim=1)

        def scales() -> torch.Tensor:
            return self.scale(slice(0, outputs)).contiguous()

        scale_dtype = torch.float16 if self.exact.dtype == torch.int8 else self.exact.dtype
        return {
            "qweight": LazyTensor((self._in_features * self._bits // 32, outputs), torch.int32, qweight),
            "scales": LazyTensor((len(self.exact), outputs), scale_dtype, scales),
        }

    def codes(self, columns: slice) -> torch.Tensor:
        """The codes of some outputs, whole blocks of them, uint8 [in, outputs]."""
        if self._bits == 8 and not self.has_kernel:
            # [outputs, in] bytes, each block as [in, outputs] -> [in, outputs]
            rows = self.planes[0][columns]
            blocks = rows.view(len(rows) // self._layout.block, self._in_features, self._layout.block)
            return blocks.transpose(0, 1).reshape(self._in_features, len(rows))
        codes = self._layout.unpack(self.planes[0], self._in_features, columns)
        if self._bits == 8:
            return codes.bitwise_left_shift_(4).bitwise_or_(
                self._layout.unpack(self.planes[1], self._in_features, columns)
            )
        return codes.sub_(_shift(self._bits)) if _shift(self._bits) else codes

    def scale(self, columns: slice) -> torch.Tensor:
        """The exact scales of some outputs, [groups, outputs] in their own type."""
        exact = self.exact[:, columns]
        if exact.dtype != torch.int8:
            return exact
        # Of 8 bits, the lower plane has the scales as they are.
        near = self.pairs[-1][:, columns, 0].view(torch.bfloat16)
        # One of the parts that a group was cut into is enough.
        near = near[:: len(near) // len(exact)].half()
        return (_bits_of(near) + exact).view(torch.float16)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What it keeps in the place of codes and scales, by name."""
        parts = {"plane": self.planes, "pairs": self.pairs, "exact": (self.exact,)}
        return {f"{name}_{place}": tensor for name, tensors in parts.items() for place, tensor in enumerate(tensors)}

    def _pack(self, codes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._bits < 8:
            return (self._layout.pack(codes + _shift(self._bits)),)
        if self.has_kernel:
            return self._layout.pack(codes >> 4), self._layout.pack(codes & 15)
        # [in, outputs] -> [in, blocks, block] -> [blocks, in, block] -> [outputs, in]
        blocks = codes.unflatten(1, (-1, self._layout.block)).transpose(0, 1)
        return (blocks.reshape(codes.shape[1], codes.shape[0]),)

    def _numbers(
        self, scale: torch.Tensor, zero_point: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, torch.Tensor | None], ...]:
        """Scale and offset of each plane: W = (code - 8) * scale + offset, summed over the planes."""
        scale, zero_point = scale.float(), zero_point.float()
        if self._bits == 8:
            # code - z = 16 * (upper - 8) + (lower - 8) + 136 - z
            return (16 * scale, (136 - zero_point) * scale), (scale, None)
        offset = (8 - _shift(self._bits) - zero_point) * scale
        return ((scale, None if self.zero_point == 8 - _shift(self._bits) else offset),)


def layout_of(bits: int, in_features: int, out_features: int, group_size: int, device: torch.device) -> Layout | None:
    """The layout of a weight's planes; None where it is best left as it is stored."""
    layout = layout_for(in_features, out_features, group_size, device)
    # Without a kernel to win by it, 2 and 3 bits shall not take the room of 4.
    return None if layout is not None and layout.group_size is None and bits < 4 else layout


def prepared_bytes(
    bits: int, in_features: int, out_features: int, group_size: int, layout: Layout, *, centered: bool
) -> int:
    """Bytes of a `PreparedWeight` with float16 scales; with `centered`, all zero points are in the middle."""
    groups, weights = in_features // group_size * out_features, in_features * out_features
    if layout.group_size is None:
        return weights * bits // 8 + 2 * groups
    parts = in_features // layout.group_size * out_features
    pairs = 6 if bits == 8 else 2 if centered else 4
    return weights * (2 if bits == 8 else 1) // 2 + pairs * parts + groups


def _shift(bits: int) -> int:
    """What is added to codes of fewer bits, so that a zero point in the middle is that of 4 bits."""
    return 8 - (1 << bits - 1) if bits < 4 else 0


def _bits_of(scale: torch.Tensor) -> torch.Tensor:
    """float16 as its bits, int16: the next number is the next integer."""
    return scale.contiguous().view(torch.int16)
