"""Load compressed-tensors checkpoints by transformers' `from_pretrained`, without the package compressed-tensors.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from qtoolkit.errors import CheckpointError
from qtoolkit.formats.compressed_tensors import PACKAGE, QUANT_METHOD
from qtoolkit.formats.loader import keep_values
from qtoolkit.formats.stored_loader import StoredConfig, StoredQuantizer, register_stored
from qtoolkit.optional import is_installed

if TYPE_CHECKING:
    from qtoolkit.formats.stored_layer import StoredLayer
    from qtoolkit.kernels import QuantizedLinear


class CompressedTensorsConfig(StoredConfig):
    """The `quantization_config` of a compressed-tensors checkpoint."""

    file_method = QUANT_METHOD


class CompressedTensorsQuantizer(StoredQuantizer):
    """Replace the layers that a compressed-tensors checkpoint stores quantized."""

    instead = (
        "transformers quantizes nothing into compressed-tensors: "
        "use qtoolkit.quantize(model, ...) with a config that has format='compressed-tensors'"
    )

    def quantized_names(self, headers: Mapping[str, Any]) -> list[str]:
        """See `StoredQuantizer`."""
        from qtoolkit.formats.compressed_tensors.packed_layers import quantized_names

        return quantized_names(headers)

    def find_layers(self, model: PreTrainedModel, headers: Mapping[str, Any]) -> "Mapping[str, StoredLayer]":
        """See `StoredQuantizer`."""
        from qtoolkit.formats.compressed_tensors.config import read_schemes
        from qtoolkit.formats.compressed_tensors.packed_layers import find_layers

        return find_layers(model, headers, read_schemes(self.quantization_config.to_dict()))

    def check_values(self, name: str, layer: "QuantizedLinear") -> None:
        """See `LinearQuantizer`: refuse scales that are not finite, and what no code can be."""
        from qtoolkit.formats.compressed_tensors.byte_tensors import ByteTensors

        scale = layer.get_buffer("weight_scale")
        if scale.is_meta:
            return
        fault = "" if scale.isfinite().all() else "weight_scale holds NaN or infinity"
        if isinstance(layer.stored, ByteTensors):
            fault = layer.stored.fault(layer.get_buffer("weight"), scale)
        if fault:
            raise CheckpointError(f"{name}.{fault}: name another checkpoint of the model")


class _ByContent:
    """Read a `quantization_config` as ours where it has quantized embeddings, which transformers cannot read."""

    theirs: ClassVar[Any]

    @classmethod
    def from_dict(cls, values: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """See transformers' `QuantizationConfigMixin`."""
        from qtoolkit.formats.compressed_tensors.config import has_embeddings

        if has_embeddings(values):
            own = {**values, "quant_method": CompressedTensorsConfig.own_method()}
            return CompressedTensorsConfig.from_dict(own, *args, **kwargs)
        return cls.theirs.from_dict(values, *args, **kwargs)


class _KeepingValues:
    """Mixed into transformers' own quantizer: packed layers stay as they are where a class sets their `weight`."""

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, **kwargs)  # type: ignore[misc]
        keep_values(model, [name for name, module in model.named_modules() if hasattr(module, "weight_packed")])


def register() -> None:
    """Let transformers read such checkpoints where the package that it requires is missing; idempotent.

    Where it is installed, transformers reads all but those with quantized embeddings by itself, and those with packed
    layers whose `weight` the model's class sets once it does not.
    """
    missing = not is_installed(PACKAGE)
    register_stored(CompressedTensorsConfig, CompressedTensorsQuantizer, instead_of_transformers=missing)
    quantizer = AUTO_QUANTIZER_MAPPING[QUANT_METHOD]
    if not missing and not issubclass(quantizer, _KeepingValues):
        AUTO_QUANTIZER_MAPPING[QUANT_METHOD] = type(quantizer.__name__, (_KeepingValues, quantizer), {})
    registered: Any = AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD]
    if registered not in (CompressedTensorsConfig, _ByContent):
        _ByContent.theirs = registered
        AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD] = _ByContent
