"""GPTQ checkpoints as they are found: what they say of themselves, and which layers they hold, checked before use.

Formats: auto-gptq 0.7.1 (nn_modules/qlinear/qlinear_cuda_old.py), gptqmodel 7.7 (nn_modules/qlinear/__init__.py),
transformers (utils/quantization_config.py, GPTQConfig). Tensors are described in `qtoolkit.formats.gptq.GPTQTensors`.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.filenames import QUANTIZE_CONFIG
from qtoolkit.checkpoints.remedy import file_of, sound_copy
from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError, oneline
from qtoolkit.files import read_json
from qtoolkit.formats.gptq.config import Settings, read_settings
from qtoolkit.formats.gptq.tensors import CHECKPOINT_FORMATS, GPTQTensors, zero_offset
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.models import Checkpoint
from qtoolkit.models.renaming import names_in_model
from qtoolkit.records import ignore_progress
from qtoolkit.tensor import WORD_BITS, unpack_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.noted import Noted


class Header(Protocol):
    """What a file says of a tensor; a tensor will do."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""


@dataclass(frozen=True)
class StoredLayer:
    """One quantized layer of a file.

    Attributes:
        name: its name in the file.
        out_features, in_features: of its weight W[out_features, in_features].
        bits: size of a code.
        group_size: inputs that share a scale.
        scale_dtype: type of the scales.
        bias_dtype: type of the bias; None without one.
        has_g_idx: whether the file says of each input which group it belongs to.
    """

    name: str
    out_features: int
    in_features: int
    bits: int
    group_size: int
    scale_dtype: torch.dtype
    bias_dtype: torch.dtype | None
    has_g_idx: bool

    def tensors(self, settings: Settings) -> GPTQTensors:
        """How its weight is stored."""
        return GPTQTensors(
            self.out_features,
            self.in_features,
            bits=self.bits,
            group_size=self.group_size,
            checkpoint_format=settings.checkpoint_format,
            scale_dtype=self.scale_dtype,
            centered=settings.sym,
        )

    def build(self, settings: Settings, dtype: torch.dtype) -> QuantizedLinear:
        """Return the layer without values, its bias in `dtype`."""
        layer = QuantizedLinear(self.tensors(settings), bias=self.bias_dtype is not None, dtype=dtype, device="meta")
        if not self.has_g_idx:
            # Neither looked for in the file nor written to another.
            layer.register_buffer("g_idx", layer.get_buffer("g_idx"), persistent=False)
        return layer


def correct_format(checkpoint: Checkpoint) -> Checkpoint:
    """Put right a config that names the other `checkpoint_format` than its tensors have, with a note.

    optimum 2.3 with gptqmodel 7.7 writes "gptq_v2" into config.json, "gptq" into quantize_config.json, and zero points
    of "gptq": read as config.json says, SmolLM2's perplexity is 3e9. With `sym` all zero points are the middle of the
    codes, which only one of the two formats makes of what is stored.
    """
    values = checkpoint.quantization or {}
    settings = read_settings(values)
    first = next((name for name in sorted(checkpoint.tensors) if name.endswith(".qzeros")), None)
    if not settings.sym or first is None:
        return checkpoint
    stored, scales = checkpoint.tensors[first], checkpoint.tensors.get(f"{first.removesuffix('qzeros')}scales")
    if stored.dtype != torch.int32 or len(stored.shape) != 2:
        return checkpoint
    outputs = scales.shape[-1] if scales is not None and scales.shape else 0
    # `dynamic` may give the layer other bits than the config names.
    bits = 32 * stored.shape[1] // outputs if outputs else settings.bits
    formats = {2 ** (bits - 1) - zero_offset(name): name for name in CHECKPOINT_FORMATS}
    words = stored[...].T.contiguous()
    if bits not in WORD_BITS or len(words) % (3 if bits == 3 else 1):
        return checkpoint
    found = unpack_words(words, bits).unique().tolist()
    right = formats.get(found[0]) if len(found) == 1 else None
    if right in (None, settings.checkpoint_format):
        return checkpoint
    named = {key: value for key, value in values.items() if key not in ("format", "is_marlin_format")}
    config = copy.deepcopy(checkpoint.config)
    config.quantization_config = {**named, "checkpoint_format": right}
    return replace(checkpoint, config=config).with_notes(
        f"read as {right}: its config says {settings.checkpoint_format}, where zero points of {found[0]} throughout "
        "would not be the middle of the codes"
    )


def problems_of(folder: Path, values: Mapping[str, Any]) -> list[str]:
    """What of a folder readers would take wrongly: of each other's config, or of the zero points; a line each."""
    problems: list[str] = []
    if (folder / QUANTIZE_CONFIG).is_file():
        other = read_json(folder / QUANTIZE_CONFIG)
        problems += [
            f"{key} is {values.get(key)} in config.json and {other[key]} in {QUANTIZE_CONFIG}"
            for key in ("bits", "group_size", "sym", "desc_act", "checkpoint_format")
            if key in other and other[key] != values.get(key)
        ]
    try:
        config, tensors = folders.load_config(folder), folders.read_weights(folder)
        checkpoint = correct_format(Checkpoint("", config, tensors, torch.float16, "safetensors"))
    except QToolkitError as error:
        return [*problems, oneline(error).replace(f"{folder}/", "")]
    return [*problems, *(f"its zero points must be {note}" for note in checkpoint.notes)]


def find_layers(model: "PreTrainedModel", tensors: Mapping[str, Header], settings: Settings) -> dict[str, StoredLayer]:
    """Return the quantized layers of a file by the names of the modules that they belong to.

    Bits and group sizes are those that the shapes tell: `dynamic` of gptqmodel gives single layers others than the
    config names.

    Args:
        model: the model without values, its experts as linear layers if the file has them so (`replace_experts`).
        tensors: the headers of the file, all of them.
        settings: what the config says.

    Raises:
        CheckpointError: a layer's tensor is missing, or has a type or shape that does not fit the model or the others.
        UnsupportedModelError: a layer that the model has no linear layer for, or one that shares its weight.
    """
    from qtoolkit.models.structure import is_linear, linear_shape

    names = module_names(model, quantized_names(tensors))
    if not names:
        raise CheckpointError(f"the config says GPTQ, but no tensor ends in .qweight: {_again(tensors)}")
    modules = dict(model.named_modules())
    found = {}
    for stored, name in names.items():
        module = modules.get(name)
        if module is None or not is_linear(module):
            raise UnsupportedModelError(
                f"{stored}.qweight belongs to no linear layer of {type(model).__name__}: load it with gptqmodel"
            )
        if f"{name}.weight" in model.all_tied_weights_keys:
            raise UnsupportedModelError(f"{stored} is quantized, but the config says that it shares its weight")
        layer = _check_layer(stored, linear_shape(module), tensors, settings)
        if module.bias is not None and layer.bias_dtype is None:
            raise CheckpointError(f"{stored}.bias is missing: {_again(tensors)}")
        found[name] = layer
    return found


def quantized_names(tensors: Iterable[str]) -> list[str]:
    """The names in the file of its quantized layers, by their tensors' names; of those that lack their codes, too."""
    ends = (".qweight", ".qzeros")
    return sorted({name.rpartition(".")[0] for name in tensors if name.endswith(ends)})


def module_names(model: "PreTrainedModel", stored: list[str]) -> dict[str, str]:
    """Return the names that modules of a model have for transformers, by their names in a file."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    # Not those that make one layer of several: codes cannot be merged.
    renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    renamed = names_in_model(model, [f"{name}.weight" for name in stored], renamings)
    return {name: renamed[f"{name}.weight"].removesuffix(".weight") for name in stored}


def load_quantized(checkpoint: Checkpoint, values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of a GPTQ checkpoint on `device`, ready to run and to save.

    Args:
        checkpoint: the model; its tensors are those of the file, qweight and the like included.
        values: the `quantization_config`; the model's config carries it on as it is.
        device: "cpu" or "cuda:0".

    Raises:
        CheckpointError, UnsupportedModelError: as `read_settings`, `find_layers` and `load_streamed`.
    """
    from qtoolkit.formats.gptq.loader import OWN_QUANT_METHOD, GPTQConfig, register
    from qtoolkit.stream import load_streamed

    register()
    read_settings(values)
    # Built while the config still tells that its tensors are quantized, and not missing.
    assert checkpoint.skeleton is not None
    config = copy.deepcopy(checkpoint.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    settings = GPTQConfig(**{**values, "quant_method": OWN_QUANT_METHOD})
    settings.headers = checkpoint.tensors
    return load_streamed(replace(checkpoint, config=config), settings, device=device, on_progress=ignore_progress)


def _check_layer(stored: str, shape: tuple[int, int], tensors: Mapping[str, Header], settings: Settings) -> StoredLayer:
    """One layer of a file, its tensors checked against the layer of the model and against each other."""
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
    group_size = in_features if settings.group_size == -1 else settings.group_size
    if -(-in_features // group_size) != groups:
        if not groups or in_features % groups:
            raise CheckpointError(f"{stored}.scales has {groups} groups for {in_features} inputs: {_again(tensors)}")
        group_size = in_features // groups
    for name, expected, dtypes in (("g_idx", in_features, (torch.int32,)), ("bias", out_features, floats)):
        if f"{stored}.{name}" in tensors:
            _shape(tensors, f"{stored}.{name}", (expected,), dtypes)
    bias = tensors.get(f"{stored}.bias")
    return StoredLayer(
        name=stored,
        out_features=out_features,
        in_features=in_features,
        bits=bits,
        group_size=group_size,
        scale_dtype=tensors[f"{stored}.scales"].dtype,
        bias_dtype=None if bias is None else bias.dtype,
        has_g_idx=f"{stored}.g_idx" in tensors,
    )


def _shape(
    tensors: Mapping[str, Header], name: str, expected: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]
) -> tuple[int, ...]:
    """Return the shape of a tensor, once it was found to be there, of one of the types, and as large as expected."""
    if name not in tensors:
        raise CheckpointError(f"{name} is missing: {_again(tensors)}")
    shape, dtype = tuple(tensors[name].shape), tensors[name].dtype
    if dtype not in dtypes:
        allowed = " or ".join(str(kind).removeprefix("torch.") for kind in dtypes)
        raise CheckpointError(f"{name} has the type {str(dtype).removeprefix('torch.')}: it must be {allowed}")
    if len(shape) != len(expected) or any(want not in (None, size) for want, size in zip(expected, shape, strict=True)):
        wanted = ", ".join("any" if want is None else str(want) for want in expected)
        raise CheckpointError(f"{name} has the shape {list(shape)}: it must be [{wanted}]")
    return shape


def _again(tensors: Mapping[str, Any]) -> str:
    """Return the end of a message on a file whose tensors do not fit each other."""
    return sound_copy(file_of(tensors))
