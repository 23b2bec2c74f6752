"""The tensors of a GPTQ checkpoint that store one weight: shapes, types, and conversion to codes and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from qtoolkit.formats.recoding import grouped_scale, grouped_zero_points, packed_words
from qtoolkit.kernels import Codes, output_blocks
from qtoolkit.tensor.int32_packing import pack_words, unpack_words
from qtoolkit.tensor.lazy import LazyTensor

CHECKPOINT_FORMATS = ("gptq", "gptq_v2")
# Sizes of a code that the format's readers have.
WIDTHS = (2, 3, 4, 8)


@dataclass(frozen=True)
class GPTQTensors:
    """How a GPTQ checkpoint stores a weight W[out_features, in_features]; implements `GroupedTensors`.

    | tensor | type | shape |
    |---|---|---|
    | qweight | int32 | [in * bits / 32, out]: codes, packed along the inputs (`pack_words`) |
    | qzeros | int32 | [groups, out * bits / 32]: zero points, packed along the outputs |
    | scales | float16, rarely another | [groups, out] |
    | g_idx | int32 | [in]: the group of each input |

    W[o, i] = (code[i, o] - zero_point[g, o]) * scale[g, o] with g = g_idx[i]. Format "gptq" stores zero points minus
    one, "gptq_v2" stores them unchanged.

    Attributes:
        out_features, in_features: of the weight.
        bits: 2, 3, 4 or 8.
        group_size: inputs that share a scale, -1 for all of them; the last group may be smaller.
        checkpoint_format: "gptq" or "gptq_v2".
        scale_dtype: type of the scales.
        centered: whether all zero points are 2**(bits - 1).

    Example: 4 bits for 64 x 128 weights, two groups of 64 with a scale of 2 bytes and a zero point of half a byte for
    each output, and 4 bytes for each input: 4096 + 2 * 64 * 2.5 + 512.

        >>> from qtoolkit.kernels import stored_bytes
        >>> stored_bytes(GPTQTensors(64, 128, bits=4, group_size=64))
        4928
    """

    out_features: int
    in_features: int
    bits: int
    group_size: int
    checkpoint_format: str = "gptq"
    scale_dtype: torch.dtype = torch.float16
    centered: bool = False

    scale_name: ClassVar[str] = "scales"
    packed_names: ClassVar[tuple[str, ...]] = ("qweight", "scales")
    expands_fast: ClassVar[bool] = False

    @property
    def inputs_per_scale(self) -> int:
        """See `StoredTensors`."""
        return self.in_features if self.group_size == -1 else self.group_size

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `StoredTensors`.

        Raises:
            ValueError: unknown bits or format, or sizes that do not fill words; the message says which.
        """
        bits = self.bits
        if self.checkpoint_format not in CHECKPOINT_FORMATS:
            allowed = ", ".join(CHECKPOINT_FORMATS)
            raise ValueError(f"checkpoint_format must be one of {allowed}, got {self.checkpoint_format!r}")
        if bits not in WIDTHS:
            raise ValueError(f"bits must be one of {', '.join(map(str, WIDTHS))}, got {bits}")
        inputs = self.in_features
        outputs = self.out_features
        if inputs * bits % 32 or outputs * bits % 32:
            raise ValueError(f"codes of {bits} bits must fill words of 32, got {inputs} inputs and {outputs} outputs")
        if self.group_size != -1 and self.group_size < 1:
            raise ValueError(f"group_size must be -1 or at least 1, got {self.group_size}")
        groups = -(-inputs // self.inputs_per_scale)
        return {
            "qweight": ((inputs * bits // 32, outputs), torch.int32),
            "qzeros": ((groups, outputs * bits // 32), torch.int32),
            "scales": ((groups, outputs), self.scale_dtype),
            "g_idx": ((inputs,), torch.int32),
        }

    def store(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, groups: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the tensors that store these codes, on the CPU.

        Args:
            codes: uint8 [in, out].
            scale: [groups, out], any floating type; rounded to `scale_dtype`.
            zero_point: whole numbers of any type, [groups, out].
            groups: the group of each input, int64 [in].
        """
        zeros = (zero_point - zero_offset(self.checkpoint_format)).to(torch.uint8)
        tensors = {
            "qweight": pack_words(codes.contiguous(), self.bits),
            # [groups, out] -> [out, groups], packed along out -> [groups, out * bits / 32]
            "qzeros": pack_words(zeros.T.contiguous(), self.bits).T.contiguous(),
            "scales": scale.to(self.scale_dtype).contiguous(),
            "g_idx": groups.to(torch.int32),
        }
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def recode(self, codes: Codes) -> dict[str, torch.Tensor]:
        """See `RecodedTensors`."""
        shapes = self.tensors()
        groups = len(range(0, self.in_features, self.inputs_per_scale))
        zeros = grouped_zero_points(codes, groups) - zero_offset(self.checkpoint_format)
        index = codes.groups if codes.groups is not None else torch.arange(self.in_features) // self.inputs_per_scale
        return {
            "qweight": packed_words(codes).contiguous(),
            # As `store`; a zero point of 0 is refused by `pack_words`, less one.
            "qzeros": pack_words(zeros.T.contiguous(), self.bits).T.contiguous(),
            "scales": grouped_scale(codes, groups).to(shapes["scales"][1]),
            "g_idx": index.to(torch.int32),
        }

    def are_sound(self, tensors: Mapping[str, Any], *, reordered: bool) -> bool:
        """See `GroupedTensors`."""
        groups = tensors["g_idx"][...]
        in_groups = in_order(groups.sort().values if reordered else groups, self.inputs_per_scale)
        return in_groups and bool(tensors["scales"][...].isfinite().all())

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> "CodeWords":
        """See `StoredTensors`."""
        return CodeWords(self, tensors)

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """See `StoredTensors`."""

        def qweight() -> torch.Tensor:
            # Sorted inputs back to the order of the layer.
            order = slice(None) if codes.order is None else codes.order.argsort()
            return torch.cat([pack_words(codes.codes(part)[order], self.bits) for part in output_blocks(codes)], dim=1)

        def scales() -> torch.Tensor:
            return codes.scale(slice(0, self.out_features)).contiguous()

        tensors = self.tensors()
        makers = {"qweight": qweight, "scales": scales}
        return {name: LazyTensor(*tensors[name], make) for name, make in makers.items()}

    def __str__(self) -> str:
        """Return what `print(model)` shows of it."""
        return f"bits={self.bits}, group_size={self.inputs_per_scale}, checkpoint_format={self.checkpoint_format!r}"


class CodeWords(Codes):
    """The codes in the tensors of a `GPTQTensors`.

    Args:
        stored: how they are stored.
        tensors: qweight, qzeros, scales and g_idx.
    """

    def __init__(self, stored: GPTQTensors, tensors: Mapping[str, torch.Tensor]) -> None:
        self.bits = stored.bits
        self.in_features = stored.in_features
        self.out_features = stored.out_features
        self.inputs_per_scale = stored.inputs_per_scale
        self.centered = stored.centered
        self._words = tensors["qweight"]
        self._scales = tensors["scales"]
        self._g_idx = tensors["g_idx"]
        self.device = self._words.device
        self.zero_points = partial(_zero_points, tensors["qzeros"], stored.bits, stored.checkpoint_format)
        # Equal groups in order need no index.
        divides = self.in_features % self.inputs_per_scale == 0
        is_plain = divides and (self._g_idx.is_meta or in_order(self._g_idx, self.inputs_per_scale))
        self.groups = None if is_plain else self._g_idx

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return unpack_words(self._words[:, outputs], self.bits)

    def words(self) -> torch.Tensor:
        """See `Codes`."""
        return self._words

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._scales[:, outputs]

    def sorted(self) -> "Codes | None":
        """See `Codes`."""
        if self.groups is None:
            return self
        order = torch.argsort(self._g_idx, stable=True)
        return _Sorted(self, order) if in_order(self._g_idx[order], self.inputs_per_scale) else None


class _Sorted(Codes):
    """The same weight with its inputs sorted by their groups."""

    def __init__(self, words: CodeWords, order: torch.Tensor) -> None:
        self.describe_as(words)
        self._unsorted = words
        self.order = order.to(torch.int32)

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._unsorted.codes(outputs)[self.order]

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._unsorted.scale(outputs)


def zero_offset(checkpoint_format: str) -> int:
    """Return what is added to a stored zero point: 1 for "gptq", 0 for "gptq_v2"."""
    return 1 if checkpoint_format == "gptq" else 0


def unpack_zero_points(qzeros: torch.Tensor, bits: int, checkpoint_format: str) -> torch.Tensor:
    """Return the zero points uint8 [groups, out] of qzeros int32 [groups, out * bits / 32].

    Format "gptq_v2" stores them unchanged, "gptq" minus one. For the largest stored number of "gptq" the zero point
    does not fit its bits: it is read as auto-gptq's torch layer reads it (0.7.1, qlinear_cuda_old.py:301, 330), as 0,
    but as 8 with 3 bits.
    """
    # [groups, out * bits / 32] -> [out, groups] -> [groups, out]
    stored = unpack_words(qzeros.T, bits).T.contiguous()
    if checkpoint_format == "gptq_v2":
        return stored
    return stored + 1 if bits == 3 else (stored + 1).bitwise_and_(2**bits - 1)


def in_order(g_idx: torch.Tensor, group_size: int) -> bool:
    """Check whether inputs are in the order of their groups, and all groups but the last have this size."""
    return torch.equal(g_idx, torch.arange(len(g_idx), device=g_idx.device, dtype=g_idx.dtype) // group_size)


def _zero_points(qzeros: torch.Tensor, bits: int, checkpoint_format: str, outputs: slice) -> torch.Tensor:
    """Return the zero points of some outputs, uint8 [groups, outputs]."""
    if outputs.start % 32 or outputs.stop % 32:
        return unpack_zero_points(qzeros, bits, checkpoint_format)[:, outputs]
    # 32 codes fill whole words.
    words = qzeros[:, outputs.start * bits // 32 : outputs.stop * bits // 32]
    return unpack_zero_points(words, bits, checkpoint_format)
