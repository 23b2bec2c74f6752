"""Find what other readers of a GPTQ checkpoint would misread: they take bits and groups from the config alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from qtoolkit.formats.gptq.config import QuantizeConfig
from qtoolkit.formats.gptq.tensors import WIDTHS
from qtoolkit.formats.stored_layer import Headers
from qtoolkit.matching import Expressions


@dataclass(frozen=True)
class _Stored:
    """What the shapes of a layer's tensors say of it."""

    name: str
    bits: int
    inputs: int
    groups: int

    def has_groups_of(self, group_size: Any) -> bool:
        size = group_size if isinstance(group_size, int) and group_size > 0 else self.inputs
        return self.groups == -(-self.inputs // size)

    @property
    def group_size(self) -> int:
        return -1 if self.groups == 1 else self.inputs // self.groups


def misread_layers(tensors: Headers, config: QuantizeConfig, dynamic: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each layer whose tensors have other bits or groups than the config says.

    qtoolkit reads these from the shapes, and so loads the folder; auto-gptq, gptqmodel, vLLM and SGLang do not.

    Args:
        tensors: of the file, by their headers.
        config: of all layers.
        dynamic: the config's `dynamic`: patterns, each with the options of its layers.
    """
    options = DynamicOptions(dynamic)
    for layer in _stored_layers(tensors):
        own = options.of(layer.name)
        if own is None:
            yield f"{layer.name} is quantized in the file, and not in config.json"
            continue
        group_size = own.get("group_size", config.group_size)
        if layer.bits != own.get("bits", config.bits):
            yield f"{layer.name} has {layer.bits} bits in the file, and {own.get('bits', config.bits)} in config.json"
        elif not layer.has_groups_of(group_size):
            size = group_size if isinstance(group_size, int) and group_size > 0 else layer.inputs
            count = -(-layer.inputs // size)
            yield f"{layer.name} has {layer.groups} groups in the file, and {count} by config.json"


def misordered_layers(tensors: Headers, config: QuantizeConfig) -> Iterator[str]:
    """Yield a line for each layer whose group index is not what the config says; group indices are read."""
    for layer in _stored_layers(tensors):
        index = tensors.get(f"{layer.name}.g_idx")
        if index is None or config.desc_act or tuple(index.shape) != (layer.inputs,):
            continue
        size = -(-layer.inputs // layer.groups)
        if not torch.equal(index[...].cpu(), (torch.arange(layer.inputs) // size).to(index.dtype)):
            yield f"{layer.name} has its groups in order of activation, and config.json says desc_act false"


def stored_config(tensors: Headers, config: QuantizeConfig, dynamic: Mapping[str, Any]) -> QuantizeConfig:
    """Return a config with the bits and the group size of the file, where all layers agree that its own are wrong.

    Layers for which `dynamic` has others are left out.
    """
    options = DynamicOptions(dynamic)
    known = [(layer, options.of(layer.name)) for layer in _stored_layers(tensors)]
    bits = {layer.bits for layer, own in known if own is not None and "bits" not in own}
    if len(bits) == 1:
        config = replace(config, bits=bits.pop())
    grouped = [layer for layer, own in known if own is not None and "group_size" not in own]
    if any(layer.has_groups_of(config.group_size) for layer in grouped):
        return config
    sizes = {layer.group_size for layer in grouped}
    return replace(config, group_size=sizes.pop()) if len(sizes) == 1 else config


def _stored_layers(tensors: Headers) -> Iterator[_Stored]:
    """Yield the layers of a file whose shapes fit each other; those that do not are refused when they are loaded."""
    for name in sorted(tensors):
        layer = name.removesuffix(".qweight")
        parts = [tensors.get(f"{layer}.{part}") for part in ("qweight", "qzeros", "scales")]
        shapes = [tuple(part.shape) for part in parts if part is not None]
        if layer == name or len(shapes) != len(parts) or any(len(shape) != 2 or not all(shape) for shape in shapes):
            continue
        (rows, outputs), (_, words), (groups, _) = shapes
        bits = 32 * words // outputs
        if bits in WIDTHS and rows * 32 % bits == 0:
            yield _Stored(layer, bits, rows * 32 // bits, groups)


class DynamicOptions:
    """Find the options of single layers in a config's `dynamic`.

    Source: gptqmodel 7.7, quantization/config.py, `dynamic_get`.

    Args:
        dynamic: patterns, each with the options of its layers.
    """

    def __init__(self, dynamic: Mapping[str, Any]) -> None:
        self._entries = [*dynamic.items()]
        self._expressions = Expressions(pattern.removeprefix("-:").removeprefix("+:") for pattern in dynamic)

    def of(self, name: str) -> Mapping[str, Any] | None:
        """Return a layer's own options, of the first pattern that matches; None where that says it is not quantized."""
        index = self._expressions.first(name)
        if index is None:
            return {}
        pattern, changes = self._entries[index]
        return None if pattern.startswith("-:") else dict(changes)
