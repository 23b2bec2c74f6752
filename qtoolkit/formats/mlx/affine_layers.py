"""Find the quantized layers of an MLX checkpoint, and check that they are stored as its config says."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError, oneline
from qtoolkit.formats.mlx.config import QUANTIZATION, Schemes, check_both, read_schemes
from qtoolkit.formats.mlx.tensors import AffineTensors, are_symmetric
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

    from qtoolkit.formats.grouped import StoredValues

_SCALES = ".scales"
_NOT_SYMMETRIC = (
    "are not those of symmetric codes, such as mlx-lm's own quantization makes: load it with mlx-lm, or quantize the "
    "full-precision model"
)


def quantized_names(tensors: Iterable[str]) -> list[str]:
    """Return the names of a file's quantized layers from the names of its tensors; also of those that lack scales."""
    return sorted({name.rpartition(".")[0] for name in tensors if name.endswith((_SCALES, ".biases"))})


def find_layers(model: "PreTrainedModel", tensors: Headers, schemes: Schemes) -> dict[str, StoredLayer]:
    """Return the quantized layers of a file by the names of the model's modules.

    Args:
        model: the model on the meta device, its experts as linear layers if the file has them so (`replace_experts`).
        tensors: all tensors of the file.
        schemes: what the config says.

    Raises:
        CheckpointError: a tensor is missing, has a type or shape that does not fit model and config, or the config
            names a layer that the file does not hold quantized.
        UnsupportedModelError: a layer that is no linear layer of the model, or that shares its weight.
    """
    names = module_names(model, quantized_names(tensors))
    if not names:
        raise CheckpointError(f"the config says MLX, but no tensor ends in {_SCALES}: {again(tensors)}")
    modules = dict(model.named_modules())
    token = token_embedding(model)
    layers: dict[str, StoredLayer] = {}
    for stored, name in names.items():
        module: Any = modules.get(name)
        embeds = module is not None and name == token
        if module is None or not (embeds or is_linear(module)) or is_transposed(module):
            raise UnsupportedModelError(
                f"{stored}{_SCALES} belongs to no linear layer of {type(model).__name__}, which alone are read here"
            )
        if f"{name}.weight" in model.all_tied_weights_keys:
            raise UnsupportedModelError(f"{stored} is quantized, but the config says that it shares its weight")
        shape = tuple(module.weight.shape) if embeds else linear_shape(module)
        layer = _check_layer(stored, shape, tensors, schemes)
        if embeds:
            layers[name] = StoredEmbedding.of(layer, model, name)
            continue
        if module.bias is not None and layer.bias_dtype is None:
            raise CheckpointError(f"{stored}.bias is missing: {again(tensors)}")
        layers[name] = layer
    shared = {
        target.rpartition(".")[0]
        for target, source in model.all_tied_weights_keys.items()
        if source.rpartition(".")[0] in layers
    }
    _check_named(names.keys() | shared, tensors, schemes)
    return layers


def _check_layer(stored: str, shape: tuple[int, int], tensors: Headers, schemes: Schemes) -> StoredLayer:
    """Return one layer of a file, its tensors checked against the shape of the model's layer and the config."""
    scheme = schemes.of(stored)
    if scheme is None:
        raise CheckpointError(f"{stored} is quantized, and the config says that it is not: {again(tensors)}")
    scales = tensors.get(f"{stored}{_SCALES}")
    weight = AffineTensors(
        *shape,
        bits=scheme.bits,
        group_size=scheme.group_size,
        scale_dtype=torch.bfloat16 if scales is None else scales.dtype,
        symmetric=schemes.is_symmetric(stored),
    )
    try:
        expected = weight.tensors()
    except ValueError as error:
        raise CheckpointError(f"{stored} does not fit its config ({error}): {again(tensors)}") from error
    for name, (size, dtype) in expected.items():
        dtypes = FLOATS if name == weight.scale_name else (dtype,)
        check_shape(tensors, f"{stored}.{name}", size, dtypes)
    return StoredLayer(stored, weight, bias_dtype(stored, shape[0], tensors))


def _check_named(quantized: Iterable[str], tensors: Headers, schemes: Schemes) -> None:
    """Refuse a config that names a layer which is not quantized: MLX looks for its scales."""
    missing = sorted(schemes.named.keys() - set(quantized))
    if missing:
        raise CheckpointError(
            f"the config says that {missing[0]} is quantized, and its codes are missing: {again(tensors)}"
        )


def problems_of(folder: "Path", values: Mapping[str, Any]) -> list[str]:
    """Return what other readers of a folder would misread: layers that the config calls otherwise than the file."""
    try:
        config = folders.read_config(folder)
        check_both(config.get(QUANTIZATION), values)
        schemes = read_schemes(values)
        tensors = folders.read_weights(folder)
    except QToolkitError as error:
        return [oneline(error).replace(f"{folder}/", "")]
    problems = []
    names = quantized_names(tensors)
    for name in names:
        try:
            _check_stored(name, tensors, schemes)
        except QToolkitError as error:
            problems.append(oneline(error).replace(f"{folder}/", ""))
    # A tied output head is named beside the embedding, and has no tensors.
    missing = sorted(
        name for name in schemes.named.keys() - set(names) if any(key.isdecimal() for key in name.split("."))
    )
    return problems + [
        f"config.json says that {name} is quantized, and the file has no scales of it" for name in missing
    ]


def _check_stored(name: str, tensors: Headers, schemes: Schemes) -> None:
    """Check the tensors of one layer without the model: what its weight's shape is, its scales tell.

    Raises:
        CheckpointError: they do not fit each other or the config, or their values are not those of symmetric codes.
    """
    scheme = schemes.of(name)
    scales = tensors.get(f"{name}{_SCALES}")
    shape = (0, 0) if scales is None else tuple(scales.shape)
    group_size = 0 if scheme is None else scheme.group_size
    layer = _check_layer(name, (shape[0], shape[-1] * group_size), tensors, schemes)
    scales, biases = (tensors[f"{name}.{part}"][...] for part in ("scales", "biases"))
    check_biases(name, scales, biases, layer.tensors)


def check_biases(name: str, scales: torch.Tensor, biases: torch.Tensor, stored: Any) -> None:
    """Refuse scales that are not finite, and biases of other codes than symmetric ones where these are stored.

    Args:
        name: of the layer.
        scales, biases: of the layer.
        stored: its `AffineTensors`.

    Raises:
        CheckpointError: NaN or infinity.
        UnsupportedModelError: asymmetric codes.
    """
    if not (scales.isfinite().all() and biases.isfinite().all()):
        raise CheckpointError(f"{name} has scales or biases of NaN or infinity: name another checkpoint of the model")
    if stored.symmetric and not are_symmetric(scales, biases, stored.bits):
        raise UnsupportedModelError(f"{name}.biases {_NOT_SYMMETRIC}")


def largest_change(layers: "Iterable[StoredValues]") -> tuple[str, float, float] | None:
    """Return the layer whose weights the rounding of minima has moved most, by how much, and by what share of a step.

    None where all codes are symmetric. The minimum was -zero_point * scale before, of a whole number that the rounded
    one still tells; a group whose scale is 0 has the minimum 0.
    """
    found: tuple[str, float, float] | None = None
    for name, stored, tensor in layers:
        if not getattr(stored, "has_minima", False):
            continue
        scales, biases = (tensor(part).double() for part in ("scales", "biases"))
        moved = (biases - (biases / scales).nan_to_num().round() * scales).abs()
        place = int(moved.argmax())
        change = moved.flatten()[place].item()
        if found is None or change > found[1]:
            found = name, change, change / (abs(scales.flatten()[place].item()) or 1.0)
    return found
