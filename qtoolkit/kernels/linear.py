"""A linear layer that holds integer codes instead of its weight, and computes from them."""

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
from qtoolkit.tensor.float32_products import own_products
from qtoolkit.tensor.lazy import LazyState, LazyTensor

# Held while a layer's tensors are replaced, and while more than one of them is read.
_CHANGING = threading.Lock()


class QuantizedLinear(nn.Module):
    """Compute y = x W^T + bias, where W[out_features, in_features] is held as the tensors that store it in a file.

    The buffers are those tensors, and `bias` [out_features] or None. W itself is never in memory: codes are dequantized
    block by block while they are multiplied with.

    `prepare` packs codes and scales for a kernel (`qtoolkit.kernels.select`). The buffers that packed ones replace are
    None from then on; the state dict still has them exactly as they were loaded, and computes them at each call. The
    4-bit kernels are used for few tokens in 16 bits, and support bfloat16 scales only: outputs deviate by 0.23 % from
    exact ones (8 bits, by two products: 0.29 %), where rounding outputs to bfloat16 alone makes 0.17 %. Everything else
    multiplies with the exact weight.

    x may have any floating type and y has the same; gradients flow to x, as if it were not rounded where codes round
    their inputs (`Codes.round_inputs`). The layer itself is not trained. `.to(dtype)`,
    `.half()` and the like convert the bias only: codes are integers, and a scale rounded to bfloat16 would shift all
    its weights by up to 0.4 %. Saving, copying and moving read the tensors, or replace all of them at once, so that
    other threads may multiply at the same time.

    Args:
        stored: how the format stores the weight.
        bias: whether there is a bias.
        dtype: type of the bias; torch's default type when None.
        device: where the buffers are created, with unset values; "meta" allocates nothing.

    Raises:
        ValueError: the format cannot store such a weight; the message says why.
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
        self.in_features = stored.in_features
        self.out_features = stored.out_features
        for name, (shape, buffer_dtype) in stored.tensors().items():
            self.register_buffer(name, torch.empty(shape, dtype=buffer_dtype, device=device))
        self.register_buffer("bias", torch.empty(self.out_features, dtype=dtype, device=device) if bias else None)
        self._prepared = False
        # A product reads this attribute once, and the codes themselves never change.
        self._packed: Codes | None = None

    def prepare(self) -> Self:
        """Pack the weight for the fastest kernel, on this device and on every device that it is moved to.

        Call it when the buffers have their values; on meta buffers it does nothing. Not for layers that are offloaded
        and moved to the device for each use, as accelerate does: they would be packed each time.
        """
        if not any(buffer.is_meta for buffer in self.buffers()):
            self._prepared = True
            self._pack()
        return self

    def dequantize(self) -> torch.Tensor:
        """Return the exact weight, float32 [out_features, in_features]."""
        codes = self._codes()
        columns = torch.cat([codes.expanded(part, torch.float32) for part in output_blocks(codes)], dim=1)
        return (columns if codes.order is None else columns[codes.order.argsort()]).T.contiguous()

    def largest_scale(self) -> float:
        """Return the largest absolute scale, before the layer is packed; 0 where there are no values."""
        scale = self._decoded().scale(slice(0, self.out_features))
        return 0.0 if scale.is_meta or not scale.numel() else scale.abs().max().item()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in_features] -> [..., out_features] in x.dtype, or in autocast's type where that is on."""
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.forward(x.to(torch.get_autocast_dtype(device)))
        if x.shape[-1] != self.in_features:
            raise RuntimeError(f"inputs must have the size {self.in_features}, got shape {list(x.shape)}")
        with own_products():
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
        """Return the shape and format, for `print(model)`."""
        has_bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={has_bias}, {self.stored}"

    def _codes(self, *, prepare: bool = False) -> Codes:
        """Return the current codes; with `prepare`, pack them first if `prepare()` was called and a kernel exists."""
        packed = self._packed
        if packed is None and prepare and self._prepared:
            packed = self._pack()
        if packed is not None:
            return packed
        with _CHANGING:
            return self._decoded() if self._packed is None else self._packed

    def _decoded(self) -> Codes:
        """Return the codes of the stored tensors, which are in the buffers as long as nothing is packed."""
        tensors = {name: self._buffers[name] for name in self.stored.tensors()}
        return self.stored.decode({name: tensor for name, tensor in tensors.items() if tensor is not None})

    def _pack(self) -> Codes | None:
        """Pack the codes for a kernel, unless they are packed; return them, or None where no kernel supports them."""
        with _CHANGING:
            # Another thread may have packed them while this one waited.
            if self._packed is None:
                self._packed = packed = pack(self._decoded())
                own = {} if packed is None else packed.buffers()
                if own:
                    # A new dict: another thread may be iterating over the old one.
                    self._buffers = {**self._buffers, **dict.fromkeys(self.stored.packed_names), **own}
                    self._non_persistent_buffers_set = {*self._non_persistent_buffers_set, *own}
            return self._packed

    def _stored_buffers(self) -> dict[str, torch.Tensor | LazyTensor | None]:
        """Return all buffers as a file stores them; those that packed ones replaced are computed when they are read."""
        with _CHANGING:
            packed = self._packed
            buffers: dict[str, torch.Tensor | LazyTensor | None] = {**self._buffers}
        own = {} if packed is None else packed.buffers()
        if packed is None or not own:
            return buffers
        for name in own:
            del buffers[name]
        return buffers | self.stored.encode(packed)

    def _take(self, other: Self) -> None:
        """Replace all tensors by those of another such layer."""
        with _CHANGING:
            self._buffers = other._buffers
            self._packed = other._packed
            self._non_persistent_buffers_set = other._non_persistent_buffers_set

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # torch calls it for `.to`, `.half`, `.cuda` and the like. How codes are packed depends on the device.
        moved = copy.copy(self)
        exact = [moved._buffers[name] for name in self.stored.tensors()]  # noqa: SLF001

        def convert(tensor: torch.Tensor) -> torch.Tensor:
            converted = fn(tensor)
            rounded = converted.dtype != tensor.dtype and any(tensor is one for one in exact)
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
        stored = {name: tensor[...] if isinstance(tensor, LazyTensor) else tensor for name, tensor in buffers.items()}
        not_saved = self._non_persistent_buffers_set & stored.keys()
        return {**self.__dict__, "_buffers": stored, "_packed": None, "_non_persistent_buffers_set": not_saved}


class _Product(torch.autograd.Function):
    """Compute x[tokens, in] -> x W^T [tokens, out]; gradients flow to x only, and only the codes are saved for them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codes: Codes) -> torch.Tensor:
        """Multiply, and save the codes for `backward`."""
        ctx.codes = codes
        return _multiply(x, codes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Compute grad[tokens, out] -> grad W [tokens, in]."""
        codes: Codes = ctx.codes
        total = multiply_transposed(grad, codes, compute_dtype(grad))
        return total if codes.order is None else total[:, codes.order.argsort()], None


def _multiply(x: torch.Tensor, codes: Codes) -> torch.Tensor:
    """Compute x[tokens, in] -> x W^T [tokens, out] in x.dtype."""
    inputs = x if codes.order is None else x.index_select(1, codes.order)
    if codes.round_inputs is not None:
        inputs = codes.round_inputs(inputs)
    y = codes.multiply(inputs)
    return multiply_blocks(inputs, codes, compute_dtype(inputs)) if y is None else y
