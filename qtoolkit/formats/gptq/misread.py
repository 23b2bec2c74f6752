"""Find what other readers of a GPTQ checkpoint would misread: they take bits and groups from the config alone."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch

from qtoolkit.formats.gptq.config import QuantizeConfig
from qtoolkit.formats.stored_layer import Headers


def misread_layers(tensors: Headers, config: QuantizeConfig, dynamic: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each layer whose tensors have other bits or groups than the config says.

    qtoolkit reads these from the shapes, and so loads the folder; auto-gptq, gptqmodel, vLLM and SGLang do not.

    Args:
        tensors: of the file; of the values, group indices alone are read.
        config: of all layers.
        dynamic: the config's `dynamic`: patterns, each with the options of its layers.
    """
    for name in sorted(tensors):
        layer = name.removesuffix(".qweight")
        index, scales = tensors.get(f"{layer}.g_idx"), tensors.get(f"{layer}.scales")
        if layer == name or index is None or scales is None or not index.shape or not index.shape[0]:
            continue
        inputs = index.shape[0]
        own = _options_of(dynamic, layer)
        if own is None:
            yield f"{layer} is quantized in the file, and not in config.json"
            continue
        bits = 32 * tensors[name].shape[0] // inputs
        group_size = own.get("group_size", config.group_size)
        size = group_size if isinstance(group_size, int) and group_size > 0 else inputs
        if bits != own.get("bits", config.bits):
            yield f"{layer} has {bits} bits in the file, and {own.get('bits', config.bits)} in config.json"
        elif scales.shape[0] != -(-inputs // size):
            yield f"{layer} has {scales.shape[0]} groups in the file, and {-(-inputs // size)} by config.json"
        elif not config.desc_act and not torch.equal(index[...].cpu(), (torch.arange(inputs) // size).to(index.dtype)):
            yield f"{layer} has its groups in order of activation, and config.json says desc_act false"


def _options_of(dynamic: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return a layer's own options, of the first pattern that matches; None where it says that it is not quantized.

    Source: gptqmodel 7.7, quantization/config.py, `dynamic_get`.
    """
    for pattern, changes in dynamic.items():
        with suppress(re.error):
            if re.match(pattern.removeprefix("-:").removeprefix("+:"), name):
                return None if pattern.startswith("-:") else dict(changes)
    return {}
