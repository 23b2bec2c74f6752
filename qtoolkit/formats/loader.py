"""Layers that their method builds, in transformers' own loader, through its registry of quantizers.

For the formats that are a `LayersFormat`: their `quantization_config` tells method, options and layers.

This module is imported the moment transformers is, perhaps by a module of ours that is not whole yet; it imports our
rooms where it needs them.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qtoolkit.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qtoolkit.formats.base import Layers, LayersOf
    from qtoolkit.formats.layer import Layer


class LayersConfig(QuantizationConfigMixin):
    """What `config.json` says of a model with such layers.

    Args:
        method: the method's name.
        options: its config's fields.
        layers: full names of the modules that are quantized.
        quant_method: that of the format.
    """

    def __init__(
        self, method: str, options: dict[str, Any], layers: list[str], *, quant_method: str, **unknown: Any
    ) -> None:
        if unknown:
            raise CheckpointError(f"quantization_config of {quant_method} has no key {min(unknown)!r}: update qtoolkit")
        self.quant_method = quant_method
        self.method, self.options, self.layers = method, options, layers


class LayersQuantizer(HfQuantizer):
    """Puts such layers in place, and quantizes weights as they are read when the checkpoint is in full precision."""

    requires_calibration = False
    # Handed in by `register`.
    layers_of: "staticmethod[[str, Mapping[str, Any]], Layers]"

    def __init__(self, quantization_config: LayersConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._layers = frozenset(quantization_config.layers)
        # Layers without a buffer of this name have a `weight` for as long as weights are read.
        self._stand_ins: list[str] = []
        self._quantize_weight: dict[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]] = {}

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from qtoolkit.formats.layer import Layer
        from qtoolkit.models.structure import is_linear

        layers = self.layers_of(self.quantization_config.method, self.quantization_config.options)
        for name in self.quantization_config.layers:
            module = model.get_submodule(name)
            if not is_linear(module):
                raise CheckpointError(f"{name} should be quantized, but it is no linear layer: the config is damaged")
            layer = Layer.of(name, module, str(kwargs.get("device_map") or "cpu"))
            self._quantize_weight[name] = partial(
                _quantized, layers=layers, layer=layer, transposed=isinstance(module, Conv1D)
            )
            with torch.device("meta"):
                replacement: Any = layers.build(layer, module.weight.dtype)
            if not self.pre_quantized:
                # transformers 5.15 casts what it reads to the type that it finds here before it is quantized.
                if "weight" not in dict(replacement.named_buffers()):
                    self._stand_ins.append(name)
                replacement.register_buffer("weight", module.weight.data)
            model.set_submodule(name, replacement)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from qtoolkit.kernels import QuantizedLinear
        from qtoolkit.stream.products import multiply_fast

        multiply_fast(model)
        for name in self._stand_ins:
            del model.get_submodule(name).weight
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.prepare()

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        module, _, parameter = param_name.rpartition(".")
        return not self.pre_quantized and parameter == "weight" and module in self._layers

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize(self._quantize_weight)

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


class _Quantize(ConversionOps):
    """One full-precision weight to the buffers of the layer that takes its place.

    Args:
        quantize_weight: for each layer by name, what gives its buffers for its weight.
    """

    def __init__(self, quantize_weight: "Mapping[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]]") -> None:
        self._quantize_weight = quantize_weight

    def convert(
        self, input_dict: dict[str, Any], model: PreTrainedModel | None = None, missing_keys: Any = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        result: dict[str, torch.Tensor] = {}
        for key, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            name = key.rpartition(".")[0]
            if missing_keys is not None:
                # It was read, also where none of the buffers has its name.
                missing_keys.discard(key)
            result.update(
                {f"{name}.{buffer}": tensor for buffer, tensor in self._quantize_weight[name](weight).items()}
            )
        return result


def _quantized(weight: torch.Tensor, *, layers: "Layers", layer: "Layer", transposed: bool) -> dict[str, torch.Tensor]:
    """Return the buffers for a weight, which a `Conv1D` keeps [in, out]."""
    return layers.quantize_weight(weight.T if transposed else weight, layer)


def register(quant_method: str, layers_of: "LayersOf") -> None:
    """Make transformers know a format by its `quant_method`; `layers_of` is that of `Format.register`."""
    LayersQuantizer.layers_of = staticmethod(layers_of)
    AUTO_QUANTIZATION_CONFIG_MAPPING[quant_method] = LayersConfig
    AUTO_QUANTIZER_MAPPING[quant_method] = LayersQuantizer
