"""Read, check and correct GPTQ checkpoints: which layers they hold, and whether the tensors fit model and config.

Formats: auto-gptq 0.7.1 (nn_modules/qlinear/qlinear_cuda_old.py), gptqmodel 7.7 (nn_modules/qlinear/__init__.py),
transformers (utils/quantization_config.py, GPTQConfig). Tensors are described in `qtoolkit.formats.gptq.tensors`.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.filenames import QUANTIZE_CONFIG
from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError, oneline
from qtoolkit.files import read_json
from qtoolkit.formats.gptq.config import QuantizeConfig, read_quantize_config
from qtoolkit.formats.gptq.misread import misordered_layers, misread_layers, stored_config
from qtoolkit.formats.gptq.tensors import CHECKPOINT_FORMATS, WIDTHS, GPTQTensors, zero_offset
from qtoolkit.formats.stored_layer import (
    FLOATS,
    Headers,
    StoredLayer,
    again,
    bias_dtype,
    check_shape,
    module_names,
)
from qtoolkit.formats.stored_loader import load_stored
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.tensor.int32_packing import unpack_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.noted import Noted


def correct_format(checkpoint: Checkpoint) -> Checkpoint:
    """Correct a config whose `checkpoint_format` is not the one of its tensors, and add a note.

    optimum 2.3 with gptqmodel 7.7 writes "gptq_v2" into config.json, "gptq" into quantize_config.json, and zero points
    of "gptq": read according to config.json, SmolLM2's perplexity is 3e9. With `sym` all zero points are
    2**(bits - 1), which identifies the format of the stored ones. Where they are not, `sym` is what is wrong: readers
    that believe it take no notice of zero points.
    """
    values = checkpoint.quantization or {}
    config = read_quantize_config(values)
    right, odd, zeros = "", "", [0]
    for name in sorted(checkpoint.tensors) if config.sym else ():
        read = _stored_zeros(checkpoint.tensors, name, config.bits) if name.endswith(".qzeros") else None
        if read is None:
            continue
        bits, zeros = read
        formats = {2 ** (bits - 1) - zero_offset(one): one for one in CHECKPOINT_FORMATS}
        found = formats.get(zeros[0], "") if len(zeros) == 1 else ""
        if not found or right not in ("", found):
            odd = name
            break
        right = found
    if not odd and right in ("", config.checkpoint_format):
        return checkpoint
    if odd:
        corrected = copy.deepcopy(checkpoint.config)
        corrected.quantization_config = {**values, "sym": False}
        return replace(checkpoint, config=corrected).with_notes(
            f"read as asymmetric: its config says sym true, and {odd} holds {zeros[0]} to {zeros[-1]}, which are not "
            "the middle of the codes throughout"
        )
    named = {key: value for key, value in values.items() if key not in ("format", "is_marlin_format")}
    corrected = copy.deepcopy(checkpoint.config)
    corrected.quantization_config = {**named, "checkpoint_format": right}
    return replace(checkpoint, config=corrected).with_notes(
        f"read as {right}: its config says {config.checkpoint_format}, where zero points of {zeros[0]} throughout "
        "would not be the middle of the codes"
    )


def _stored_zeros(tensors: Headers, name: str, usual: int) -> tuple[int, list[int]] | None:
    """Return bits and the zero points that stand in a tensor, each once; None for one that holds none.

    Args:
        tensors: all tensors of the file.
        name: of the tensor.
        usual: the bits of the config, where no scales tell those of the layer: `dynamic` may give it others.
    """
    stored = tensors[name]
    scales = tensors.get(f"{name.removesuffix('qzeros')}scales")
    if stored.dtype != torch.int32 or len(stored.shape) != 2:
        return None
    outputs = scales.shape[-1] if scales is not None and scales.shape else 0
    bits = 32 * stored.shape[1] // outputs if outputs else usual
    words = stored[...].T.contiguous()
    if bits not in WIDTHS or len(words) % (3 if bits == 3 else 1) or not words.numel():
        return None
    return bits, unpack_words(words, bits).unique().tolist()


def correct_sizes(checkpoint: Checkpoint) -> Checkpoint:
    """Correct bits and group size of a config that none of its layers has, and add notes: also of single layers.

    Readers that take them from the config alone read wrong numbers; the shapes of the tensors leave no doubt.
    """
    values = checkpoint.quantization or {}
    config, dynamic = read_quantize_config(values), values.get("dynamic") or {}
    stored = stored_config(checkpoint.tensors, config, dynamic)
    changes = {key: value for key, value in asdict(stored).items() if value != getattr(config, key)}
    if changes:
        corrected = copy.deepcopy(checkpoint.config)
        corrected.quantization_config = {**values, **changes}
        checkpoint = replace(checkpoint, config=corrected)
    notes = [
        f"read with {key} {value}, which its tensors have: its config says {getattr(config, key)}"
        for key, value in changes.items()
    ]
    others = list(misread_layers(checkpoint.tensors, stored, dynamic))
    if others:
        more = f", and {len(others) - 1} more layers are not as it says" if len(others) > 1 else ""
        notes.append(f"read by its tensors and not by its config: {others[0]}{more}")
    return checkpoint.with_notes(*notes)


def problems_of(folder: Path, values: Mapping[str, Any]) -> list[str]:
    """Return what other readers of a folder would misread, a line each: configs that differ, wrong zero points."""
    problems: list[str] = []
    if (folder / QUANTIZE_CONFIG).is_file():
        other = read_json(folder / QUANTIZE_CONFIG)
        problems += [
            f"{key} is {values.get(key)} in config.json and {other[key]} in {QUANTIZE_CONFIG}"
            for key in (field.name for field in fields(QuantizeConfig))
            if key in other and other[key] != values.get(key)
        ]
    try:
        config = folders.load_config(folder)
        tensors = folders.read_weights(folder)
        checkpoint = correct_format(Checkpoint("", config, tensors, torch.float16, "safetensors"))
    except QToolkitError as error:
        return [*problems, oneline(error).replace(f"{folder}/", "")]
    problems += [f"its zero points must be {note}" for note in checkpoint.notes]
    quantize_config = read_quantize_config(values)
    problems += misread_layers(tensors, quantize_config, values.get("dynamic") or {})
    return [*problems, *misordered_layers(tensors, quantize_config)]


def find_layers(model: "PreTrainedModel", tensors: Headers, config: QuantizeConfig) -> dict[str, StoredLayer]:
    """Return the quantized layers of a file by the names of the model's modules.

    Bits and group sizes are derived from the shapes: `dynamic` of gptqmodel gives single layers others than the config.

    Args:
        model: the model on the meta device, its experts as linear layers if the file has them so (`replace_experts`).
        tensors: all tensors of the file.
        config: the checkpoint's.

    Raises:
        CheckpointError: a layer's tensor is missing, or has a type or shape that does not fit the model or the others.
        UnsupportedModelError: a layer that is no linear layer of the model, or that shares its weight.
    """
    from qtoolkit.models.structure import is_linear, linear_shape

    names = module_names(model, quantized_names(tensors))
    if not names:
        raise CheckpointError(f"the config says GPTQ, but no tensor ends in .qweight: {again(tensors)}")
    modules = dict(model.named_modules())
    layers = {}
    for stored, name in names.items():
        module = modules.get(name)
        if module is None or not is_linear(module):
            raise UnsupportedModelError(
                f"{stored}.qweight belongs to no linear layer of {type(model).__name__}: load it with gptqmodel"
            )
        if f"{name}.weight" in model.all_tied_weights_keys:
            raise UnsupportedModelError(f"{stored} is quantized, but the config says that it shares its weight")
        layer = _check_layer(stored, linear_shape(module), tensors, config)
        if module.bias is not None and layer.bias_dtype is None:
            raise CheckpointError(f"{stored}.bias is missing: {again(tensors)}")
        layers[name] = layer
    return layers


def quantized_names(tensors: Iterable[str]) -> list[str]:
    """Return the names of a file's quantized layers from the names of its tensors; also of those that lack codes."""
    ends = (".qweight", ".qzeros")
    return sorted({name.rpartition(".")[0] for name in tensors if name.endswith(ends)})


def load_gptq(checkpoint: Checkpoint, values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of a GPTQ checkpoint on `device`, ready to run and to save.

    Args:
        checkpoint: the model, whose tensors are those of the file, such as qweight.
        values: the `quantization_config`, which becomes that of the model unchanged.
        device: "cpu" or "cuda:0".

    Raises:
        CheckpointError, UnsupportedModelError: as `read_quantize_config`, `find_layers` and `load_streamed`.
    """
    from qtoolkit.formats.gptq.loader import GPTQConfig, register

    register()
    read_quantize_config(values)
    return load_stored(checkpoint, GPTQConfig, values, device=device)


def _check_layer(stored: str, shape: tuple[int, int], tensors: Headers, config: QuantizeConfig) -> StoredLayer:
    """Return one layer of a file, its tensors checked against the shape of the model's layer and each other."""
    out_features, in_features = shape
    rows, _ = check_shape(tensors, f"{stored}.qweight", (None, out_features), (torch.int32,))
    bits = rows * 32 // in_features
    if bits not in WIDTHS or rows * 32 != bits * in_features:
        raise CheckpointError(
            f"{stored}.qweight has {rows} rows for {in_features} inputs, which no number of bits makes: "
            f"{again(tensors)}"
        )
    groups, _ = check_shape(tensors, f"{stored}.scales", (None, out_features), FLOATS)
    check_shape(tensors, f"{stored}.qzeros", (groups, out_features * bits // 32), (torch.int32,))
    group_size = in_features if config.group_size == -1 else config.group_size
    if -(-in_features // group_size) != groups:
        if not groups or in_features % groups:
            raise CheckpointError(f"{stored}.scales has {groups} groups for {in_features} inputs: {again(tensors)}")
        group_size = in_features // groups
    absent = () if f"{stored}.g_idx" in tensors else ("g_idx",)
    if not absent:
        check_shape(tensors, f"{stored}.g_idx", (in_features,), (torch.int32,))
    weight = GPTQTensors(
        out_features,
        in_features,
        bits=bits,
        group_size=group_size,
        checkpoint_format=config.checkpoint_format,
        scale_dtype=tensors[f"{stored}.scales"].dtype,
        centered=config.sym,
    )
    return StoredLayer(stored, weight, bias_dtype(stored, out_features, tensors), absent)
