"""Weights that are stored as FP8, MXFP4 or NVFP4: each is expanded when it is read, a few rows at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import CheckpointError
from qtoolkit.tensor.float8 import float8_dequantize, has_nan
from qtoolkit.tensor.mxfp4 import NAN_EXPONENT, expand_mxfp4, expand_nvfp4

# Weights that are expanded at one time, if the block that shares a scale is no larger.
AT_ONCE = 2**16
# Bytes that each of them takes meanwhile: its code, steps between, float32 and the result.
_BYTES_AT_ONCE = 16
# Threads in which transformers reads weights: GLOBAL_WORKERS of its `core_model_loading`.
_THREADS = 4


@dataclass(frozen=True)
class ExpandedTensor(StoredTensor, ABC):
    """A weight that is stored as codes, and is expanded when it is indexed; takes the place of a `StoredTensor`.

    Attributes:
        shape, dtype, nbytes: of the expanded weight; the others are those of its codes.
        name: of the weight, for errors.
        codes: the codes.
        scales: what they are multiplied with.
        block: outputs and inputs that share a scale of FP8; None for one scale, or one for each output.
        global_scale: what all scales of NVFP4 are divided by; None of the others.
    """

    name: str
    codes: StoredTensor
    scales: StoredTensor
    block: tuple[int, int] | None
    global_scale: StoredTensor | None = None

    @property
    def stored_bytes(self) -> int:
        """Return the bytes that it takes in the file, scales included."""
        return sum(one.nbytes for one in self._stored)

    @property
    def working_bytes(self) -> int:
        """Return the bytes that expanding it takes at most, beside the expanded weight."""
        one_expert = self.codes.nbytes // self.shape[0] if len(self.shape) > 2 else 0
        return _BYTES_AT_ONCE * self._rows * self._matrix[1] + one_expert + 4 * self.scales.nbytes

    @property
    def _rows(self) -> int:
        """Return how many outputs are expanded at one time: of whole blocks, but for the last ones."""
        outputs, inputs = self._matrix
        height = self.block[0] if self.block else 1
        return max(1, min(outputs, height * max(1, AT_ONCE // max(1, inputs * height))))

    def first_bytes(self, count: int) -> bytes:
        """Read the first `count` bytes of the codes and of the scales, or all where they have fewer."""
        return b"".join(one.first_bytes(count) for one in self._stored)

    @property
    def _stored(self) -> list[StoredTensor]:
        """Return what is stored of it."""
        return [one for one in (self.codes, self.scales, self.global_scale) if one is not None]

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Expand the whole weight, then index it.

        Raises:
            CheckpointError: as a `StoredTensor`; or a scale or a code is NaN, or a scale is infinite.
        """
        expanded = torch.empty(self.shape, dtype=self.dtype)
        self.fill(expanded)
        return expanded[index]

    def part(self, first: int, last: int) -> torch.Tensor:
        """Expand some experts, or some outputs of a layer; raises as by index."""
        if len(self.shape) != 3:
            return self[first:last]
        expanded = torch.empty((last - first, *self.shape[1:]), dtype=self.dtype)
        for expert, weight in enumerate(expanded, start=first):
            self._fill_expert(weight, expert)
        return expanded

    def _fill_expert(self, weight: torch.Tensor, expert: int) -> None:
        """Read and expand the weight of one expert of a tensor of all; raises as by index."""
        raise NotImplementedError(f"{type(self).__name__} holds one layer")

    @abstractmethod
    def check_scales(self) -> None:
        """Read the scales, and no codes; raises CheckpointError where one stands for no number."""

    @property
    @abstractmethod
    def _matrix(self) -> tuple[int, int]:
        """Return the numbers of outputs and inputs of the layer, or of one expert."""

    @abstractmethod
    def fill(self, expanded: torch.Tensor) -> None:
        """Read and expand the weight into a tensor of its shape and type; raises as by index."""

    def _refuse(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.name} of {self.file} {what}: {sound_copy(self.file)}")


class ExpandedFloat8(ExpandedTensor):
    """A weight [out, in], or the weights of all experts [experts, out, in], stored as FP8 of the same shape."""

    @property
    def _matrix(self) -> tuple[int, int]:
        return self.shape[-2], self.shape[-1]

    def check_scales(self) -> None:
        self._as_float32(self.scales[...])

    def fill(self, expanded: torch.Tensor) -> None:
        if len(self.shape) == 2:
            self._fill(expanded, self.codes, self._as_float32(self.scales[...]))
            return
        for expert, weight in enumerate(expanded):
            self._fill_expert(weight, expert)

    def _fill_expert(self, weight: torch.Tensor, expert: int) -> None:
        one = slice(expert, expert + 1)
        scales = self._as_float32(self.scales.part(one.start, one.stop))[0]
        self._fill(weight, self.codes.part(one.start, one.stop)[0], scales)

    def _as_float32(self, scales: torch.Tensor) -> torch.Tensor:
        """Return scales as float32; raises as by index."""
        if scales.dtype == torch.uint8:
            scales = scales.view(torch.float8_e8m0fnu)
        scales = scales.float()
        if not scales.isfinite().all():
            raise self._refuse("has a scale that is NaN or infinite")
        if (scales < 0).any():
            raise self._refuse("has a negative scale")
        return scales

    def _fill(self, weight: torch.Tensor, codes: StoredTensor | torch.Tensor, scales: torch.Tensor) -> None:
        """Expand codes [out, in] into a weight of that shape, in parts of some rows."""
        height = self.block[0] if self.block else 1
        rows = self._rows
        for first in range(0, len(weight), rows):
            last = min(first + rows, len(weight))
            part = codes.part(first, last) if isinstance(codes, StoredTensor) else codes[first:last]
            if has_nan(part):
                raise self._refuse("holds NaN")
            own = scales if scales.numel() == 1 else scales[first // height : -(-last // height)]
            weight[first:last] = float8_dequantize(part, own, block=self.block, dtype=self.dtype)


class ExpandedMXFP4(ExpandedTensor):
    """The weights of all experts [experts, in, out], stored as blocks [experts, out, groups, 16] with exponents.

    gpt-oss: transformers' `integrations/mxfp4.py`.
    """

    @property
    def _matrix(self) -> tuple[int, int]:
        return self.shape[2], self.shape[1]

    def fill(self, expanded: torch.Tensor) -> None:
        for expert, weight in enumerate(expanded):
            self._fill_expert(weight, expert)

    def check_scales(self) -> None:
        for expert in range(self.shape[0]):
            self._exponents(expert)

    def _exponents(self, expert: int) -> torch.Tensor:
        """Return the exponents of an expert, uint8 [out, groups]; raises as by index."""
        exponents = self.scales.part(expert, expert + 1)[0]
        if exponents.numel() and exponents.amax() == NAN_EXPONENT:
            raise self._refuse(f"has the exponent {NAN_EXPONENT}, which stands for NaN")
        return exponents

    def _fill_expert(self, weight: torch.Tensor, expert: int) -> None:
        exponents = self._exponents(expert)
        blocks = self.codes.part(expert, expert + 1)[0]
        rows = self._rows
        for first in range(0, len(blocks), rows):
            part = slice(first, first + rows)
            weight[:, part] = expand_mxfp4(blocks[part], exponents[part], self.dtype).T


class ExpandedFloat4(ExpandedTensor):
    """A weight [out, in], stored as bytes [out, in / 2] with a scale for each group of inputs: MXFP4 or NVFP4.

    compressed-tensors 0.20, compressors/mxfp4 and nvfp4.
    """

    @property
    def _matrix(self) -> tuple[int, int]:
        return self.shape[0], self.shape[1]

    def check_scales(self) -> None:
        self._sound_scales()

    def fill(self, expanded: torch.Tensor) -> None:
        scales, factor = self._sound_scales()
        groups = scales.shape[1]
        for first in range(0, len(expanded), self._rows):
            part = slice(first, min(first + self._rows, len(expanded)))
            # [rows, in / 2] -> [rows, groups, bytes of a group]
            blocks = self.codes.part(part.start, part.stop).view(part.stop - part.start, groups, -1)
            expanded[part] = (
                expand_mxfp4(blocks, scales[part], self.dtype)
                if factor is None
                else expand_nvfp4(blocks, scales[part], factor, self.dtype)
            )

    def _sound_scales(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the scales of groups, and the global one of NVFP4; raises CheckpointError where one is no number."""
        scales = self.scales[...]
        factor = None if self.global_scale is None else self.global_scale[...].float()
        if factor is None:
            is_nan = bool((scales == NAN_EXPONENT).any())
        else:
            is_nan = has_nan(scales)
            if not (factor.isfinite() & (factor > 0)).all():
                raise self._refuse("has a global scale that is not positive and finite")
        if is_nan:
            raise self._refuse("has a scale that is NaN")
        return scales, factor


def check_scales(tensors: Mapping[str, Any]) -> None:
    """Read the scales of all weights that are expanded, before any work; raises CheckpointError where one is NaN."""
    for tensor in tensors.values():
        if isinstance(tensor, ExpandedTensor):
            tensor.check_scales()


def stored_bytes(tensors: Mapping[str, StoredTensor | torch.Tensor]) -> int:
    """Return the bytes of tensors as they are stored: codes and scales of those that are expanded."""
    return sum(
        tensor.stored_bytes if isinstance(tensor, StoredTensor) else tensor.nbytes for tensor in tensors.values()
    )


def expanding_bytes(tensors: Mapping[str, StoredTensor | torch.Tensor]) -> int:
    """Return the bytes that reading tensors takes at most beside the tensors themselves; 0 where none is expanded."""
    working = (tensor.working_bytes for tensor in tensors.values() if isinstance(tensor, StoredTensor))
    return _THREADS * max(working, default=0)
