"""Find the quantized layers of an AWQ checkpoint, and check that they are stored as its config says."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError, oneline
from qtoolkit.formats.awq.config import AWQConfig, read_awq_config
from qtoolkit.formats.awq.tensors import CODES_IN_WORD, AWQTensors
from qtoolkit.formats.stored_layer import FLOATS, Headers, StoredLayer, again, bias_dtype, check_shape, module_names
from qtoolkit.models.structure import is_linear, is_transposed, linear_shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SCALES = ".scales"
_LOAD = "load it with gptqmodel, or name the full-precision model"


def quantized_names(tensors: Iterable[str]) -> list[str]:
    """Return the names of a file's quantized layers from the names of its tensors; also of those that lack codes."""
    return sorted({name.rpartition(".")[0] for name in tensors if name.endswith((".qweight", ".qzeros"))})


def find_layers(model: "PreTrainedModel", tensors: Headers, config: AWQConfig) -> dict[str, StoredLayer]:
    """Return the quantized layers of a file by the names of the model's modules.

    Args:
        model: the model on the meta device, its experts as linear layers if the file has them so (`replace_experts`).
        tensors: all tensors of the file.
        config: the checkpoint's.

    Raises:
        CheckpointError: a layer's tensor is missing, or has a type or shape that does not fit model and config.
        UnsupportedModelError: a layer that is no linear layer of the model, or that shares its weight; or activations
            that are divided by scales of their own, as AWQ does where no layer before takes them over.
    """
    names = module_names(model, quantized_names(tensors))
    if not names:
        raise CheckpointError(f"the config says AWQ, but no tensor ends in .qweight: {again(tensors)}")
    _refuse_scaled_activations(tensors, names)
    modules = dict(model.named_modules())
    layers = {}
    for stored, name in names.items():
        module: Any = modules.get(name)
        if module is None or not is_linear(module) or is_transposed(module):
            raise UnsupportedModelError(
                f"{stored}.qweight belongs to no linear layer of {type(model).__name__}, which alone are read here: "
                f"{_LOAD}"
            )
        if f"{name}.weight" in model.all_tied_weights_keys:
            raise UnsupportedModelError(f"{stored} is quantized, but the config says that it shares its weight")
        layer = _check_layer(stored, linear_shape(module), tensors, config)
        if module.bias is not None and layer.bias_dtype is None:
            raise CheckpointError(f"{stored}.bias is missing: {again(tensors)}")
        layers[name] = layer
    return layers


def problems_of(folder: Path, values: Mapping[str, Any]) -> list[str]:
    """Return what other readers of a folder would misread: layers that the config calls otherwise than the file."""
    try:
        config = read_awq_config(values)
        tensors = folders.read_weights(folder)
        names = quantized_names(tensors)
        _refuse_scaled_activations(tensors, names)
    except QToolkitError as error:
        return [oneline(error).replace(f"{folder}/", "")]
    problems = []
    for name in names:
        # What a layer's shape is, its codes tell here.
        inputs, words = (*getattr(tensors.get(f"{name}.qweight"), "shape", ()), 0, 0)[:2]
        try:
            _check_layer(name, (words * CODES_IN_WORD, inputs), tensors, config)
        except CheckpointError as error:
            problems.append(oneline(error).replace(f"{folder}/", ""))
        if config.leaves(name):
            problems.append(f"{name} is quantized in the file, and config.json has it in modules_to_not_convert")
    return problems


def note_on_left(tensors: Iterable[str], values: Mapping[str, Any]) -> str:
    """Return a line on layers that a file has quantized and whose config leaves them; empty without such.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_awq_config`.
    """
    config = read_awq_config(values)
    names = [name for name in quantized_names(tensors) if config.leaves(name)]
    if not names:
        return ""
    which = f"{names[0]} and {len(names) - 1} more" if names[1:] else names[0]
    return f"{which}: quantized in the file, though named in modules_to_not_convert; read as the file has it"


def _refuse_scaled_activations(tensors: Iterable[str], quantized: Iterable[str]) -> None:
    """Refuse scales of a module without codes: AutoAWQ's `ScaledActivation` divides the outputs of it by them."""
    known = set(quantized)
    scaled = next(
        (name for name in sorted(tensors) if name.endswith(_SCALES) and name.removesuffix(_SCALES) not in known), None
    )
    if scaled is not None:
        raise UnsupportedModelError(f"{scaled:.120} divides activations, which is not read here: {_LOAD}")


def _check_layer(stored: str, shape: tuple[int, int], tensors: Headers, config: AWQConfig) -> StoredLayer:
    """Return one layer of a file, its tensors checked against the shape of the model's layer and the config."""
    scales = tensors.get(f"{stored}{_SCALES}")
    scale_dtype = torch.float16 if scales is None else scales.dtype
    weight = AWQTensors(*shape, group_size=config.group_size, scale_dtype=scale_dtype)
    try:
        expected = weight.tensors()
    except ValueError as error:
        raise CheckpointError(f"{stored} does not fit its config ({error}): {again(tensors)}") from error
    for name, (size, dtype) in expected.items():
        check_shape(tensors, f"{stored}.{name}", size, FLOATS if name == weight.scale_name else (dtype,))
    return StoredLayer(stored, weight, bias_dtype(stored, shape[0], tensors))
