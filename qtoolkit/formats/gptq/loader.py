"""GPTQ checkpoints in transformers' own loader, without optimum and gptqmodel.

This module is imported the moment transformers is, perhaps by a module of ours that is not whole yet; it imports our
rooms where it needs them.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qtoolkit.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError
from qtoolkit.optional import is_installed

QUANT_METHOD = "gptq"
# By this name our loader asks for our quantizer, whoever has the other one.
OWN_QUANT_METHOD = "qtoolkit-gptq"


class GPTQConfig(QuantizationConfigMixin):
    """What `config.json` says of a GPTQ checkpoint, every key as it stands there.

    Called as transformers' own, which drops keys that it does not know, adds others, and asks for optimum: transformers
    compares the names where somebody gives a config to `from_pretrained` beside that of the file.
    """

    # The headers of the file, where they do not come with its path.
    headers: Mapping[str, Any] | None = None

    def __init__(self, **values: Any) -> None:
        self.quant_method = QUANT_METHOD
        self.__dict__.update(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of the file."""
        return {name: copy.deepcopy(value) for name, value in vars(self).items() if name != "headers"}


class GPTQQuantizer(HfQuantizer):
    """Puts `QuantizedLinear` in the place of the layers that a checkpoint holds quantized."""

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if isinstance(quantization_config, GPTQConfig) and quantization_config.headers is not None:
            # The headers are those of a quantized file.
            self.pre_quantized, self.quantization_config.quant_method = True, QUANT_METHOD
        if not self.pre_quantized:
            raise UnsupportedModelError(
                "transformers quantizes with GPTQ only where optimum and gptqmodel are installed: "
                "use qtoolkit.quantize(model, qtoolkit.GPTQ(...))"
            )

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        from qtoolkit.formats.gptq.checkpoint import find_layers
        from qtoolkit.formats.gptq.config import read_settings
        from qtoolkit.models.experts import replace_experts

        settings = read_settings(self.quantization_config.to_dict())
        headers = self.quantization_config.headers
        # Read once: a config may be used for another model, and headers of tensors in memory would keep these.
        self.quantization_config.headers = None
        if headers is None:
            headers = _read_headers(checkpoint_files or [])
        if holds_experts(model, headers):
            replace_experts(model)
            self._experts_are_split = True
        layers = find_layers(model, headers, settings)
        _check_rest(model, headers)
        for name, layer in layers.items():
            dtype = next(model.get_submodule(name).parameters()).dtype
            model.set_submodule(name, layer.build(settings, dtype))
            parent = model.get_submodule(name.rpartition(".")[0])
            if not (list(parent.parameters(recurse=False)) or list(parent.buffers(recurse=False))):
                # Some (GPT-2) would start values for the `weight` of their layers.
                parent._is_hf_initialized = True  # noqa: SLF001
        # For as long as weights are read: of a quantized file, 5.15 leaves all that it renames in the type of the file.
        self.pre_quantized = hasattr(HfQuantizer, "get_new_dtype")

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from qtoolkit.kernels import QuantizedLinear
        from qtoolkit.stream.products import multiply_fast

        self.pre_quantized = True
        multiply_fast(model)
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear) and not module.qzeros.is_meta:
                _finish(name, module)

    def update_weight_conversions(self, weight_conversions: list[Any], *args: Any) -> list[Any]:
        from qtoolkit.models.experts import merges_experts

        kept = [entry for entry in weight_conversions if not (self._experts_are_split and merges_experts(entry))]
        return super().update_weight_conversions(kept, *args)  # type: ignore[no-any-return]

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    _experts_are_split = False


def holds_experts(model: PreTrainedModel, headers: Mapping[str, Any]) -> bool:
    """Whether a file holds experts quantized one by one that the model keeps in large tensors."""
    from qtoolkit.formats.gptq.checkpoint import module_names, quantized_names
    from qtoolkit.models.experts import find_experts

    # A file may have been written without the prefix of the base model.
    prefix = f"{model.base_model_prefix}."
    experts = tuple(f"{name.removeprefix(prefix)}." for name in find_experts(model))
    names = module_names(model, quantized_names(headers))
    return any(name.removeprefix(prefix).startswith(experts) for name in names.values())


def register() -> None:
    """Let transformers read GPTQ checkpoints where the packages that it asks for are missing; once is enough."""
    names = [OWN_QUANT_METHOD]
    if not (is_installed("optimum") and is_installed("gptqmodel")):
        names.append(QUANT_METHOD)
    for name in names:
        AUTO_QUANTIZATION_CONFIG_MAPPING[name] = GPTQConfig
        AUTO_QUANTIZER_MAPPING[name] = GPTQQuantizer


def _read_headers(files: list[str]) -> dict[str, Any]:
    from qtoolkit.checkpoints.safetensors import read_tensors

    headers: dict[str, Any] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            raise UnsafeCheckpointError(f"{file} is pickled, and unpickling runs code: ask its author for safetensors")
        headers.update(read_tensors(Path(file)))
    return headers


def _check_rest(model: PreTrainedModel, headers: Mapping[str, Any]) -> None:
    """Refuse weights that are not quantized and have another shape than the model's; some versions would take them."""
    from qtoolkit.formats.gptq.checkpoint import module_names

    state = model.state_dict()
    weights = [key.removesuffix(".weight") for key in headers if key.endswith(".weight")]
    for stored, name in module_names(model, weights).items():
        expected, found = state.get(f"{name}.weight"), tuple(headers[f"{stored}.weight"].shape)
        if expected is not None and tuple(expected.shape) != found:
            raise CheckpointError(
                f"{stored}.weight has the shape {list(found)}: its config wants {list(expected.shape)}"
            )


def _finish(name: str, layer: Any) -> None:
    """Check the values of a layer that was read, and make it ready."""
    groups = len(layer.scales)
    if "g_idx" in layer._non_persistent_buffers_set:  # noqa: SLF001
        places = torch.arange(layer.in_features, device=layer.qzeros.device)
        layer.g_idx = (places // layer.stored.inputs_per_scale).to(torch.int32)
    elif not ((layer.g_idx >= 0).all() and (layer.g_idx < groups).all()):
        low, high = layer.g_idx.min().item(), layer.g_idx.max().item()
        raise CheckpointError(
            f"{name}.g_idx names groups {low} to {high} of {groups}: name another checkpoint of the model"
        )
    if not layer.scales.isfinite().all():
        raise CheckpointError(f"{name}.scales holds NaN or infinity: name another checkpoint of the model")
    layer.prepare()
