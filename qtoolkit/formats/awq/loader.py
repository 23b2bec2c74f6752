"""Load AWQ checkpoints by transformers' `from_pretrained`, without gptqmodel or autoawq.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from qtoolkit.errors import CheckpointError
from qtoolkit.formats.stored_loader import StoredConfig, StoredQuantizer, register_stored
from qtoolkit.optional import is_installed

if TYPE_CHECKING:
    from qtoolkit.formats.stored_layer import StoredLayer
    from qtoolkit.kernels import QuantizedLinear


class AwqConfig(StoredConfig):
    """The `quantization_config` of an AWQ checkpoint."""

    file_method = "awq"


class AWQQuantizer(StoredQuantizer):
    """Replace the layers that an AWQ checkpoint stores quantized."""

    instead = "transformers quantizes nothing with AWQ: use qtoolkit.quantize(model, qtoolkit.GPTQ(...))"

    def quantized_names(self, headers: Mapping[str, Any]) -> list[str]:
        """See `StoredQuantizer`."""
        from qtoolkit.formats.awq.interleaved_layers import quantized_names

        return quantized_names(headers)

    def find_layers(self, model: PreTrainedModel, headers: Mapping[str, Any]) -> "Mapping[str, StoredLayer]":
        """See `StoredQuantizer`."""
        from qtoolkit.formats.awq.config import read_awq_config
        from qtoolkit.formats.awq.interleaved_layers import find_layers

        return find_layers(model, headers, read_awq_config(self.quantization_config.to_dict()))

    def check_values(self, name: str, layer: "QuantizedLinear") -> None:
        """See `LinearQuantizer`: refuse scales that are not finite."""
        scales = layer.get_buffer("scales")
        if not scales.is_meta and not scales.isfinite().all():
            raise CheckpointError(f"{name}.scales holds NaN or infinity: name another checkpoint of the model")


def register() -> None:
    """Let transformers read such checkpoints where gptqmodel, which it requires, is missing; idempotent."""
    register_stored(AwqConfig, AWQQuantizer, instead_of_transformers=not is_installed("gptqmodel"))
