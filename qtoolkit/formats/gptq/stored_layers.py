"""Read, check and correct GPTQ checkpoints: which layers they hold, and whether the tensors fit model and config.

Formats: auto-gptq 0.7.1 (nn_modules/qlinear/qlinear_cuda_old.py), gptqmodel 7.7 (nn_modules/qlinear/__init__.py),
transformers (utils/quantization_config.py, GPTQConfig). Tensors are described in `qtoolkit.formats.gptq.tensors`.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.filenames import QUANTIZE_CONFIG
from qtoolkit.checkpoints.remedy import file_of, sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError, oneline
from qtoolkit.files import read_json
from qtoolkit.formats.gptq.config import QuantizeConfig, read_quantize_config
from qtoolkit.formats.gptq.tensors import CHECKPOINT_FORMATS, GPTQTensors, zero_offset
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.renaming import names_in_model
from qtoolkit.records import ignore_progress
from qtoolkit.tensor.int32_packing import WORD_BITS, unpack_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.noted import Noted


# The tensors of a file by name; their headers are read, and no values.
Headers = Mapping[str, StoredTensor | torch.Tensor]


@dataclass(frozen=True)
class StoredLayer:
    """One quantized layer of a file.

    Attributes:
        name: its name in the file.
        tensors: how its weight is stored.
        bias_dtype: type of the bias; None without one.
        has_g_idx: whether the file stores the group of each input.
    """

    name: str
    tensors: GPTQTensors
    bias_dtype: torch.dtype | None
    has_g_idx: bool

    def build(self, dtype: torch.dtype) -> QuantizedLinear:
        """Build the layer on the meta device, its bias in `dtype`."""
        layer = QuantizedLinear(self.tensors, bias=self.bias_dtype is not None, dtype=dtype, device="meta")
        if not self.has_g_idx:
            # Then it is neither read from this file nor written to another.
            layer.register_buffer("g_idx", layer.get_buffer("g_idx"), persistent=False)
        return layer


def correct_format(checkpoint: Checkpoint) -> Checkpoint:
    """Correct a config whose `checkpoint_format` is not the one of its tensors, and add a note.

    optimum 2.3 with gptqmodel 7.7 writes "gptq_v2" into config.json, "gptq" into quantize_config.json, and zero points
    of "gptq": read according to config.json, SmolLM2's perplexity is 3e9. With `sym` all zero points are
    2**(bits - 1), which identifies the format of the stored ones.
    """
    values = checkpoint.quantization or {}
    config = read_quantize_config(values)
    first = next((name for name in sorted(checkpoint.tensors) if name.endswith(".qzeros")), None)
    if not config.sym or first is None:
        return checkpoint
    stored = checkpoint.tensors[first]
    scales = checkpoint.tensors.get(f"{first.removesuffix('qzeros')}scales")
    if stored.dtype != torch.int32 or len(stored.shape) != 2:
        return checkpoint
    outputs = scales.shape[-1] if scales is not None and scales.shape else 0
    # `dynamic` may give the layer other bits than the config names.
    bits = 32 * stored.shape[1] // outputs if outputs else config.bits
    formats = {2 ** (bits - 1) - zero_offset(name): name for name in CHECKPOINT_FORMATS}
    words = stored[...].T.contiguous()
    if bits not in WORD_BITS or len(words) % (3 if bits == 3 else 1):
        return checkpoint
    zeros = unpack_words(words, bits).unique().tolist()
    right = formats.get(zeros[0]) if len(zeros) == 1 else None
    if right in (None, config.checkpoint_format):
        return checkpoint
    named = {key: value for key, value in values.items() if key not in ("format", "is_marlin_format")}
    corrected = copy.deepcopy(checkpoint.config)
    corrected.quantization_config = {**named, "checkpoint_format": right}
    return replace(checkpoint, config=corrected).with_notes(
        f"read as {right}: its config says {config.checkpoint_format}, where zero points of {zeros[0]} throughout "
        "would not be the middle of the codes"
    )


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
    return [*problems, *(f"its zero points must be {note}" for note in checkpoint.notes)]


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
        raise CheckpointError(f"the config says GPTQ, but no tensor ends in .qweight: {_again(tensors)}")
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
            raise CheckpointError(f"{stored}.bias is missing: {_again(tensors)}")
        layers[name] = layer
    return layers


def quantized_names(tensors: Iterable[str]) -> list[str]:
    """Return the names of a file's quantized layers from the names of its tensors; also of those that lack codes."""
    ends = (".qweight", ".qzeros")
    return sorted({name.rpartition(".")[0] for name in tensors if name.endswith(ends)})


def module_names(model: "PreTrainedModel", stored: list[str]) -> dict[str, str]:
    """Return the names of a model's modules in transformers, by their names in a file."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    # Without the rules that merge several layers into one: codes cannot be merged.
    renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    renamed = names_in_model(model, [f"{name}.weight" for name in stored], renamings)
    return {name: renamed[f"{name}.weight"].removesuffix(".weight") for name in stored}


def load_gptq(checkpoint: Checkpoint, values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of a GPTQ checkpoint on `device`, ready to run and to save.

    Args:
        checkpoint: the model, whose tensors are those of the file, such as qweight.
        values: the `quantization_config`, which becomes that of the model unchanged.
        device: "cpu" or "cuda:0".

    Raises:
        CheckpointError, UnsupportedModelError: as `read_quantize_config`, `find_layers` and `load_streamed`.
    """
    from qtoolkit.formats.gptq.loader import OWN_QUANT_METHOD, GPTQConfig, register
    from qtoolkit.stream.loading import load_streamed

    register()
    read_quantize_config(values)
    # The skeleton is built while the config still says that its tensors are quantized, and not missing.
    assert checkpoint.skeleton is not None
    config = copy.deepcopy(checkpoint.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    stored_as = GPTQConfig(**{**values, "quant_method": OWN_QUANT_METHOD})
    stored_as.headers = checkpoint.tensors
    return load_streamed(replace(checkpoint, config=config), stored_as, device=device, on_progress=ignore_progress)


def _check_layer(stored: str, shape: tuple[int, int], tensors: Headers, config: QuantizeConfig) -> StoredLayer:
    """Return one layer of a file, its tensors checked against the shape of the model's layer and each other."""
    out_features, in_features = shape
    rows, _ = _shape(tensors, f"{stored}.qweight", (None, out_features), (torch.int32,))
    bits = rows * 32 // in_features
    if bits not in WORD_BITS or rows * 32 != bits * in_features:
        raise CheckpointError(
            f"{stored}.qweight has {rows} rows for {in_features} inputs, which no number of bits makes: "
            f"{_again(tensors)}"
        )
    floats = (torch.float16, torch.bfloat16, torch.float32)
    groups, _ = _shape(tensors, f"{stored}.scales", (None, out_features), floats)
    _shape(tensors, f"{stored}.qzeros", (groups, out_features * bits // 32), (torch.int32,))
    group_size = in_features if config.group_size == -1 else config.group_size
    if -(-in_features // group_size) != groups:
        if not groups or in_features % groups:
            raise CheckpointError(f"{stored}.scales has {groups} groups for {in_features} inputs: {_again(tensors)}")
        group_size = in_features // groups
    for name, expected, dtypes in (("g_idx", in_features, (torch.int32,)), ("bias", out_features, floats)):
        if f"{stored}.{name}" in tensors:
            _shape(tensors, f"{stored}.{name}", (expected,), dtypes)
    bias = tensors.get(f"{stored}.bias")
    weight = GPTQTensors(
        out_features,
        in_features,
        bits=bits,
        group_size=group_size,
        checkpoint_format=config.checkpoint_format,
        scale_dtype=tensors[f"{stored}.scales"].dtype,
        centered=config.sym,
    )
    return StoredLayer(stored, weight, None if bias is None else bias.dtype, f"{stored}.g_idx" in tensors)


def _shape(
    tensors: Headers, name: str, expected: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]
) -> tuple[int, ...]:
    """Return the shape of a tensor; refuse one that is missing, or has another type or shape than expected.

    None in `expected` stands for any size.
    """
    if name not in tensors:
        raise CheckpointError(f"{name} is missing: {_again(tensors)}")
    shape = tuple(tensors[name].shape)
    dtype = tensors[name].dtype
    if dtype not in dtypes:
        allowed = " or ".join(str(kind).removeprefix("torch.") for kind in dtypes)
        raise CheckpointError(f"{name} has the type {str(dtype).removeprefix('torch.')}: it must be {allowed}")
    if len(shape) != len(expected) or any(want not in (None, size) for want, size in zip(expected, shape, strict=True)):
        sizes = ", ".join("any" if size is None else str(size) for size in expected)
        raise CheckpointError(f"{name} has the shape {list(shape)}: it must be [{sizes}]")
    return shape


def _again(tensors: Headers) -> str:
    """Return the end of a message about a file whose tensors do not fit each other: where to get a sound copy."""
    return sound_copy(file_of(tensors))
