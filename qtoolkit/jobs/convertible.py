"""Read which codes a quantized checkpoint holds, before another format takes them over."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.formats import (
    Format,
    GroupedFormat,
    Layer,
    format_of,
    get_format,
)
from qtoolkit.formats.layer_codes import LayerCodes, layer_codes
from qtoolkit.formats.stored_layer import StoredLayer, bias_dtype, module_names
from qtoolkit.formats.stored_reader import StoredReader
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.methods import LinearMethod, MethodConfig, ReadAs, reader_of
from qtoolkit.models import structure
from qtoolkit.models.building import build_empty
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.publishing import receipt_of

# Options that say how codes are stored, and not how they were chosen.
LAYOUT = frozenset({"format", "bits", "group_size", "sym", "desc_act", "checkpoint_format", "embeddings", "lossy"})
_QUANTIZE = "give it to qt.quantize, whose config has a format"


@dataclass(frozen=True)
class Convertible:
    """A quantized checkpoint whose codes can be taken over.

    Attributes:
        checkpoint: with wrong values of its config corrected.
        format, layout: the name of its format, and the way in which that packs codes.
        config: the config that it describes.
        is_named: whether its codes are known to be of that config's method, and not just as that makes them.
        options: fields of the config that its files tell, with what its receipt adds to how the codes were chosen.
        model: the model on the meta device.
        layers: the codes of each quantized layer by the names of the model's modules.
    """

    checkpoint: Checkpoint
    format: str
    layout: str
    config: MethodConfig
    is_named: bool
    options: Mapping[str, Any]
    model: Any
    layers: Mapping[str, LayerCodes]

    @property
    def config_entries(self) -> dict[str, Any]:
        """Return the entries of `config.json` that describe the quantization."""
        return config_entries_of(get_format(self.format), self.checkpoint.quantization or {})


def config_entries_of(stored_as: Format, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `config.json` that hold a `quantization_config`."""
    if isinstance(stored_as, GroupedFormat):
        return stored_as.config_entries(values)
    return {"quantization_config": dict(values)}


def read_convertible(checkpoint: Checkpoint) -> Convertible:
    """Return the codes of a quantized checkpoint; scales and zero points are read, and no codes.

    Raises:
        CheckpointError: it is damaged.
        UnsupportedModelError: it is in full precision, or no other format holds its codes.
    """
    if checkpoint.quantization is None:
        expanded = f"expanded from {checkpoint.stored_as}, whose codes no format takes over"
        what = expanded if checkpoint.stored_as else "in full precision"
        raise UnsupportedModelError(f"{checkpoint.name} is {what}: {_QUANTIZE}")
    read_as = reader_of(checkpoint)
    checkpoint = read_as.checkpoint
    stored_as = format_of(checkpoint.quantization)
    assert stored_as is not None
    reader = read_as.reader
    if isinstance(reader, StoredReader):
        model, layers = reader.model, dict(reader.layers)
        for layer in layers.values():
            reader.check_codes(layer)
    else:
        model = build_empty(checkpoint, checkpoint.dtype)
        layers = dict(_built_layers(read_as, model))
    if not layers:
        raise UnsupportedModelError(
            f"{checkpoint.name} is stored as {stored_as.name}, whose codes no other format holds: "
            "quantize the full-precision model"
        )
    values = checkpoint.quantization or {}
    token = structure.token_embedding(model)
    modules = dict(model.named_modules())
    in_blocks = block_prefix(model)
    codes = {
        name: layer_codes(
            layer,
            checkpoint.tensors,
            place="block" if name.startswith(in_blocks) else "embedding" if name == token else "head",
            transposed=structure.is_transposed(modules[name]),
        )
        for name, layer in ((name, layers[name]) for name in modules if name in layers)
    }
    # Layers that servers join must be stored alike, so that one with zero points makes all others have them.
    sym = all(one.sym for one in codes.values() if one.place == "block")
    codes = {name: replace(one, sym=one.sym and (sym or one.place != "block")) for name, one in codes.items()}
    layout = stored_as.layout_of(values) if isinstance(stored_as, GroupedFormat) else stored_as.name
    return Convertible(
        checkpoint=checkpoint,
        format=stored_as.name,
        layout=layout,
        config=read_as.config,
        is_named=reader.name == read_as.config.method,
        options=known_options(checkpoint, read_as.config),
        model=model,
        layers=codes,
    )


def known_options(checkpoint: Checkpoint, config: MethodConfig) -> dict[str, Any]:
    """Return the fields of a config that a quantized checkpoint tells, and none that are its method's defaults.

    What does not say how codes are stored is taken from the receipt beside the weights, if it is of the same method.
    """
    stored_as = format_of(checkpoint.quantization)
    assert stored_as is not None
    every = config.to_dict()
    described = stored_as.method_of(checkpoint.quantization or {})[1].keys() | LAYOUT
    options = {key: value for key, value in every.items() if key in described}
    receipt = receipt_of(checkpoint).value
    if receipt is None or receipt.method != config.method:
        return options
    noted = {key: value for key, value in receipt.settings.items() if key in every and key not in LAYOUT}
    try:
        full = type(config).from_dict({**every, **noted}).to_dict()
    except ConfigError:
        return options
    return {key: value for key, value in full.items() if key in options or key in noted}


def block_prefix(model: Any) -> str:
    """Return how the names of the modules in a model's blocks begin."""
    blocks = structure.block_list(model)
    return f"{blocks[0]}." if blocks else "."


def _built_layers(read_as: ReadAs, model: Any) -> Iterator[tuple[str, StoredLayer]]:
    """Yield the layers of a checkpoint whose config names a method that builds them; none of another."""
    checkpoint, reader, config = read_as
    names = (checkpoint.quantization or {}).get("layers")
    if not (isinstance(reader, LinearMethod) and isinstance(names, list)):
        return
    weights = [key.removesuffix(".weight") for key in checkpoint.tensors if key.endswith(".weight")]
    in_file = {name: stored for stored, name in module_names(model, weights).items()}
    for name, built in build_layers(reader, config, model, names):
        if built is None or name not in in_file:
            return
        dtype = bias_dtype(in_file[name], built.out_features, checkpoint.tensors)
        yield name, StoredLayer(in_file[name], built, dtype)


def build_layers(method: LinearMethod, config: Any, model: Any, names: Any) -> Iterator[tuple[str, Any]]:
    """Yield how a method's own layers of these names store their weight; None for a layer of another kind."""
    for name in names:
        layer = Layer.of(name, model.get_submodule(name), "cpu")
        with torch.device("meta"):
            built = method.build(layer, config.of(name), torch.float32)
        yield name, built.stored if isinstance(built, QuantizedLinear) else None
