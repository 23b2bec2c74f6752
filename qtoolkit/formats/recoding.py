"""Store codes that another format holds already: what each format's tensors can do for that, and repeated scales."""

from collections.abc import Callable
from typing import Protocol

import torch

from qtoolkit.kernels import Codes, StoredTensors, output_blocks
from qtoolkit.tensor.int32_packing import pack_words


class RecodedTensors(StoredTensors, Protocol):
    """How a format stores a weight whose codes another format holds already."""

    def recode(self, codes: Codes) -> dict[str, torch.Tensor]:
        """Return the tensors that store these codes, scales and zero points, none of them changed, on the CPU.

        Args:
            codes: of the same weight; one scale of theirs may serve for several groups.
        """


def packed_words(codes: Codes, pack: Callable[[torch.Tensor, int], torch.Tensor] = pack_words) -> torch.Tensor:
    """Return all codes packed along the inputs: int32 [in * bits / 32, out].

    A view of the words in which another format stores the same, or else the codes unpacked and packed, some outputs at
    one time.

    Args:
        codes: of a layer.
        pack: packs uint8 [in, some outputs] of so many bits; `pack_words` takes inputs whose codes fill words alone.
    """
    words = codes.words()
    if words is not None:
        return words
    return torch.cat([pack(codes.codes(part), codes.bits) for part in output_blocks(codes)], dim=1)


def grouped_scale(codes: Codes, groups: int) -> torch.Tensor:
    """Return all scales of codes as those of so many groups, a multiple of their own: a new tensor [groups, out]."""
    return _grouped(codes.scale(slice(0, codes.out_features)), groups, codes.out_features)


def grouped_zero_points(codes: Codes, groups: int) -> torch.Tensor:
    """Return all zero points of codes as those of so many groups, a new tensor uint8 [groups, out]."""
    zeros = codes.zero_points(slice(0, codes.out_features))
    values = zeros if isinstance(zeros, torch.Tensor) else torch.tensor([[zeros]], dtype=torch.uint8)
    return _grouped(values, groups, codes.out_features)


def _grouped(values: torch.Tensor, groups: int, outputs: int) -> torch.Tensor:
    """Return values [own groups or 1, out or 1] repeated for groups that split their own: [groups, out]."""
    return values.expand(-1, outputs).repeat_interleave(groups // len(values), dim=0)
