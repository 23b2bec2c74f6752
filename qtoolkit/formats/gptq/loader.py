"""Load GPTQ checkpoints by transformers' `from_pretrained`, without optimum and gptqmodel.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from qtoolkit.errors import CheckpointError
from qtoolkit.formats.stored_loader import StoredConfig, StoredQuantizer, register_stored
from qtoolkit.optional import is_installed

if TYPE_CHECKING:
    from qtoolkit.formats.stored_layer import StoredLayer
    from qtoolkit.kernels import QuantizedLinear


class GPTQConfig(StoredConfig):
    """The `quantization_config` of a GPTQ checkpoint."""

    file_method = "gptq"


class GPTQQuantizer(StoredQuantizer):
    """Replace the layers that a GPTQ checkpoint stores quantized."""

    instead = (
        "transformers quantizes with GPTQ only where optimum and gptqmodel are installed: "
        "use qtoolkit.quantize(model, qtoolkit.GPTQ(...))"
    )

    def quantized_names(self, headers: Mapping[str, Any]) -> list[str]:
        """See `StoredQuantizer`."""
        from qtoolkit.formats.gptq.stored_layers import quantized_names

        return quantized_names(headers)

    def find_layers(self, model: PreTrainedModel, headers: Mapping[str, Any]) -> "Mapping[str, StoredLayer]":
        """See `StoredQuantizer`."""
        from qtoolkit.formats.gptq.config import read_quantize_config
        from qtoolkit.formats.gptq.stored_layers import find_layers

        return find_layers(model, headers, read_quantize_config(self.quantization_config.to_dict()))

    def check_values(self, name: str, layer: "QuantizedLinear") -> None:
        """See `LinearQuantizer`: refuse scales that are not finite, and groups that do not exist."""
        scales = layer.get_buffer("scales")
        if scales.is_meta:
            return
        groups = len(scales)
        g_idx = layer.get_buffer("g_idx")
        if "g_idx" in layer._non_persistent_buffers_set:  # noqa: SLF001
            inputs = torch.arange(layer.in_features, device=scales.device)
            layer.g_idx = (inputs // layer.stored.inputs_per_scale).to(torch.int32)
        elif not ((g_idx >= 0).all() and (g_idx < groups).all()):
            low, high = g_idx.min().item(), g_idx.max().item()
            raise CheckpointError(
                f"{name}.g_idx names groups {low} to {high} of {groups}: name another checkpoint of the model"
            )
        if not scales.isfinite().all():
            raise CheckpointError(f"{name}.scales holds NaN or infinity: name another checkpoint of the model")


def register() -> None:
    """Let transformers read GPTQ checkpoints where the packages that it requires are missing; idempotent."""
    missing = not (is_installed("optimum") and is_installed("gptqmodel"))
    register_stored(GPTQConfig, GPTQQuantizer, instead_of_transformers=missing)
