"""A linear layer that keeps integer codes instead of its weight, and computes from them."""

import copy
import threading
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from qtoolkit.kernels.blockwise import compute_dtype, multiply_blocks, multiply_transposed, output_blocks
from qtoolkit.kernels.codes import Codes, StoredTensors
from qtoolkit.kernels.select import pack
from qtoolkit.tensor.lazy import LazyState, LazyTensor

# Held while a layer's tensors are swapped for others, and while more than one of them is read.
_CHANGING = threading.Lock()


class QuantizedLinear(nn.Module):
    """y = x W^T + bias, where W[out_features, in_features] is kept as the tensors that stand for it in a file.

    Its buffers are those tensors, and `bias` [out_features] or None. A copy of W is never kept: codes become numbers
    block by block while they are multiplied with.

    `prepare` brings codes and scales into the form in which a kernel takes them (`qtoolkit.kernels.select`). Those of
    a file are None from then on, where others take their place, and its state, which is exactly what was loaded, is
    made each time that it is asked for. The 4-bit kernels serve few tokens in 16 bits, and know scales in bfloat16
    alone: outputs are 0.23 % from exact ones (8 bits, by two products: 0.29 %), where rounding them to bfloat16 makes
    0.17 %. Everything else multiplies with the exact weight.

    x may have any floating type and y has the same; gradients flow to x. The layer itself is not trained. `.to(dtype)`,
    `.half()` and the like convert the bias alone: codes are integers, and a scale rounded to bfloat16 would shift all
    its weights by up to 0.4 %. Saving, copying and moving read the tensors and swap them whole, so that other threads
    may go on multiplying.

    Args:
        stored: the tensors that stand for the weight, by their format.
        bias: whether there is one.
        dtype: type of the bias; torch's default type when None.
        device: where the buffers are made, with unset content; "meta" makes a skeleton.

    Raises:
        ValueError: a weight that the format cannot store; the message says why.
    """

    bias: torch.Tensor | None

    def __init__(
        self,
        stored: StoredTensors,
        *,
        bias: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.stored = stored
        self.in_features, self.out_features = stored.in_features, stored.out_features
        for name, (shape, buffer_dtype) in stored.tensors().items():
            self.register_buffer(name, torch.empty(shape, dtype=buffer_dtype, device=device))
        self.register_buffer("bias", torch.empty(self.out_features, dtype=dtype, device=device) if bias else None)
        self._prepared = False
        # A product reads it once, and what it reads never changes.
        self._packed: Codes | None = None

    def prepare(self) -> Self:
        """Bring the weight into the form in which it computes fastest, here and on every device it is moved to.

        To be called when the layer has its values. Not for layers that are kept elsewhere and brought here for each
        use, as accelerate does: the form would be made anew each time.
        """
        if not any(buffer.is_meta for buffer in self.buffers()):
            self._prepared = True
            self._pack()
        return self

    def dequantize(self) -> torch.Tensor:
        """Return the weight that the tensors stand for, exactly: float32 [out_features, in_features]."""
        codes = self._codes()
        columns = torch.cat([codes.expanded(part, torch.float32) for part in output_blocks(codes)], dim=1)
        return (columns if codes.order is None else columns[codes.order.argsort()]).T.contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x[..., in_features] -> [..., out_features] in x.dtype, or in autocast's type where that is on."""
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.forward(x.to(torch.get_autocast_dtype(device)))
        if x.shape[-1] != self.in_features:
            raise RuntimeError(f"inputs must have the size {self.in_features}, got shape {list(x.shape)}")
        codes = self._codes(prepare=True)
        # [..., in] -> [tokens, in]
        inputs = x.reshape(-1, x.shape[-1])
        if x.requires_grad and torch.is_grad_enabled():
            y: torch.Tensor = _Product.apply(inputs, codes)  # type: ignore[no-untyped-call]
        else:
            y = _multiply(inputs, codes)
        bias = self.bias
        y = y if bias is None else y + bias.to(y.dtype)
        # [tokens, out] -> [..., out]
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Shape and format, for `print(model)`."""
        has_bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={has_bias}, {self.stored}"

    def _codes(self, *, prepare: bool = False) -> Codes:
        """Return the weight as it is at this moment; with `prepare`, packed where that is wanted and possible."""
        packed = self._packed
        if packed is None and prepare and self._prepared:
            packed = self._pack()
        if packed is not None:
            return packed
        with _CHANGING:
            return self._decoded() if self._packed is None else self._packed

    def _decoded(self) -> Codes:
        """Return the weight where it is not packed."""
        tensors = {name: self._buffers[name] for name in self.stored.tensors()}
        return self.stored.decode({name: tensor for name, tensor in tensors.items() if tensor is not None})

    def _pack(self) -> Codes | None:
        """Into the faster form, where there is one; gives it."""
        with _CHANGING:
            # Another thread may have been here while this one waited.
            if self._packed is None:
                self._packed = packed = pack(self._decoded())
                own = {} if packed is None else packed.buffers()
                if own:
                    # Another dict, not this one changed: another thread may be going through it.
                    self._buffers = {**self._buffers, **dict.fromkeys(self.stored.packed_names), **own}
                    self._non_persistent_buffers_set = {*self._non_persistent_buffers_set, *own}
            return self._packed

    def _stored_buffers(self) -> dict[str, torch.Tensor | LazyTensor | None]:
        """All buffers as a file has them; what has to be made for it is made when it is read."""
        with _CHANGING:
            packed, buffers = self._packed, dict[str, torch.Tensor | LazyTensor | None](self._buffers)
        own = {} if packed is None else packed.buffers()
        if packed is None or not own:
            return buffers
        for name in own:
            del buffers[name]
        return buffers | self.stored.encode(packed)

    def _take(self, other: Self) -> None:
        """Swap the tensors for those of another such layer."""
        with _CHANGING:
            self._buffers, self._packed = other._buffers, other._packed
            self._non_persistent_buffers_set = other._non_persistent_buffers_set

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Called for every tensor by `.to`, `.half`, `.cuda` and the like. Packed forms differ by device.
        moved = copy.copy(self)
        scale = moved._buffers[self.stored.scale_name]  # noqa: SLF001

        def convert(tensor: torch.Tensor) -> torch.Tensor:
            converted = fn(tensor)
            rounded = tensor is scale and converted.dtype != tensor.dtype
            return tensor.to(converted.device) if rounded else converted

        super(QuantizedLinear, moved)._apply(convert, recurse)  # type: ignore[no-untyped-call]
        if self._packed is not None:
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
        super(QuantizedLinear, loaded)._load_from_state_dict(*args)
        self._take(loaded)

    def __getstate__(self) -> dict[str, Any]:
        # For copies and pickles: another machine may have other kernels.
        buffers = self._stored_buffers()
        made = {name: tensor[...] if isinstance(tensor, LazyTensor) else tensor for name, tensor in buffers.items()}
        kept = {name for name in self._non_persistent_buffers_set if name in made}
        return {**self.__dict__, "_buffers": made, "_packed": None, "_non_persistent_buffers_set": kept}


class _Product(torch.autograd.Function):
    """x[tokens, in] -> x W^T [tokens, out]; gradients go to x alone, and nothing but the codes is kept for them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codes: Codes) -> torch.Tensor:
        """See the class."""
        ctx.codes = codes
        return _multiply(x, codes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """grad[tokens, out] -> grad W [tokens, in]."""
        codes: Codes = ctx.codes
        total = multiply_transposed(grad, codes, compute_dtype(grad))
        return total if codes.order is None else total[:, codes.order.argsort()], None


def _multiply(x: torch.Tensor, codes: Codes) -> torch.Tensor:
    """x[tokens, in] -> x W^T [tokens, out] in x.dtype."""
    inputs = x if codes.order is None else x.index_select(1, codes.order)
    y = codes.multiply(inputs)
    return multiply_blocks(inputs, codes, compute_dtype(inputs)) if y is None else y
