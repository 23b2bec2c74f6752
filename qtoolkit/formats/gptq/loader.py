"""Load GPTQ checkpoints by transformers' `from_pretrained`, without optimum and gptqmodel.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qtoolkit.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError
from qtoolkit.formats.loader import LinearQuantizer
from qtoolkit.optional import is_installed

if TYPE_CHECKING:
    from qtoolkit.kernels import QuantizedLinear

QUANT_METHOD = "gptq"
# The private name that selects our quantizer even where "gptq" is registered to optimum's.
OWN_QUANT_METHOD = "qtoolkit-gptq"


class GPTQConfig(QuantizationConfigMixin):
    """The `quantization_config` of a GPTQ checkpoint, every key unchanged.

    It has the name of transformers' own class because `from_pretrained` compares the names of a given config and the
    file's. That class is not used: it drops unknown keys, adds others, and requires optimum.
    """

    # The tensors of the file, where the loader is given no path to read them from.
    headers: Mapping[str, Any] | None = None

    def __init__(self, **values: Any) -> None:
        self.quant_method = QUANT_METHOD
        self.__dict__.update(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of the file, without `headers`."""
        return {name: copy.deepcopy(value) for name, value in vars(self).items() if name != "headers"}


class GPTQQuantizer(LinearQuantizer):
    """Replace the layers that a checkpoint stores quantized by `QuantizedLinear`, and load their tensors."""

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if isinstance(quantization_config, GPTQConfig) and quantization_config.headers is not None:
            # Our own loader, with the tensors of a quantized file.
            self.pre_quantized = True
            self.quantization_config.quant_method = QUANT_METHOD
        if not self.pre_quantized:
            raise UnsupportedModelError(
                "transformers quantizes with GPTQ only where optimum and gptqmodel are installed: "
                "use qtoolkit.quantize(model, qtoolkit.GPTQ(...))"
            )

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        from qtoolkit.formats.gptq.config import read_quantize_config
        from qtoolkit.formats.gptq.stored_layers import find_layers
        from qtoolkit.models.experts import replace_experts

        config = read_quantize_config(self.quantization_config.to_dict())
        headers = self.quantization_config.headers
        # Removed once read: the config may be used for another model, and would keep tensors in memory alive.
        self.quantization_config.headers = None
        if headers is None:
            headers = _read_headers(checkpoint_files or [])
        if holds_experts(model, headers):
            replace_experts(model)
            self._experts_are_split = True
        layers = find_layers(model, headers, config)
        _check_other_weights(model, headers)
        for name, layer in layers.items():
            dtype = next(model.get_submodule(name).parameters()).dtype
            model.set_submodule(name, layer.build(dtype))
            parent = model.get_submodule(name.rpartition(".")[0])
            if not (list(parent.parameters(recurse=False)) or list(parent.buffers(recurse=False))):
                # Some models (GPT-2) would initialize the `weight` of this module's layers, which they lack now.
                parent._is_hf_initialized = True  # noqa: SLF001
        # While weights are read: of a file that counts as quantized, transformers 5.15 does not cast renamed tensors.
        self.pre_quantized = hasattr(HfQuantizer, "get_new_dtype")

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        self.pre_quantized = True
        super()._process_model_after_weight_loading(model, **kwargs)

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

    def update_weight_conversions(self, weight_conversions: list[Any], *args: Any) -> list[Any]:
        from qtoolkit.models.experts import merges_experts

        conversions = [entry for entry in weight_conversions if not (self._experts_are_split and merges_experts(entry))]
        return super().update_weight_conversions(conversions, *args)  # type: ignore[no-any-return]

    _experts_are_split = False


def holds_experts(model: PreTrainedModel, headers: Mapping[str, Any]) -> bool:
    """Check whether a file stores experts quantized one by one that the model holds in large tensors."""
    from qtoolkit.formats.gptq.stored_layers import module_names, quantized_names
    from qtoolkit.models.experts import find_experts

    # A file may lack the prefix of the base model.
    prefix = f"{model.base_model_prefix}."
    experts = tuple(f"{name.removeprefix(prefix)}." for name in find_experts(model))
    names = module_names(model, quantized_names(headers))
    return any(name.removeprefix(prefix).startswith(experts) for name in names.values())


def register() -> None:
    """Let transformers read GPTQ checkpoints where the packages that it requires are missing; idempotent."""
    names = [OWN_QUANT_METHOD]
    if not (is_installed("optimum") and is_installed("gptqmodel")):
        names.append(QUANT_METHOD)
    for name in names:
        AUTO_QUANTIZATION_CONFIG_MAPPING[name] = GPTQConfig
        AUTO_QUANTIZER_MAPPING[name] = GPTQQuantizer


def _read_headers(files: list[str]) -> dict[str, Any]:
    """Return the tensors of safetensors files by name; refuse pickled files."""
    from qtoolkit.checkpoints.safetensors import read_tensors

    headers: dict[str, Any] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            raise UnsafeCheckpointError(f"{file} is pickled, and unpickling runs code: ask its author for safetensors")
        headers.update(read_tensors(Path(file)))
    return headers


def _check_other_weights(model: PreTrainedModel, headers: Mapping[str, Any]) -> None:
    """Refuse unquantized weights of another shape than the model's; some versions of transformers load them."""
    from qtoolkit.formats.gptq.stored_layers import module_names

    state = model.state_dict()
    weights = [key.removesuffix(".weight") for key in headers if key.endswith(".weight")]
    for stored, name in module_names(model, weights).items():
        expected = state.get(f"{name}.weight")
        shape = tuple(headers[f"{stored}.weight"].shape)
        if expected is not None and tuple(expected.shape) != shape:
            raise CheckpointError(
                f"{stored}.weight has the shape {list(shape)}: its config wants {list(expected.shape)}"
            )
