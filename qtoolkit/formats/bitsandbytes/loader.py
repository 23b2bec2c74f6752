"""Load experts that are layers in files of bitsandbytes by transformers, which has no place for them.

Each expert is three layers in a 4-bit file, as transformers 4 stored mixtures: `experts.0.w1.weight` and what describes
it. transformers 5 holds all experts of a block in two tensors, which bitsandbytes does not quantize. Those of Llama 4
it reads as layers, in 8 bits too, but does not write.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    """The config of a model in full precision whose experts are split as it is read, and quantized but for some."""


class StoredExpertsConfig(ExpertsConfig):
    """The config of a checkpoint that holds its experts quantized, whose tensors are given without a path.

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

    def _process_model_after_weight_loading(self, model: "PreTrainedModel", **kwargs: Any) -> "PreTrainedModel":
        if isinstance(self.quantization_config, ExpertsConfig):
            self.quantization_config = BitsAndBytesConfig.from_dict(self.quantization_config.to_dict())
            model.config.quantization_config = self.quantization_config
        return super()._process_model_after_weight_loading(model, **kwargs)  # type: ignore[no-any-return]


class Quantizer8bit(_ExpertsQuantizer, Bnb8BitHfQuantizer):  # type: ignore[misc]
    """transformers' quantizer, which splits those experts of a model in full precision that it reads split later."""

    def _process_model_before_weight_loading(self, model: "PreTrainedModel", device_map: Any, **kwargs: Any) -> None:
        if isinstance(self.quantization_config, ExpertsConfig):
            self._convert_model_for_quantization(model)
        super()._process_model_before_weight_loading(model, device_map, **kwargs)


class Quantizer4bit(SplittingQuantizer, _ExpertsQuantizer, Bnb4BitHfQuantizer):  # type: ignore[misc]
    """transformers' quantizer, which splits experts too where a config or the file asks for it."""

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if isinstance(quantization_config, StoredExpertsConfig):
            self.pre_quantized = True

    def _process_model_before_weight_loading(
        self, model: "PreTrainedModel", device_map: Any, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        config = self.quantization_config
        if isinstance(config, ExpertsConfig) and not self.pre_quantized:
            self.split_experts(model, None)
        elif self.pre_quantized:
            headers = config.headers if isinstance(config, StoredExpertsConfig) else _headers(checkpoint_files or [])
            experts = experts_of(model, quantized_names(headers)) if headers else []
            if experts:
                self.split_experts(model, experts)
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
    """Return the names of a file's 4-bit layers: bitsandbytes stores the codes of a weight as one column."""
    return [
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and tensor.shape[1] == 1
    ]


def load_checkpoint(checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of a 4-bit checkpoint, as `qtoolkit.formats.bitsandbytes.load_4bit` says."""
    from qtoolkit.records import ignore_progress
    from qtoolkit.stream.loading import load_streamed

    if not experts_of(checkpoint.skeleton, quantized_names(checkpoint.tensors)):
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
