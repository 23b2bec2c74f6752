"""Our layers in transformers' own loader, through its registry of quantizers.

In `config.json`: `{"quant_method": "qtoolkit", "method": "absmax", "options": {...}, "layers": [...]}`.

This module is imported the moment transformers is, perhaps by a module of ours that is not whole yet; it imports our
rooms where it needs them.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qtoolkit.errors import CheckpointError

QUANT_METHOD = "qtoolkit"


class QToolkitConfig(QuantizationConfigMixin):
    """What `config.json` says of a model with our layers.

    Args:
        method: the method's name.
        options: its config's fields.
        layers: full names of the modules that are quantized.
    """

    def __init__(self, method: str, options: dict[str, Any], layers: list[str], **unknown: Any) -> None:
        if set(unknown) - {"quant_method"}:
            raise CheckpointError(f"quantization_config of {QUANT_METHOD} has no key {min(unknown)!r}: update qtoolkit")
        self.quant_method = QUANT_METHOD
        self.method, self.options, self.layers = method, options, layers


class QToolkitQuantizer(HfQuantizer):
    """Puts our layers in place, and quantizes weights as they are read when the checkpoint is in full precision."""

    requires_calibration = False

    def __init__(self, quantization_config: QToolkitConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._layers = frozenset(quantization_config.layers)
        self._transposed: set[str] = set()

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from qtoolkit.methods import Layer, get_method
        from qtoolkit.methods._linear import LinearMethod
        from qtoolkit.source.skeleton import is_linear

        method = get_method(self.quantization_config.method)
        assert isinstance(method, LinearMethod)
        config = method.config_class.from_dict(self.quantization_config.options)
        for name in self.quantization_config.layers:
            module = model.get_submodule(name)
            if not is_linear(module):
                raise CheckpointError(f"{name} should be quantized, but it is no linear layer: the config is damaged")
            if isinstance(module, Conv1D):
                self._transposed.add(name)
            layer = Layer.of(name, module, str(kwargs.get("device_map") or "cpu"))
            with torch.device("meta"):
                replacement: Any = method.build(layer, config.of(name), module.weight.dtype)
            if not self.pre_quantized:
                # transformers 5.15 casts what it reads to the type that it finds here before it is quantized.
                replacement.weight = module.weight.data
            model.set_submodule(name, replacement)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from qtoolkit.stream.products import multiply_fast

        multiply_fast(model)

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        module, _, parameter = param_name.rpartition(".")
        return not self.pre_quantized and parameter == "weight" and module in self._layers

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize(self._transposed)

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


class _Quantize(ConversionOps):
    """One full-precision weight to the buffers of the layer that takes its place."""

    def __init__(self, transposed: set[str]) -> None:
        self._transposed = transposed

    def convert(
        self, input_dict: dict[str, Any], model: PreTrainedModel | None = None, missing_keys: Any = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        assert model is not None
        result: dict[str, torch.Tensor] = {}
        for key, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            name = key.rpartition(".")[0]
            module: Any = model.get_submodule(name)
            full = weight.T if name in self._transposed else weight
            result.update({f"{name}.{buffer}": tensor for buffer, tensor in module.quantize_weight(full).items()})
        return result


def register() -> None:
    """Make transformers know `quant_method: qtoolkit`, and read GPTQ; once is enough, more does no harm."""
    from qtoolkit.methods import _gptq_transformers

    _gptq_transformers.register()
    if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(QUANT_METHOD)(QToolkitConfig)
        register_quantizer(QUANT_METHOD)(QToolkitQuantizer)
