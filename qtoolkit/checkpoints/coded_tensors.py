"""Take codes and scales of a model together, as weights that are expanded when they are read."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from qtoolkit.checkpoints.expanded_tensors import ExpandedFloat4, ExpandedFloat8, ExpandedMXFP4, ExpandedTensor
from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.checkpoints.source_codes import FP8, MXFP4, NVFP4, SourceCodes
from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.tensor.float8 import CODES, scale_shape
from qtoolkit.tensor.mxfp4 import GROUP_SIZE, NVFP4_GROUP_SIZE

# The ends of the names of scales, after the name of their weight.
_SCALES = {FP8: ("_scale_inv", "_scale"), MXFP4: ("_scales", "_scale"), NVFP4: ("_scale",)}
# That of the name of the scale of a whole weight of NVFP4.
_GLOBAL_SCALE = "_global_scale"
# The end of the name of a weight whose numbers of 4 bits are packed, row by row, as compressed-tensors has it.
_PACKED = ".weight_packed"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# uint8 is an exponent, as E8M0.
_SCALE_TYPES = (*_FLOATS, torch.float8_e8m0fnu, torch.uint8)
# Types of weights that need scales.
_CODES = (torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)
# What such files hold for the inputs of layers, and for keys and values: what is expanded needs none of it.
_OF_ACTIVATIONS = (
    *("input_scale", "activation_scale", "input_scale_ub", "input_global_scale"),
    *("output_scale", "q_scale", "k_scale", "v_scale"),
)


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
        weight = _weight_of(name, stored, codes.kind, tensors)
        if weight is None:
            continue
        if weight != name and weight in tensors:
            raise CheckpointError(f"{model} has {weight!r:.120} as a weight and as {codes}: {sound_copy(stored.file)}")
        named = _names_of_scales(weight, codes.kind)
        scales = next((one for one in named if one in tensors), None)
        if scales is None:
            what = f"{model} has {name!r:.120} as {codes.kind}, and no scales of it ({' or '.join(named):.240})"
            raise CheckpointError(f"{what}: {sound_copy(stored.file)}")
        used.update((name, scales))
        if name.endswith(_PACKED):
            expanded[weight] = _float4(model, weight, tensors, scales, codes, dtype)
            used.add(weight + _GLOBAL_SCALE)
            continue
        make = _mxfp4 if codes.kind != FP8 else _float8 if stored.dtype == CODES else _float4_beside_float8
        expanded[weight] = make(model, weight, stored, tensors[scales], codes, dtype)
    if not expanded:
        _refuse_codes(model, tensors, codes)
        raise CheckpointError(
            f"{model} is stored as {codes} by its config, and holds no such weight: get its own config"
        )
    others = {name: tensor for name, tensor in tensors.items() if name not in used}
    _refuse_codes(model, others, codes)
    kept = {name: tensor for name, tensor in others.items() if name.rpartition(".")[2] not in _OF_ACTIVATIONS}
    return expanded | kept


def _names_of_scales(weight: str, kind: str) -> list[str]:
    """Return the names that the scales of a weight may have, of which files have one."""
    # DeepSeek-V4 calls them "w1.scale" beside "w1.weight" (transformers 5.24, quantizer_finegrained_fp8.py:185).
    beside = [f"{weight.removesuffix('.weight')}.scale"] if kind == FP8 and weight.endswith(".weight") else []
    return [*(weight + end for end in _SCALES[kind]), *beside]


def _weight_of(name: str, stored: StoredTensor, kind: str, tensors: Mapping[str, StoredTensor]) -> str | None:
    """Return the name of the weight whose codes a tensor holds; None for a tensor without codes."""
    if kind == FP8:
        scales = (tensors[one] for one in _names_of_scales(name, kind) if one in tensors)
        return name if stored.dtype == CODES or any(_are_of_float4(stored, one) for one in scales) else None
    end = next((end for end in ("_blocks", "_packed") if name.endswith(end)), "")
    return name.removesuffix(end) if end and stored.dtype == torch.uint8 else None


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


def _float4(
    model: str,
    name: str,
    tensors: Mapping[str, StoredTensor],
    scales_name: str,
    codes: SourceCodes,
    dtype: torch.dtype,
) -> ExpandedTensor:
    """Return the expanded form of a packed weight; raises CheckpointError for scales that do not fit it."""
    packed, scales = tensors[f"{name}_packed"], tensors[scales_name]
    global_scale = tensors.get(name + _GLOBAL_SCALE)
    is_nv = codes.kind == NVFP4
    group_size, scale_dtype = (NVFP4_GROUP_SIZE, CODES) if is_nv else (GROUP_SIZE, torch.uint8)
    fits = len(packed.shape) == 2 and scales.dtype == scale_dtype and 2 * packed.shape[1] % group_size == 0
    if not fits or scales.shape != (packed.shape[0], 2 * packed.shape[1] // group_size):
        raise CheckpointError(
            f"{model} has {name!r:.120} packed in shape {list(packed.shape)} with {_words(scales)}, and {codes} has "
            f"{str(scale_dtype).removeprefix('torch.')} ones, for each {group_size} inputs: {sound_copy(packed.file)}"
        )
    is_one = global_scale is not None and global_scale.dtype in _FLOATS and math.prod(global_scale.shape) == 1
    if is_nv and not is_one:
        raise CheckpointError(
            f"{model} has {name!r:.120} as {codes}, and not its one {name + _GLOBAL_SCALE!r:.120}, a float: "
            f"{sound_copy(packed.file)}"
        )
    shape = (packed.shape[0], 2 * packed.shape[1])
    return _made(ExpandedFloat4, name, packed, scales, shape, dtype, None, global_scale=global_scale if is_nv else None)


def _words(scales: StoredTensor) -> str:
    """Describe scales for a message."""
    return f"{str(scales.dtype).removeprefix('torch.')} scales of shape {list(scales.shape)}"


def _are_of_float4(stored: StoredTensor, scales: StoredTensor) -> bool:
    """Check whether codes are MXFP4, as DeepSeek-V4 has experts beside layers in FP8.

    int8 [out, in / 2], two numbers in a byte, with a power of two for each 32 inputs (transformers 5.24,
    integrations/finegrained_fp8.py, `expert_dtype`).
    """
    if stored.dtype not in (torch.int8, torch.uint8) or len(stored.shape) != 2:
        return False
    expected = (stored.shape[0], 2 * stored.shape[1] // GROUP_SIZE)
    return scales.dtype in (torch.float8_e8m0fnu, torch.uint8) and scales.shape == expected


def _float4_beside_float8(
    model: str, name: str, stored: StoredTensor, scales: StoredTensor, codes: SourceCodes, dtype: torch.dtype
) -> ExpandedTensor:
    """Return the expanded form of a weight in MXFP4 beside others in FP8; raises as `_float8`."""
    if not _are_of_float4(stored, scales) or 2 * stored.shape[1] % GROUP_SIZE:
        raise CheckpointError(
            f"{model} has {name!r:.120} as {str(stored.dtype).removeprefix('torch.')} of shape {list(stored.shape)} "
            f"with {_words(scales)}, which is neither {codes} nor MXFP4: get the model's own files"
        )
    # Bytes are bytes, whatever they are called.
    packed, exponents = replace(stored, dtype=torch.uint8), replace(scales, dtype=torch.uint8)
    return _made(ExpandedFloat4, name, packed, exponents, (stored.shape[0], 2 * stored.shape[1]), dtype, None)


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
    *,
    global_scale: StoredTensor | None = None,
) -> ExpandedTensor:
    """Return a tensor of this shape and type that is expanded from codes."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return kind(codes.file, shape, dtype, codes.start, size, codes.stamp, name, codes, scales, block, global_scale)
