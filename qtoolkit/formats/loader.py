"""Quantize and load by transformers' `from_pretrained`, through its registry of quantizers.

For the formats that are a `LayersFormat`, whose `quantization_config` names the method, its options and the layers.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

from qtoolkit.errors import CheckpointError
from qtoolkit.formats.split_experts import SplittingQuantizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import nn

    from qtoolkit.formats.base import Layers, LayersOf
    from qtoolkit.formats.layer import Layer
    from qtoolkit.kernels import QuantizedLinear


class LayersConfig(QuantizationConfigMixin):
    """The `quantization_config` of a model whose layers their method builds.

    Args:
        method: the method's name.
        options: fields of its config.
        layers: full names of the quantized modules.
        quant_method: the format's.
    """

    def __init__(
        self, method: str, options: dict[str, Any], layers: list[str], *, quant_method: str, **unknown: Any
    ) -> None:
        if unknown:
            raise CheckpointError(f"quantization_config of {quant_method} has no key {min(unknown)!r}: update qtoolkit")
        self.quant_method = quant_method
        self.method = method
        self.options = options
        self.layers = layers


def _check_range(name: str, layer: "QuantizedLinear", dtype: torch.dtype) -> None:
    """Refuse scales that make infinite weights of the largest codes in the type that they are multiplied in."""
    limit = torch.finfo(dtype).max
    largest = layer.largest_scale()
    types = (one for _, one in layer.stored.tensors().values())
    # Codes of one byte may be floats, of which the largest is 448.
    floats = [torch.finfo(one).max for one in types if one.is_floating_point and one.itemsize == 1]
    if largest * max(floats, default=2 ** (layer.stored.bits - 1) - 1) > limit:
        raise CheckpointError(
            f"{name} has a scale of {largest:.3g}, with which weights pass the largest number of {dtype} "
            f"({limit:.3g}): name another dtype, or another checkpoint of the model"
        )


def keep_values(model: PreTrainedModel, layers: "Iterable[str]") -> None:
    """Keep transformers from initializing the modules around packed layers, whose `weight` these lack.

    Mamba 2 and GPT-2 would initialize that. Modules with buffers that no file holds are initialized as ever.
    """
    for name in layers:
        parent: Any = model.get_submodule(name.rpartition(".")[0])
        if not parent._non_persistent_buffers_set:  # noqa: SLF001
            parent._is_hf_initialized = True  # noqa: SLF001


class LinearQuantizer(SplittingQuantizer):
    """Base of the quantizers that replace linear layers by a layer of qtoolkit."""

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from qtoolkit.kernels import QuantizedLinear
        from qtoolkit.stream.products import multiply_fast

        multiply_fast(model)
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                self.check_values(name, module)
                _check_range(name, module, model.dtype)
                module.prepare()

    def check_values(self, name: str, layer: "QuantizedLinear") -> None:
        """Refuse values that a layer of this name cannot have, before it is packed. Default: accept all."""

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        from qtoolkit.formats.plain_layers import dequantize_layers

        wanted: Any = dtype or model.config.dtype or torch.float32
        # Since the model was saved, its config has the type's name.
        dequantize_layers(model, getattr(torch, wanted) if isinstance(wanted, str) else wanted)
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        # Adapters beside the layers are: gradients flow through the codes to what stands before.
        return True


class LayersQuantizer(LinearQuantizer):
    """Build such layers; if the checkpoint is in full precision, quantize each weight as it is read."""

    requires_calibration = False
    # Set by `register`.
    layers_of: "staticmethod[[str, Mapping[str, Any]], Layers]"

    def __init__(self, quantization_config: LayersConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._layers = self.make_layers(quantization_config)
        # By name, and whether the weight is transposed, which a `Conv1D` holds [in, out].
        self._replaced: dict[str, tuple[Layer, bool]] = {}
        # Layers that have a `weight`, as a buffer, only while weights are read.
        self._temporary_weights: list[str] = []

    def make_layers(self, config: Any) -> "Layers":
        """Return what builds and quantizes the layers of a config."""
        return self.layers_of(config.method, config.options)

    def as_layer(self, name: str, module: Any, device: str) -> "Layer":
        """Return a module of the model, which is to be quantized, as a layer."""
        from qtoolkit.formats.layer import Layer
        from qtoolkit.models.structure import is_linear

        if not is_linear(module):
            raise CheckpointError(f"{name} should be quantized, but it is no linear layer: the config is damaged")
        return Layer.of(name, module, device)

    def build(self, model: PreTrainedModel, layer: "Layer", module: Any) -> "nn.Module":
        """Return what replaces a module of the model."""
        return self._layers.build(layer, module.weight.dtype)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from qtoolkit.models.experts_apart import are_of_experts

        if are_of_experts(model, self.quantization_config.layers):
            self.split_experts(model, self.quantization_config.layers)
        for name in self.quantization_config.layers:
            module: Any = model.get_submodule(name)
            layer = self.as_layer(name, module, str(kwargs.get("device_map") or "cpu"))
            self._replaced[name] = layer, isinstance(module, Conv1D)
            with torch.device("meta"):
                replacement: Any = self.build(model, layer, module)
            if not self.pre_quantized:
                # transformers 5.15 casts a weight that it reads to the type of this buffer before it is quantized.
                if "weight" not in dict(replacement.named_buffers()):
                    self._temporary_weights.append(name)
                replacement.register_buffer("weight", module.weight.data)
            model.set_submodule(name, replacement)
        if self.pre_quantized:
            keep_values(model, self._replaced)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        for name in self._temporary_weights:
            del model.get_submodule(name).weight
        super()._process_model_after_weight_loading(model, **kwargs)

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        module, _, parameter = param_name.rpartition(".")
        return not self.pre_quantized and parameter == "weight" and module in self._replaced

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize(self._quantize_weight)

    def _quantize_weight(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the buffers of the layer of this name for its weight as the checkpoint has it."""
        layer, transposed = self._replaced[name]
        return self._layers.quantize_weight(weight.T if transposed else weight, layer)


class _Quantize(ConversionOps):
    """Convert a weight in full precision to the buffers of the layer that replaces it.

    Args:
        quantize_weight: returns the buffers by name from the name of a layer and its weight.
    """

    def __init__(self, quantize_weight: "Callable[[str, torch.Tensor], dict[str, torch.Tensor]]") -> None:
        self._quantize_weight = quantize_weight

    def convert(
        self, input_dict: dict[str, Any], model: PreTrainedModel | None = None, missing_keys: Any = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        result: dict[str, torch.Tensor] = {}
        for key, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            name = key.rpartition(".")[0]
            if missing_keys is not None:
                # It is not missing, even where no buffer has its name.
                missing_keys.discard(key)
            buffers = self._quantize_weight(name, weight)
            result |= {f"{name}.{buffer}": tensor for buffer, tensor in buffers.items()}
        return result


def register(quant_method: str, layers_of: "LayersOf") -> None:
    """Register a format with transformers by its `quant_method`; `layers_of` is that of `Format.register`."""
    LayersQuantizer.layers_of = staticmethod(layers_of)
    AUTO_QUANTIZATION_CONFIG_MAPPING[quant_method] = LayersConfig
    AUTO_QUANTIZER_MAPPING[quant_method] = LayersQuantizer
