"""Quantize a model by transformers' `from_pretrained` into a format of other programs, each weight as it is read.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from qtoolkit.formats.loader import LayersQuantizer
from qtoolkit.formats.stored_loader import StoredConfig, share_codes

if TYPE_CHECKING:
    from torch import nn

    from qtoolkit.formats.base import Layers
    from qtoolkit.formats.layer import Layer


class RoundingConfig(StoredConfig):
    """The quantization config of a model in full precision whose layers are rounded as they are read.

    Args:
        result: the class of the config of the result.
        values: the `quantization_config` of the result.
        layers: builds and quantizes the layers.
        names: full names of the modules to quantize.
        beside: other keys that the config of the model gets, for readers of the format.
    """

    file_method = "qtoolkit-rounding"

    def __init__(
        self,
        result: type[StoredConfig],
        values: Mapping[str, Any],
        layers: "Layers",
        names: Iterable[str],
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.result = result
        self.values = values
        self.builder = layers
        self.layers = list(names)
        self.beside = dict(beside or {})

    def to_dict(self) -> dict[str, Any]:
        """Return the `quantization_config` of the result."""
        return dict(self.values)


class RoundingQuantizer(LayersQuantizer):
    """Quantize each weight as it is read; the result is a model that was read from a checkpoint of the format."""

    quantization_config: Any

    def make_layers(self, config: RoundingConfig) -> "Layers":
        """See `LayersQuantizer`."""
        return config.builder

    def as_layer(self, name: str, module: Any, device: str) -> "Layer":
        """See `LayersQuantizer`: also of an embedding."""
        from qtoolkit.formats.layer import Layer
        from qtoolkit.models.structure import is_embedding

        return (
            Layer.of_embedding(name, module, device) if is_embedding(module) else super().as_layer(name, module, device)
        )

    def build(self, model: PreTrainedModel, layer: "Layer", module: Any) -> "nn.Module":
        """See `LayersQuantizer`: an embedding looks up what a linear layer would multiply with."""
        from qtoolkit.kernels import QuantizedEmbedding
        from qtoolkit.models.structure import embedding_factor, is_embedding

        built: Any = super().build(model, layer, module)
        if not is_embedding(module):
            return built  # type: ignore[no-any-return]
        tied = f"{layer.name}.weight" in model.all_tied_weights_keys.values()
        return QuantizedEmbedding(built.stored, dtype=module.weight.dtype, tied=tied, factor=embedding_factor(module))

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, **kwargs)
        share_codes(model, self.quantization_config.layers)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        super()._process_model_after_weight_loading(model, **kwargs)
        rounding = self.quantization_config
        self.quantization_config = rounding.result(**rounding.values)
        model.config.quantization_config = self.quantization_config
        for name, value in rounding.beside.items():
            setattr(model.config, name, value)
        self.pre_quantized = True


def register_rounding() -> None:
    """Let transformers quantize so; idempotent."""
    AUTO_QUANTIZATION_CONFIG_MAPPING[RoundingConfig.file_method] = RoundingConfig
    AUTO_QUANTIZER_MAPPING[RoundingConfig.file_method] = RoundingQuantizer
