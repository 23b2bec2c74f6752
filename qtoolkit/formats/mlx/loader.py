"""Load MLX checkpoints by transformers' `from_pretrained`.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from qtoolkit.formats.mlx import QUANT_METHOD
from qtoolkit.formats.stored_loader import StoredConfig, StoredQuantizer, register_stored

if TYPE_CHECKING:
    from qtoolkit.formats.stored_layer import StoredLayer
    from qtoolkit.kernels import QuantizedLinear


class MLXConfig(StoredConfig):
    """The `quantization_config` of an MLX checkpoint."""

    file_method = QUANT_METHOD


class MLXQuantizer(StoredQuantizer):
    """Replace the layers that an MLX checkpoint stores quantized."""

    instead = "transformers quantizes nothing into MLX: use qtoolkit.quantize(model, qtoolkit.GPTQ(format='mlx', ...))"

    def quantized_names(self, headers: Mapping[str, Any]) -> list[str]:
        """See `StoredQuantizer`."""
        from qtoolkit.formats.mlx.affine_layers import quantized_names

        return quantized_names(headers)

    def find_layers(self, model: PreTrainedModel, headers: Mapping[str, Any]) -> "Mapping[str, StoredLayer]":
        """See `StoredQuantizer`."""
        from qtoolkit.formats.mlx.affine_layers import find_layers
        from qtoolkit.formats.mlx.config import QUANTIZATION, check_both, read_schemes

        values = self.quantization_config.to_dict()
        check_both(getattr(model.config, QUANTIZATION, None), values)
        return find_layers(model, headers, read_schemes(values))

    def check_values(self, name: str, layer: "QuantizedLinear") -> None:
        """See `LinearQuantizer`: refuse what is not finite, and minima of other codes than symmetric ones."""
        from qtoolkit.formats.mlx.affine_layers import check_biases

        scales, biases = layer.get_buffer("scales"), layer.get_buffer("biases")
        if not scales.is_meta:
            check_biases(name, scales, biases, layer.stored)


def register() -> None:
    """Let transformers read such checkpoints; idempotent."""
    register_stored(MLXConfig, MLXQuantizer, instead_of_transformers=True)
