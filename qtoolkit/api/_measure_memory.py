"""Define the verb `measure_memory`."""

from dataclasses import replace
from typing import Any

import torch

from qtoolkit.errors import ConfigError
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import MemoryReport


def measure_memory(model: Any) -> MemoryReport:
    """Measure a model in memory: every tensor that stays there, scales and tables included, shared ones once.

    Args:
        model: a `QuantizedModel`, or any torch module; a module's "before" is itself.
    """
    if isinstance(model, QuantizedModel):
        return replace(model.memory, footprint_after=memory_footprint(model.model))
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"memory is measured of a model, got {type(model).__name__}: load one with qt.load")
    footprint = memory_footprint(model)
    return MemoryReport(sum(parameter.numel() for parameter in model.parameters()), footprint, footprint)
