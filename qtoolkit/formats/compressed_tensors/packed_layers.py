"""Find the quantized layers of a compressed-tensors checkpoint, and check that they are those that its config names."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError, oneline
from qtoolkit.formats.compressed_tensors.byte_tensors import CODE_TYPES, ByteTensors
from qtoolkit.formats.compressed_tensors.config import read_schemes
from qtoolkit.formats.compressed_tensors.schemes import Scheme, Schemes
from qtoolkit.formats.compressed_tensors.tensors import PackedTensors
from qtoolkit.formats.stored_layer import (
    FLOATS,
    Headers,
    StoredEmbedding,
    StoredLayer,
    again,
    bias_dtype,
    check_shape,
    module_names,
)
from qtoolkit.models.structure import is_linear, is_transposed, linear_shape, token_embedding

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

_PACKED = ".weight_packed"
_SCALE = ".weight_scale"


def quantized_names(tensors: Headers) -> list[str]:
    """Return the names of a file's quantized layers; also of those that lack codes or scales."""
    ends = (_PACKED, _SCALE, ".weight_shape")
    in_bytes = {name for name, one in tensors.items() if name.endswith(".weight") and one.dtype in CODE_TYPES.values()}
    return sorted({name.rpartition(".")[0] for name in tensors if name.endswith(ends) or name in in_bytes})


def find_layers(model: "PreTrainedModel", tensors: Headers, schemes: Schemes) -> dict[str, StoredLayer]:
    """Return the quantized layers of a file by the names of the model's modules.

    Args:
        model: the model on the meta device, its experts as linear layers if the file has them so (`replace_experts`).
        tensors: all tensors of the file.
        schemes: what the config says.

    Raises:
        CheckpointError: a tensor is missing, has a type or shape that does not fit model and config, or the config
            names other layers than the file holds.
        UnsupportedModelError: a layer that is no linear layer of the model, or that shares its weight.
    """
    names = module_names(model, quantized_names(tensors))
    if not names:
        raise CheckpointError(f"the config says compressed-tensors, but no tensor ends in {_SCALE}: {again(tensors)}")
    modules = dict(model.named_modules())
    token = token_embedding(model)
    layers: dict[str, StoredLayer] = {}
    for stored, name in names.items():
        module: Any = modules.get(name)
        embeds = module is not None and name == token
        if module is None or not (embeds or is_linear(module)) or is_transposed(module):
            kind = type(model).__name__
            raise UnsupportedModelError(
                f"{stored} is quantized, and is no linear layer of {kind}, which alone are read here"
            )
        if f"{name}.weight" in model.all_tied_weights_keys:
            raise UnsupportedModelError(f"{stored} is quantized, but the config says that it shares its weight")
        scheme = schemes.of((stored, name), _classes(module))
        if scheme is None:
            raise CheckpointError(f"{stored} is quantized, and the config says that it is not: {again(tensors)}")
        shape = tuple(module.weight.shape) if embeds else linear_shape(module)
        layer = _check_layer(stored, shape, tensors, scheme)
        if embeds:
            layers[name] = StoredEmbedding.of(layer, model, name)
            continue
        if module.bias is not None and layer.bias_dtype is None:
            raise CheckpointError(f"{stored}.bias is missing: {again(tensors)}")
        layers[name] = layer
    shared = {target for target, source in model.all_tied_weights_keys.items() if source.rpartition(".")[0] in layers}
    others = {name: module for name, module in modules.items() if f"{name}.weight" not in shared}
    _check_others(others, layers, tensors, schemes)
    return layers


def problems_of(folder: "Path", values: Mapping[str, Any]) -> list[str]:
    """Return what other readers of a folder would misread: layers that the config calls otherwise than the file."""
    try:
        schemes = read_schemes(values)
        tensors = folders.read_weights(folder)
    except QToolkitError as error:
        return [oneline(error).replace(f"{folder}/", "")]
    problems = []
    for name in quantized_names(tensors):
        scheme = schemes.of((name,), ("Linear",))
        if scheme is None:
            problems.append(f"{name} is quantized in the file, and not in config.json")
            continue
        shape = _own_shape(name, tensors, scheme)
        if shape is None:
            problems.append(f"{name}.{'weight' if scheme.in_bytes else 'weight_shape'} is missing")
            continue
        try:
            _check_layer(name, shape, tensors, scheme)
        except CheckpointError as error:
            problems.append(oneline(error).replace(f"{folder}/", ""))
    return problems


def _own_shape(name: str, tensors: Headers, scheme: Scheme) -> tuple[int, int] | None:
    """Return the shape of a layer's weight, by the tensors of the layer alone; None where they do not say it."""
    if scheme.in_bytes:
        weight = tensors.get(f"{name}.weight")
        shape = () if weight is None else tuple(weight.shape)
    else:
        stored = tensors.get(f"{name}.weight_shape")
        shape = () if stored is None or tuple(stored.shape) != (2,) else tuple(stored[...].tolist())
    return (shape[0], shape[1]) if len(shape) == 2 else None


def _check_others(modules: Mapping[str, Any], layers: Mapping[str, Any], tensors: Headers, schemes: Schemes) -> None:
    """Refuse a config that names layers which the file does not hold quantized: other readers look for their codes."""
    for name, module in modules.items():
        if name in layers or not is_linear(module) or schemes.of((name,), _classes(module)) is None:
            continue
        # The file may name it otherwise than the model, and the config as the file does.
        ends = [key.removesuffix(".weight") for key in tensors if key.endswith(f".{name.rpartition('.')[2]}.weight")]
        alias = next((key for key in ends if name.endswith(key) or key.endswith(name)), name)
        if schemes.of((alias,), _classes(module)) is not None:
            raise CheckpointError(
                f"the config says that {alias} is quantized, and its codes are missing: {again(tensors)}"
            )


def _check_layer(stored: str, shape: tuple[int, int], tensors: Headers, scheme: Scheme) -> StoredLayer:
    """Return one layer of a file, its tensors checked against the shape of the model's layer and the config."""
    out_features, in_features = shape
    if f"{stored}.weight_g_idx" in tensors:
        raise UnsupportedModelError(f"{stored} has a weight_g_idx, which is not read here: load it with vLLM")
    scale = tensors.get(f"{stored}.weight_scale")
    scale_dtype = torch.bfloat16 if scale is None else scale.dtype
    if scheme.in_bytes:
        return _check_bytes(stored, shape, tensors, scheme, scale_dtype)
    weight = PackedTensors(
        out_features,
        in_features,
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scale_dtype=scale_dtype,
    )
    try:
        expected = weight.tensors()
    except ValueError as error:
        raise CheckpointError(f"{stored} does not fit its config ({error}): {again(tensors)}") from error
    for name, (size, dtype) in expected.items():
        check_shape(tensors, f"{stored}.{name}", size, FLOATS if name == weight.scale_name else (dtype,))
    if scheme.symmetric and f"{stored}.weight_zero_point" in tensors:
        raise CheckpointError(f"{stored} has zero points, and the config says that it is symmetric: {again(tensors)}")
    # transformers finds layers while new tensors are on the meta device, which holds no values.
    with torch.device("cpu"):
        named = tensors[f"{stored}.weight_shape"][...].tolist()
    if named != [out_features, in_features]:
        raise CheckpointError(f"{stored}.weight_shape says {named}: it must be {[out_features, in_features]}")
    return StoredLayer(stored, weight, bias_dtype(stored, out_features, tensors))


def _check_bytes(
    stored: str, shape: tuple[int, int], tensors: Headers, scheme: Scheme, scale_dtype: torch.dtype
) -> StoredLayer:
    """Return one layer whose codes take a byte each, checked as in `_check_layer`."""
    weight = ByteTensors(*shape, kind=scheme.kind, block=scheme.block, scale_dtype=scale_dtype)
    for name, (size, dtype) in weight.tensors().items():
        check_shape(tensors, f"{stored}.{name}", size, FLOATS if name == weight.scale_name else (dtype,))
    for name in ("weight_zero_point", "input_scale"):
        if f"{stored}.{name}" in tensors:
            raise CheckpointError(f"{stored} has {name}, and the config does not say so: {again(tensors)}")
    return StoredLayer(stored, weight, bias_dtype(stored, shape[0], tensors))


def _classes(module: Any) -> tuple[str, ...]:
    """Return the names of a module's class and of the classes of that."""
    return tuple(kind.__name__ for kind in type(module).__mro__)
