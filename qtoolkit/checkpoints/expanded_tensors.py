"""Read weights that are stored as FP8 or MXFP4 as floats: each is expanded when it is read, a few rows at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.checkpoints.source_codes import FP8, MXFP4, SourceCodes
from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.tensor.float8 import CODES, float8_dequantize, has_nan, scale_shape
from qtoolkit.tensor.mxfp4 import GROUP_SIZE, NAN_EXPONENT, expand_mxfp4

# Weights that are expanded at one time, if the block that shares a scale is no larger.
AT_ONCE = 2**16
# Bytes that each of them takes meanwhile: its code, steps between, float32 and the result.
_BYTES_AT_ONCE = 16
# Threads in which transformers reads weights: GLOBAL_WORKERS of its `core_model_loading`.
_THREADS = 4
# The ends of the names of scales, after the name of their weight.
_SCALES = {FP8: ("_scale_inv", "_scale"), MXFP4: ("_scales",)}
# uint8 is an exponent, as E8M0.
_SCALE_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e8m0fnu, torch.uint8)
# Types of weights that need scales.
_CODES = (torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)
# What such files hold for the inputs of layers, and for keys and values: what is expanded needs none of it.
_OF_ACTIVATIONS = ("input_scale", "activation_scale", "input_scale_ub", "output_scale", "q_scale", "k_scale", "v_scale")


@dataclass(frozen=True)
class ExpandedTensor(StoredTensor, ABC):
    """A weight that is stored as codes, and is expanded when it is indexed; takes the place of a `StoredTensor`.

    Attributes:
        shape, dtype, nbytes: of the expanded weight; the others are those of its codes.
        name: of the weight, for errors.
        codes: the codes.
        scales: what they are multiplied with.
        block: outputs and inputs that share a scale of FP8; None for one scale, or one for each output.
    """

    name: str
    codes: StoredTensor
    scales: StoredTensor
    block: tuple[int, int] | None

    @property
    def stored_bytes(self) -> int:
        """Return the bytes that it takes in the file, scales included."""
        return self.codes.nbytes + self.scales.nbytes

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
        return self.codes.first_bytes(count) + self.scales.first_bytes(count)

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Expand the whole weight, then index it.

        Raises:
            CheckpointError: as a `StoredTensor`; or a scale or a code is NaN, or a scale is infinite.
        """
        expanded = torch.empty(self.shape, dtype=self.dtype)
        self.fill(expanded)
        return expanded[index]

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

    def fill(self, expanded: torch.Tensor) -> None:
        scales = self._read_scales()
        if len(self.shape) == 2:
            self._fill(expanded, self.codes, scales)
            return
        for expert, weight in enumerate(expanded):
            self._fill(weight, self.codes.part(expert, expert + 1)[0], scales[expert])

    def _read_scales(self) -> torch.Tensor:
        """Return the scales as float32; raises as by index."""
        scales = self.scales[...]
        if scales.dtype == torch.uint8:
            scales = scales.view(torch.float8_e8m0fnu)
        scales = scales.float()
        if not scales.isfinite().all():
            raise self._refuse("has a scale that is NaN or infinite")
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
        exponents = self.scales[...]
        if exponents.numel() and exponents.amax() == NAN_EXPONENT:
            raise self._refuse(f"has the exponent {NAN_EXPONENT}, which stands for NaN")
        rows = self._rows
        for expert, weight in enumerate(expanded):
            blocks = self.codes.part(expert, expert + 1)[0]
            for first in range(0, len(blocks), rows):
                part = slice(first, first + rows)
                weight[:, part] = expand_mxfp4(blocks[part], exponents[expert, part], self.dtype).T


def expand_tensors(
    model: str, tensors: Mapping[str, StoredTensor], codes: SourceCodes, dtype: torch.dtype
) -> dict[str, StoredTensor]:
    """Return the tensors of a model with its codes as weights that are expanded when they are read; nothing is read.

    Scales have no place in the result, and neither have those of activations.

    Args:
        model: what the model is called in errors.
        tensors: as they are stored, by name.
        codes: how its config says that weights are stored.
        dtype: the type of the expanded weights.

    Raises:
        CheckpointError: codes without scales, scales of other shapes, or codes of another kind than the config says.
        UnsupportedModelError: codes that are not expanded.
    """
    expanded: dict[str, StoredTensor] = {}
    used: set[str] = set()
    for name, stored in tensors.items():
        weight = _weight_of(name, stored, codes.kind)
        if weight is None:
            continue
        if weight != name and weight in tensors:
            raise CheckpointError(f"{model} has {weight!r:.120} as a weight and as {codes}: {sound_copy(stored.file)}")
        named = [weight + end for end in _SCALES[codes.kind]]
        scales = next((one for one in named if one in tensors), None)
        if scales is None:
            what = f"{model} has {name!r:.120} as {codes.kind}, and no scales of it ({' or '.join(named):.240})"
            raise CheckpointError(f"{what}: {sound_copy(stored.file)}")
        make = _float8 if codes.kind == FP8 else _mxfp4
        expanded[weight] = make(model, weight, stored, tensors[scales], codes, dtype)
        used.update((name, scales))
    if not expanded:
        raise CheckpointError(
            f"{model} is stored as {codes} by its config, and holds no such weight: get its own config"
        )
    others = {name: tensor for name, tensor in tensors.items() if name not in used}
    _refuse_codes(model, others, codes)
    kept = {name: tensor for name, tensor in others.items() if name.rpartition(".")[2] not in _OF_ACTIVATIONS}
    return expanded | kept


def stored_bytes(tensors: Mapping[str, StoredTensor | torch.Tensor]) -> int:
    """Return the bytes of tensors as they are stored: codes and scales of those that are expanded."""
    return sum(
        tensor.stored_bytes if isinstance(tensor, StoredTensor) else tensor.nbytes for tensor in tensors.values()
    )


def expanding_bytes(tensors: Mapping[str, StoredTensor | torch.Tensor]) -> int:
    """Return the bytes that reading tensors takes at most beside the tensors themselves; 0 where none is expanded."""
    working = (tensor.working_bytes for tensor in tensors.values() if isinstance(tensor, StoredTensor))
    return _THREADS * max(working, default=0)


def _weight_of(name: str, stored: StoredTensor, kind: str) -> str | None:
    """Return the name of the weight whose codes a tensor holds; None for a tensor without codes."""
    if kind == FP8:
        return name if stored.dtype == CODES else None
    return name.removesuffix("_blocks") if name.endswith("_blocks") and stored.dtype == torch.uint8 else None


def _float8(
    model: str, name: str, stored: StoredTensor, scales: StoredTensor, codes: SourceCodes, dtype: torch.dtype
) -> ExpandedTensor:
    """Return the expanded form of an FP8 weight; raises CheckpointError for scales that do not fit it."""
    experts = stored.shape[:-2]
    sizes = (*codes.blocks, None) if len(stored.shape) in (2, 3) and scales.dtype in _SCALE_TYPES else ()
    for block in sizes:
        if scales.shape[: len(experts)] == experts and _fits(stored.shape[-2:], scales.shape[len(experts) :], block):
            return _made(ExpandedFloat8, name, stored, scales, stored.shape, dtype, block)
    raise CheckpointError(
        f"{model} has {name!r:.120} of shape {list(stored.shape)} with {_words(scales)}, which do not fit {codes}: get "
        "its own config.json"
    )


def _fits(shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, int] | None) -> bool:
    """Check whether scales have the shape of those of a weight [out, in]: one for it, each output or each block."""
    expected = scale_shape(shape[0], shape[1], block)
    return scales == expected or (block is None and (scales == expected[:1] or scales in ((), (1,), (1, 1))))


def _mxfp4(
    model: str, name: str, stored: StoredTensor, scales: StoredTensor, codes: SourceCodes, dtype: torch.dtype
) -> ExpandedTensor:
    """Return the expanded form of the weights of all experts; raises CheckpointError for scales that do not fit."""
    is_sound = len(stored.shape) == 4 and stored.shape[-1] == GROUP_SIZE // 2 and scales.dtype == torch.uint8
    if not is_sound or scales.shape != stored.shape[:-1]:
        raise CheckpointError(
            f"{model} has blocks of {name!r:.120} of shape {list(stored.shape)} with {_words(scales)}, and {codes} has "
            f"[experts, out, groups, {GROUP_SIZE // 2}] with a byte for each group: {sound_copy(stored.file)}"
        )
    experts, out_features, groups, _ = stored.shape
    return _made(ExpandedMXFP4, name, stored, scales, (experts, GROUP_SIZE * groups, out_features), dtype, None)


def _words(scales: StoredTensor) -> str:
    """Describe scales for a message."""
    return f"{str(scales.dtype).removeprefix('torch.')} scales of shape {list(scales.shape)}"


def _refuse_codes(model: str, tensors: Mapping[str, StoredTensor], codes: SourceCodes) -> None:
    """Refuse codes that were not expanded with the others; raises UnsupportedModelError."""
    name = next((name for name, one in tensors.items() if one.dtype in _CODES), None)
    if name is not None:
        kind = str(tensors[name].dtype).removeprefix("torch.")
        raise UnsupportedModelError(
            f"{model} holds {name!r:.120} as {kind}, which is not expanded with weights that are stored as {codes}: "
            "name the full-precision model"
        )


def _made(
    kind: type[ExpandedTensor],
    name: str,
    codes: StoredTensor,
    scales: StoredTensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    block: tuple[int, int] | None,
) -> ExpandedTensor:
    """Return a tensor of this shape and type that is expanded from codes."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return kind(codes.file, shape, dtype, codes.start, size, codes.stamp, name, codes, scales, block)
