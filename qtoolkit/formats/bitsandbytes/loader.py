"""Load layers of files of bitsandbytes by transformers, which has no place for them: those of experts, and Falcon's.

Each expert is three layers in a 4-bit file, as transformers 4 stored mixtures: `experts.0.w1.weight` and what describes
it. transformers 5 holds all experts of a block in two tensors, which bitsandbytes does not quantize. Those of Llama 4
it reads as layers, in 8 bits too, but does not write. Nor does it replace linear layers of a class of their own,
Falcon's, which become plain ones before.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer

from qtoolkit.formats.split_experts import SplittingQuantizer, experts_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted


class ExpertsConfig(BitsAndBytesConfig):  # type: ignore[misc]
    """The config of a model in full precision whose experts are split as it is read, and quantized but for some.

    Layers of a class of their own are quantized too.
    """


class StoredExpertsConfig(ExpertsConfig):
    """The config of a checkpoint that holds such layers quantized, whose tensors are given without a path.

    Attributes:
        headers: the tensors.
    """

    headers: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of the file, without `headers`."""
        plain = BitsAndBytesConfig()
        plain.__dict__.update({key: value for key, value in vars(self).items() if key != "headers"})
        return plain.to_dict()  # type: ignore[no-any-return]


class _ExpertsQuantizer(HfQuantizer):  # type: ignore[misc]
    """Base of both quantizers: once a model is read, its config is that of a checkpoint that anybody may read."""

    quantization_config: Any
    _dtypes: Mapping[str, "torch.dtype"]

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if isinstance(quantization_config, StoredExpertsConfig):
            self.pre_quantized = True

    def _process_model_before_weight_loading(self, model: "PreTrainedModel", *args: Any, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, *args, **kwargs)
        self._dtypes = {name: tensor.dtype for name, tensor in model.named_parameters() if tensor.is_floating_point()}

    def _process_model_after_weight_loading(self, model: "PreTrainedModel", **kwargs: Any) -> "PreTrainedModel":
        if isinstance(self.quantization_config, ExpertsConfig):
            self.quantization_config = BitsAndBytesConfig.from_dict(self.quantization_config.to_dict())
            model.config.quantization_config = self.quantization_config
        if self.pre_quantized:
            _convert_weights(model, self._dtypes)
        return super()._process_model_after_weight_loading(model, **kwargs)


def _convert_weights(model: "PreTrainedModel", dtypes: Mapping[str, "torch.dtype"]) -> None:
    """Give weights that are not quantized the types of the model that they were read into.

    transformers 5.23 hands each tensor that ends in "weight" to what assembles quantized ones, and gives none of these
    another type: a norm would have its weight in the type of the file and its bias in the one asked for.
    """
    exact = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]  # noqa: SLF001
    for name, parameter in model.named_parameters():
        wanted = dtypes.get(name)
        if wanted is None or not parameter.is_floating_point() or any(part in name for part in exact):
            continue
        parameter.data = parameter.data.to(wanted)


class Quantizer8bit(_ExpertsQuantizer, Bnb8BitHfQuantizer):  # type: ignore[misc]
    """transformers' quantizer, which splits those experts of a model in full precision that it reads split later."""

    def _process_model_before_weight_loading(
        self, model: "PreTrainedModel", device_map: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        config = self.quantization_config
        if isinstance(config, ExpertsConfig) and not self.pre_quantized:
            self._convert_model_for_quantization(model)
            make_plain(model, None)
        elif self.pre_quantized:
            headers = config.headers if isinstance(config, StoredExpertsConfig) else _headers(checkpoint_files or [])
            make_plain(model, quantized_names(headers))
        super()._process_model_before_weight_loading(model, device_map, checkpoint_files=checkpoint_files, **kwargs)


class Quantizer4bit(SplittingQuantizer, _ExpertsQuantizer, Bnb4BitHfQuantizer):  # type: ignore[misc]
    """transformers' quantizer, which splits experts too where a config or the file asks for it."""

    def _process_model_before_weight_loading(
        self, model: "PreTrainedModel", device_map: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        config = self.quantization_config
        if isinstance(config, ExpertsConfig) and not self.pre_quantized:
            self.split_experts(model, None)
            make_plain(model, None)
        elif self.pre_quantized:
            headers = config.headers if isinstance(config, StoredExpertsConfig) else _headers(checkpoint_files or [])
            stored = quantized_names(headers)
            experts = experts_of(model, stored) if headers else []
            if experts:
                self.split_experts(model, experts)
            make_plain(model, stored)
        super()._process_model_before_weight_loading(model, device_map, checkpoint_files=checkpoint_files, **kwargs)

    def _dequantize(self, model: "PreTrainedModel", *args: Any, **kwargs: Any) -> "PreTrainedModel":
        """See transformers; weights that bitsandbytes expands wrongly are expanded here."""
        from qtoolkit.formats.bitsandbytes.linear4bit import expanded, is_misread

        modules = ((name, getattr(module, "weight", None)) for name, module in model.named_modules())
        misread = {name: weight for name, weight in modules if is_misread(weight)}
        plain: PreTrainedModel = super()._dequantize(model, *args, **kwargs)
        for name, weight in misread.items():
            parameter = plain.get_submodule(name).weight
            parameter.data = expanded(weight).to(parameter.dtype)
        return plain


def quantized_names(tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of a file's layers: bitsandbytes stores 4-bit codes as one column, 8-bit ones beside scales."""
    return [
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2
        if tensor.shape[1] == 1 or f"{name.removesuffix('.weight')}.SCB" in tensors
    ]


def make_plain(model: "PreTrainedModel", stored: Sequence[str] | None) -> None:
    """Replace linear layers of a class of their own by plain ones, which bitsandbytes' then replace.

    Falcon's computes as a plain one does, but rounds once more before it adds a bias.

    Args:
        model: without values; is changed.
        stored: names in the file of its quantized layers; None for all layers.
    """
    for name in own_layers(model, stored):
        module = model.get_submodule(name)
        with torch.device("meta"):
            plain = torch.nn.Linear(module.in_features, module.out_features, module.bias is not None)
        model.set_submodule(name, plain.to(module.weight.dtype))


def own_layers(model: "PreTrainedModel", stored: Sequence[str] | None) -> list[str]:
    """Return the names of the linear layers of a class of their own, those alone that a file has quantized."""
    from qtoolkit.formats.stored_layer import module_names
    from qtoolkit.models.structure import has_own_class

    own = [name for name, module in model.named_modules() if has_own_class(module)]
    quantized = {*module_names(model, list(stored)).values()} if own and stored is not None else {*own}
    return [name for name in own if name in quantized]


def load_checkpoint(checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of a checkpoint, as `qtoolkit.formats.bitsandbytes.load_layers` says."""
    from qtoolkit.records import ignore_progress
    from qtoolkit.stream.loading import load_streamed

    stored = quantized_names(checkpoint.tensors)
    has_others = (checkpoint.quantization or {}).get("load_in_4bit") and experts_of(checkpoint.skeleton, stored)
    if not has_others and not own_layers(checkpoint.skeleton, stored):
        return load_streamed(checkpoint, None, device=device, on_progress=ignore_progress)
    assert checkpoint.quantization is not None
    # The skeleton is built: transformers takes the given config only where the model's own names none.
    config = copy.deepcopy(checkpoint.config)
    del config.quantization_config
    stored_as = StoredExpertsConfig.from_dict(checkpoint.quantization)
    stored_as.headers = checkpoint.tensors
    return load_streamed(replace(checkpoint, config=config), stored_as, device=device, on_progress=ignore_progress)


def register() -> None:
    """Let transformers read such checkpoints; idempotent."""
    AUTO_QUANTIZER_MAPPING.update({"bitsandbytes_4bit": Quantizer4bit, "bitsandbytes_8bit": Quantizer8bit})


def _headers(files: list[str]) -> Mapping[str, Any]:
    """Return the tensors of files by name, unread; none of pickled ones."""
    from qtoolkit.formats.stored_loader import read_headers

    return read_headers(files) if all(file.endswith(".safetensors") for file in files) else {}
