"""A linear layer that computes from the tensors of a GPTQ checkpoint."""

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch.autograd.function import once_differentiable

from qtoolkit.modules.coded_linear import CodedLinear
from qtoolkit.modules.gptq_format import CHECKPOINT_FORMATS, buffer_shapes
from qtoolkit.modules.gptq_prepared import PreparedWeight, layout_of, prepared_bytes
from qtoolkit.modules.gptq_stored import StoredWeight
from qtoolkit.tensor.lazy import LazyState, LazyTensor
from qtoolkit.tensor.processor import product_dtype

# Tokens up to which a 4-bit kernel is faster than expanding the weight, one for each plane of codes: measured on layers
# of 2048 x 2048 and 576 x 1536.
_FEW_TOKENS = 64

# Weights that are expanded at one time. On CPU the block stays in the cache; on a GPU a few large kernels are best.
_BLOCK_WEIGHTS_CPU = 2**19
_BLOCK_WEIGHTS_GPU = 2**25

# Held while a layer's tensors are swapped for others, and while more than one of them is read.
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
    expands fast: qweight and scales are None from then on, and its state, which is exactly what was loaded, is made
    each time that it is asked for. The kernels serve few tokens in 16 bits, and know scales in bfloat16 alone: outputs
    are 0.23 % from exact ones (8 bits, by two products: 0.29 %), where rounding them to bfloat16 makes 0.17 %.
    Everything else multiplies with the exact weight, expanded block by block.

    x may have any floating type and y has the same; gradients flow to x. The layer itself is not trained. `.to(dtype)`
    and the like convert the bias alone. Saving, copying and moving read the tensors and swap them whole, so that other
    threads may go on multiplying.

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
        # A product reads it once, and what it reads never changes.
        self._fast: PreparedWeight | None = None

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
        weight = self._read()
        columns = torch.cat([block for _, block in weight.blocks(self._columns(), torch.float32)], dim=1)
        return (columns if weight.order is None else columns[weight.order.argsort()]).T.contiguous()

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

    def _read(self, *, prepare: bool = False) -> StoredWeight | PreparedWeight:
        """The weight as it is at this moment; with `prepare`, prepared where that is wanted and possible."""
        fast = self._fast
        if fast is None and prepare and self._prepared:
            fast = self._pack()
        if fast is not None:
            return fast
        with _CHANGING:
            return self._stored() if self._fast is None else self._fast

    def _stored(self) -> StoredWeight:
        """The weight where it is not prepared."""
        qweight, scales = self.qweight, self.scales
        assert qweight is not None
        assert scales is not None
        return StoredWeight(
            qweight,
            self.qzeros,
            scales,
            self.g_idx,
            bits=self.bits,
            group_size=self.group_size,
            checkpoint_format=self.checkpoint_format,
        )

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x[tokens, in] -> x W^T [tokens, out] in x.dtype."""
        weight, tokens = self._read(prepare=True), x.shape[0]
        if isinstance(weight, StoredWeight):
            return _multiply_blocks(x, weight.blocks(self._columns(), product_dtype(x.dtype, x.device.type)))
        if x.shape[1] != self.in_features:
            raise RuntimeError(f"inputs must have the size {self.in_features}, got shape {list(x.shape)}")
        if weight.order is not None:
            x = x.index_select(1, weight.order)
        if 0 < tokens <= _FEW_TOKENS // len(weight.planes) and weight.has_kernel:
            if x.dtype == torch.bfloat16:
                return weight.multiply(x)
            if x.dtype == torch.float16:
                return weight.multiply(x.to(torch.bfloat16)).to(x.dtype)
        return _multiply_blocks(x, weight.blocks(self._columns(), product_dtype(x.dtype, x.device.type)))

    def _multiply_transposed(self, grad: torch.Tensor) -> torch.Tensor:
        """grad[tokens, out] -> grad W [tokens, in] in grad.dtype; blocks are added in float32."""
        weight, dtype = self._read(), product_dtype(grad.dtype, grad.device.type)
        total = grad.new_zeros(len(grad), self.in_features, dtype=torch.promote_types(dtype, torch.float32))
        for columns, block in weight.blocks(self._columns(), dtype):
            total += grad[:, columns].to(dtype) @ block.T
        total = total if weight.order is None else total[:, weight.order.argsort()]
        return total.to(grad.dtype)

    def _columns(self) -> Iterator[slice]:
        """The outputs in blocks to work on, multiples of 64 but for the last."""
        limit = _BLOCK_WEIGHTS_CPU if self.qzeros.device.type == "cpu" else _BLOCK_WEIGHTS_GPU
        step = max(1, limit // self.in_features // 64) * 64
        return (slice(start, min(start + step, self.out_features)) for start in range(0, self.out_features, step))

    def _pack(self) -> PreparedWeight | None:
        """Into the faster form, where there is one; gives it."""
        with _CHANGING:
            # Another thread may have been here while this one waited.
            if self._fast is None:
                self._fast = fast = self._stored().prepared(self._columns())
                if fast is not None:
                    # Another dict, not this one changed: another thread may be going through it.
                    self._buffers = {**self._buffers, "qweight": None, "scales": None, **fast.tensors()}
                    self._non_persistent_buffers_set = {*self._non_persistent_buffers_set, *fast.tensors()}
            return self._fast

    def _stored_buffers(self) -> dict[str, torch.Tensor | LazyTensor | None]:
        """All buffers in the form of the checkpoint; what has to be made for it is made when it is read."""
        with _CHANGING:
            fast, buffers = self._fast, dict[str, torch.Tensor | LazyTensor | None](self._buffers)
        if fast is None:
            return buffers
        for name in fast.tensors():
            del buffers[name]
        return buffers | fast.stored(self._columns)

    def _take(self, other: Self) -> None:
        """Swap the tensors for those of another such layer."""
        with _CHANGING:
            self._buffers, self._fast = other._buffers, other._fast
            self._non_persistent_buffers_set = other._non_persistent_buffers_set

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Layouts differ by device.
        moved = copy.copy(self)
        super(GPTQLinear, moved)._apply(fn, recurse)
        if self._fast is not None:
            moved._pack()  # noqa: SLF001
        self._take(moved)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._stored_buffers().items():
            if isinstance(tensor, LazyTensor):
                destination[prefix + name] = tensor if isinstance(destination, LazyState) else tensor[...]
            elif tensor is not None and name not in self._non_persistent_buffers_set:
                destination[prefix + name] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(self, *args: Any) -> None:
        loaded = copy.copy(self)
        super(GPTQLinear, loaded)._load_from_state_dict(*args)
        self._take(loaded)

    def __getstate__(self) -> dict[str, Any]:
        # For copies and pickles: another machine may have another layout.
        buffers = self._stored_buffers()
        made = {name: tensor[...] if isinstance(tensor, LazyTensor) else tensor for name, tensor in buffers.items()}
        kept = {name for name in self._non_persistent_buffers_set if name in made}
        return {**self.__dict__, "_buffers": made, "_fast": None, "_non_persistent_buffers_set": kept}


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
