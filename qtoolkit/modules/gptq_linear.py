"""A linear layer that computes from the tensors of a GPTQ checkpoint."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch.autograd.function import once_differentiable

from qtoolkit.modules.coded_linear import CodedLinear
from qtoolkit.modules.gptq_format import CHECKPOINT_FORMATS, buffer_shapes, expand, in_order, unpack_zero_points
from qtoolkit.modules.gptq_prepared import PreparedWeight, layout_of, prepared_bytes
from qtoolkit.tensor import pack_words, unpack_words
from qtoolkit.tensor.processor import product_dtype

# Tokens up to which a 4-bit kernel is faster than expanding the weight, one for each plane of codes: measured on layers
# of 2048 x 2048 and 576 x 1536.
_FEW_TOKENS = 64

# Weights that are expanded at one time. On CPU the block stays in the cache; on a GPU a few large kernels are best.
_BLOCK_WEIGHTS_CPU = 2**19
_BLOCK_WEIGHTS_GPU = 2**25

# A layer changes its form in one thread at a time.
_CHANGING = threading.Lock()


class GPTQLinear(CodedLinear):
    """y = x W^T + bias with W[out_features, in_features] in the tensors of a GPTQ checkpoint.

    | buffer | type | shape |
    |---|---|---|
    | qweight | int32 | [in * bits / 32, out]: codes, packed along the inputs (`qtoolkit.tensor.pack_words`) |
    | qzeros | int32 | [groups, out * bits / 32]: zero points, packed along the outputs |
    | scales | float16, rarely another | [groups, out] |
    | g_idx | int32 | [in]: the group of each input |
    | bias | any | [out], or None |

    W[o, i] = (code[i, o] - zero_point[g, o]) * scale[g, o] with g = g_idx[i]. Format "gptq" stores zero points less
    one, "gptq_v2" as they are.

    `prepare` brings it into the layout of torch's 4-bit kernels, where these take the shape, or else into one that
    expands fast: qweight and scales are None from then on, until the state is asked for, which is exactly what was
    loaded. The kernels serve few tokens in 16 bits, and know scales in bfloat16 alone: outputs are 0.23 % from exact
    ones (8 bits, by two products: 0.29 %), where rounding them to bfloat16 makes 0.17 %. Everything else multiplies
    with the exact weight, expanded block by block.

    x may have any floating type and y has the same; gradients flow to x. The layer itself is not trained. `.to(dtype)`
    and the like convert the bias alone.

    Args:
        in_features: size of the inputs; whole words of codes.
        out_features: size of the outputs; whole words of zero points.
        bias: whether there is one.
        bits: 2, 3, 4 or 8.
        group_size: inputs that share a scale; -1 for all of them. The last group may be smaller.
        checkpoint_format: "gptq" or "gptq_v2".
        dtype: type of the bias; torch's default type when None.
        scale_dtype: type of the scales.
        device: where the buffers are made, with unset content; "meta" makes a skeleton.

    Raises:
        ValueError: bits or a format that there is not, or sizes that do not fill words.
    """

    scale_name = "scales"
    qweight: torch.Tensor | None
    qzeros: torch.Tensor
    scales: torch.Tensor | None
    g_idx: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        *,
        bits: int,
        group_size: int,
        checkpoint_format: str = "gptq",
        dtype: torch.dtype | None = None,
        scale_dtype: torch.dtype = torch.float16,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if checkpoint_format not in CHECKPOINT_FORMATS:
            allowed = ", ".join(CHECKPOINT_FORMATS)
            raise ValueError(f"checkpoint_format must be one of {allowed}, got {checkpoint_format!r}")
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.checkpoint_format = bits, checkpoint_format
        self.group_size = in_features if group_size == -1 else group_size
        for name, (shape, buffer_dtype) in buffer_shapes(out_features, in_features, bits, group_size).items():
            stored = scale_dtype if name == "scales" else buffer_dtype
            self.register_buffer(name, torch.empty(shape, dtype=stored, device=device))
        self.register_buffer("bias", torch.empty(out_features, dtype=dtype, device=device) if bias else None)
        self._prepared = False
        self._fast: PreparedWeight | None = None
        # Inputs in the order of their groups, where that is another than their own.
        self._order: torch.Tensor | None = None

    @staticmethod
    def stored_bytes(out_features: int, in_features: int, bits: int, group_size: int) -> int:
        """Bytes of the tensors of a checkpoint that stand for such a weight; nothing is allocated.

        Raises:
            ValueError: bits that there are not, or sizes that do not fill words; the message says why.

        Example: 4 bits for 64 x 128 weights, two groups of 64 with a scale of 2 bytes and a zero point of half a byte
        for each output, and 4 bytes for each input: 4096 + 2 * 64 * 2.5 + 512.

            >>> GPTQLinear.stored_bytes(64, 128, 4, 64)
            4928
        """
        buffers = buffer_shapes(out_features, in_features, bits, group_size).values()
        return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in buffers)

    @staticmethod
    def memory_bytes(
        out_features: int, in_features: int, bits: int, group_size: int, *, sym: bool, desc_act: bool, device: str
    ) -> int:
        """Bytes of such a layer in memory once it is prepared, its bias aside; nothing is allocated.

        2 and 3 bits take the room of 4 where a 4-bit kernel serves them.

        Args:
            out_features, in_features, bits, group_size: as for `stored_bytes`.
            sym: whether all zero points are in the middle.
            desc_act: whether the groups are in another order than the inputs.
            device: where the layer lives.

        Raises:
            ValueError: as `stored_bytes`.
        """
        stored = GPTQLinear.stored_bytes(out_features, in_features, bits, group_size)
        size = in_features if group_size == -1 else group_size
        layout = layout_of(bits, in_features, out_features, size, torch.device(device))
        if layout is None:
            return stored
        shapes = buffer_shapes(out_features, in_features, bits, group_size)
        replaced = sum(torch.Size(shapes[name][0]).numel() * shapes[name][1].itemsize for name in ("qweight", "scales"))
        prepared = prepared_bytes(bits, in_features, out_features, size, layout, centered=sym)
        return stored - replaced + prepared + 4 * in_features * desc_act

    def prepare(self) -> Self:
        """Bring the weight into the layout in which it computes fastest, here and on every device it is moved to.

        To be called when the layer has its values. Not for layers that are kept elsewhere and brought here for each
        use, as accelerate does: the layout would be made anew each time.
        """
        if not self.qzeros.is_meta:
            self._prepared = True
            self._pack()
        return self

    def dequantize(self) -> torch.Tensor:
        """The weight that the tensors stand for, exactly: float32 [out_features, in_features]."""
        blocks = [block for _, block in self._blocks(torch.float32)]
        weight = torch.cat(blocks, dim=1)
        return (weight if self._order is None else weight[self._order.argsort()]).T.contiguous()

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """See `CodedLinear`."""
        if x.requires_grad and torch.is_grad_enabled():
            y: torch.Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
            return y
        return self._multiply(x)

    def extra_repr(self) -> str:
        """Shape and format, for `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"bits={self.bits}, group_size={self.group_size}, checkpoint_format={self.checkpoint_format!r}"
        )

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x[tokens, in] -> x W^T [tokens, out] in x.dtype."""
        if self._fast is None and self._prepared:
            self._pack()
        fast, tokens = self._fast, x.shape[0]
        if fast is None:
            return _multiply_blocks(x, self._blocks(product_dtype(x.dtype, x.device.type)))
        if x.shape[1] != self.in_features:
            raise RuntimeError(f"inputs must have the size {self.in_features}, got shape {list(x.shape)}")
        if self._order is not None:
            x = x.index_select(1, self._order)
        if 0 < tokens <= _FEW_TOKENS // len(fast.planes) and fast.has_kernel:
            if x.dtype == torch.bfloat16:
                return fast.multiply(x)
            if x.dtype == torch.float16:
                return fast.multiply(x.to(torch.bfloat16)).to(x.dtype)
        return _multiply_blocks(x, self._blocks(product_dtype(x.dtype, x.device.type)))

    def _multiply_transposed(self, grad: torch.Tensor) -> torch.Tensor:
        """grad[tokens, out] -> grad W [tokens, in] in grad.dtype; blocks are added in float32."""
        dtype = product_dtype(grad.dtype, grad.device.type)
        total = grad.new_zeros(len(grad), self.in_features, dtype=torch.promote_types(dtype, torch.float32))
        for columns, block in self._blocks(dtype):
            total += grad[:, columns].to(dtype) @ block.T
        total = total if self._order is None else total[:, self._order.argsort()]
        return total.to(grad.dtype)

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """W^T by blocks of outputs: which, and their weights in `dtype` [in, outputs], inputs in `_order`."""
        fast = self._fast
        if fast is None:
            yield from self._stored_blocks(dtype)
            return
        zero_points = self._zero_points() if fast.zero_point is None else None
        for columns in self._columns():
            zero_point = fast.zero_point if zero_points is None else zero_points[:, columns]
            assert zero_point is not None
            yield columns, expand(fast.codes(columns), fast.scale(columns), zero_point, None, dtype)

    def _stored_blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """`_blocks` from the tensors of the checkpoint."""
        qweight, scales, groups = self.qweight, self.scales, self.g_idx
        assert qweight is not None
        assert scales is not None
        # Equal groups in their order need no index.
        equal = self.in_features % self.group_size == 0 and (groups.is_meta or in_order(groups, self.group_size))
        zero_points = self._zero_points()
        for columns in self._columns():
            codes = unpack_words(qweight[:, columns], self.bits)
            yield columns, expand(codes, scales[:, columns], zero_points[:, columns], None if equal else groups, dtype)

    def _columns(self) -> Iterator[slice]:
        """The outputs in blocks to work on, multiples of 64 but for the last."""
        limit = _BLOCK_WEIGHTS_CPU if self.qzeros.device.type == "cpu" else _BLOCK_WEIGHTS_GPU
        step = max(1, limit // self.in_features // 64) * 64
        return (slice(start, min(start + step, self.out_features)) for start in range(0, self.out_features, step))

    def _zero_points(self) -> torch.Tensor:
        return unpack_zero_points(self.qzeros, self.bits, self.checkpoint_format)

    def _pack(self) -> None:
        """Into the faster form, where there is one."""
        layout = layout_of(self.bits, self.in_features, self.out_features, self.group_size, self.qzeros.device)
        if layout is None:
            return
        with _CHANGING:
            # Another thread may have been here while this one waited.
            if self.qweight is None or self.scales is None or not self.scales.isfinite().all():
                return
            order = None
            if not in_order(self.g_idx, self.group_size):
                order = torch.argsort(self.g_idx, stable=True)
                if not in_order(self.g_idx[order], self.group_size):
                    return
            words = (self.qweight[:, columns] for columns in self._columns())
            pieces = (unpack_words(part, self.bits) for part in words)
            fast = PreparedWeight(
                pieces if order is None else (piece[order] for piece in pieces),
                self.scales,
                self._zero_points(),
                bits=self.bits,
                layout=layout,
                in_features=self.in_features,
            )
            self._order = None if order is None else order.to(torch.int32)
            for name, tensor in fast.tensors().items():
                self.register_buffer(name, tensor, persistent=False)
            self._fast, self.qweight, self.scales = fast, None, None

    def _unpack(self) -> None:
        """Back into the form of the checkpoint."""
        with _CHANGING:
            fast = self._fast
            if fast is None:
                return
            pieces = (fast.codes(columns) for columns in self._columns())
            place = None if self._order is None else self._order.argsort()
            codes = pieces if place is None else (piece[place] for piece in pieces)
            qweight = torch.cat([pack_words(piece, self.bits) for piece in codes], dim=1)
            for name in fast.tensors():
                delattr(self, name)
            self.qweight, self.scales = qweight, fast.scale(slice(0, self.out_features)).contiguous()
            self._fast = self._order = None

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Layouts differ by device.
        self._unpack()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *args: Any) -> None:
        self._unpack()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._unpack()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        # For copies and pickles: another machine may have another layout.
        self._unpack()
        return self.__dict__.copy()


class _Product(torch.autograd.Function):
    """x[tokens, in] -> x W^T [tokens, out] by a `GPTQLinear`; gradients go to x alone, and nothing is kept for them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: GPTQLinear) -> torch.Tensor:
        """See the class."""
        ctx.layer = layer
        return layer._multiply(x)  # noqa: SLF001

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """grad[tokens, out] -> grad W [tokens, in]."""
        return ctx.layer._multiply_transposed(grad), None  # noqa: SLF001


def _multiply_blocks(x: torch.Tensor, blocks: Iterator[tuple[slice, torch.Tensor]]) -> torch.Tensor:
    dtype = product_dtype(x.dtype, x.device.type)
    inputs = x.to(dtype)
    # [tokens, outputs] of each block -> [tokens, out]
    return torch.cat([inputs @ block for _, block in blocks], dim=1).to(x.dtype)
