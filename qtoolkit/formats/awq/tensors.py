"""The tensors of an AWQ checkpoint that store one weight: shapes, types, and conversion to codes and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from qtoolkit.kernels import Codes, output_blocks
from qtoolkit.tensor.int32_packing import pack_words
from qtoolkit.tensor.lazy import LazyTensor

BITS = 4
CODES_IN_WORD = 32 // BITS
# The output, of eight neighbours, whose code each 4 bits of a word hold, from the lowest ones on.
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class AWQTensors:
    """How AutoAWQ's version "gemm" stores a weight W[out_features, in_features]; a `GroupedTensors`.

    | tensor | type | shape |
    |---|---|---|
    | qweight | int32 | [in, out / 8]: codes, packed along the outputs (`pack_outputs`) |
    | qzeros | int32 | [groups, out / 8]: zero points as they are, packed in the same way |
    | scales | float16, rarely another | [groups, out] |

    W[o, i] = (code[i, o] - zero_point[g, o]) * scale[g, o] with g = i // group_size (AutoAWQ 0.2.9,
    modules/linear/gemm.py, `WQLinear_GEMM.from_linear`).

    Attributes:
        out_features, in_features: of the weight.
        group_size: inputs that share a scale, which divides them; -1 for all of them.
        scale_dtype: type of the scales.

    Example: 64 x 128 weights, two groups of 64 with a scale of 2 bytes and a zero point of half a byte for each output:
    4096 + 2 * 64 * 2.5.

        >>> from qtoolkit.kernels import stored_bytes
        >>> stored_bytes(AWQTensors(64, 128, group_size=64))
        4416
    """

    out_features: int
    in_features: int
    group_size: int
    scale_dtype: torch.dtype = torch.float16

    bits: ClassVar[int] = BITS
    centered: ClassVar[bool] = False
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
            ValueError: outputs that fill no words, or groups that do not divide the inputs; the message says which.
        """
        if self.out_features % CODES_IN_WORD:
            raise ValueError(f"outputs must fill words of {CODES_IN_WORD} codes, got {self.out_features}")
        size = self.inputs_per_scale
        if size < 1 or self.in_features % size:
            raise ValueError(f"group_size must be -1 or divide {self.in_features} inputs, got {self.group_size}")
        groups = self.in_features // size
        words = self.out_features // CODES_IN_WORD
        return {
            "qweight": ((self.in_features, words), torch.int32),
            "qzeros": ((groups, words), torch.int32),
            "scales": ((groups, self.out_features), self.scale_dtype),
        }

    def store(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, groups: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """See `GroupedTensors`; the groups must be those of the inputs in order.

        Raises:
            ValueError: a code or a zero point outside 0 to 15.
        """
        if zero_point.numel() and not 0 <= zero_point.amin() <= zero_point.amax() < 2**BITS:
            low, high = int(zero_point.amin()), int(zero_point.amax())
            raise ValueError(f"zero points must be 0 to {2**BITS - 1}, got {low} to {high}")
        tensors = {
            "qweight": pack_outputs(codes),
            "qzeros": pack_outputs(zero_point.to(torch.uint8)),
            "scales": scale.to(self.scale_dtype).contiguous(),
        }
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def are_sound(self, tensors: Mapping[str, Any], *, reordered: bool) -> bool:
        """See `GroupedTensors`."""
        return bool(tensors["scales"][...].isfinite().all())

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> "InterleavedCodes":
        """See `StoredTensors`."""
        return InterleavedCodes(self, tensors)

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """See `StoredTensors`."""

        def qweight() -> torch.Tensor:
            return torch.cat([pack_outputs(codes.codes(part)) for part in output_blocks(codes)], dim=1)

        def scales() -> torch.Tensor:
            return codes.scale(slice(0, self.out_features)).contiguous()

        tensors = self.tensors()
        makers = {"qweight": qweight, "scales": scales}
        return {name: LazyTensor(*tensors[name], make) for name, make in makers.items()}

    def __str__(self) -> str:
        """Return what `print(model)` shows of it."""
        return f"bits={self.bits}, group_size={self.inputs_per_scale}"


class InterleavedCodes(Codes):
    """The codes in the tensors of an `AWQTensors`.

    Args:
        stored: how they are stored.
        tensors: qweight, qzeros and scales.
    """

    bits = BITS

    def __init__(self, stored: AWQTensors, tensors: Mapping[str, torch.Tensor]) -> None:
        self.in_features = stored.in_features
        self.out_features = stored.out_features
        self.inputs_per_scale = stored.inputs_per_scale
        self._words = tensors["qweight"]
        self._scales = tensors["scales"]
        self.device = self._words.device
        self.zero_points = partial(unpack_outputs, tensors["qzeros"])

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return unpack_outputs(self._words, outputs)

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._scales[:, outputs]


def pack_outputs(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes uint8 [n, m] along the outputs m, a multiple of 8: int32 [n, m / 8].

    The lowest 4 bits of a word hold its output 0, the next ones 2, 4, 6, 1, 3, 5 and 7: read as two halves, its even
    and its odd outputs lie side by side.

    Raises:
        ValueError: codes of another type, above 15, or that fill no words.

    Example: the outputs 0 to 7 hold the codes 0 to 7, and the word is 0x75316420.

        >>> hex(pack_outputs(torch.arange(8, dtype=torch.uint8)[None]).item())
        '0x75316420'
    """
    # [n, m] -> [n, m / 8, 8], in the order of the word -> [m, n] -> [m / 8, n]
    ordered = codes.unflatten(1, (-1, CODES_IN_WORD))[..., list(_ORDER)].flatten(1)
    return pack_words(ordered.T.contiguous(), BITS).T.contiguous()


def unpack_outputs(words: torch.Tensor, outputs: slice = slice(None)) -> torch.Tensor:
    """Return the codes of `pack_outputs`: int32 [n, m / 8] -> uint8 [n, m], or some of these outputs.

    Args:
        words: packed codes.
        outputs: any outputs.
    """
    start, stop, _ = outputs.indices(words.shape[1] * CODES_IN_WORD)
    first = start // CODES_IN_WORD
    words = words[:, first : -(-stop // CODES_IN_WORD)]
    codes = torch.empty(*words.shape, CODES_IN_WORD, dtype=torch.uint8, device=words.device)
    for place, output in enumerate(_ORDER):
        # The mask removes the sign bits that an arithmetic shift fills in.
        codes[..., output] = (words >> BITS * place).bitwise_and_(2**BITS - 1)
    # [n, words, 8] -> [n, 8 * words]
    return codes.flatten(1)[:, start - first * CODES_IN_WORD : stop - first * CODES_IN_WORD]
