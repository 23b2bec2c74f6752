"""Load checkpoints of formats that other programs define, by transformers' `from_pretrained` and our own layers.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

import copy
import re
from abc import abstractmethod
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qtoolkit.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError
from qtoolkit.formats.loader import LinearQuantizer, keep_values
from qtoolkit.formats.split_experts import experts_of

if TYPE_CHECKING:
    from qtoolkit.formats.stored_layer import StoredLayer
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted


# Of the private name that selects our quantizer even where a file's is registered to another.
OWN_PREFIX = "qtoolkit-"


class StoredConfig(QuantizationConfigMixin):
    """Base of the `quantization_config` of checkpoints that only name tensors, every key unchanged.

    A subclass has the name of transformers' own class, because `from_pretrained` compares the names of a given config
    and the file's. That class is not used: it drops unknown keys, adds others, and requires other packages.

    Attributes:
        file_method: the `quant_method` of such files.
        headers: the tensors of the file, where the loader is given no path to read them from.
    """

    file_method: ClassVar[str]
    headers: Mapping[str, Any] | None = None

    def __init__(self, **values: Any) -> None:
        self.quant_method = self.file_method
        self.__dict__.update(values)

    @classmethod
    def own_method(cls) -> str:
        """Return the private name that selects our quantizer even where the file's is registered to another."""
        return f"{OWN_PREFIX}{cls.file_method}"

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of the file, without `headers`."""
        return {name: copy.deepcopy(value) for name, value in vars(self).items() if name != "headers"}


class StoredQuantizer(LinearQuantizer):
    """Replace the layers that a checkpoint stores quantized by our own, and load their tensors.

    Attributes:
        instead: what to call instead of transformers with a model in full precision, a line.
    """

    instead: ClassVar[str]

    def __init__(self, quantization_config: Any, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if isinstance(quantization_config, StoredConfig):
            self.quantization_config.quant_method = quantization_config.file_method
            if quantization_config.headers is not None:
                # Our own loader, with the tensors of a quantized file.
                self.pre_quantized = True
        if not self.pre_quantized:
            raise UnsupportedModelError(self.instead)

    @abstractmethod
    def quantized_names(self, headers: Mapping[str, Any]) -> list[str]:
        """Return the names of a file's quantized layers from the names of its tensors."""

    @abstractmethod
    def find_layers(self, model: PreTrainedModel, headers: Mapping[str, Any]) -> "Mapping[str, StoredLayer]":
        """Return the quantized layers of a file by the names of the model's modules, checked."""

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        headers = self.quantization_config.headers
        # Removed once read: the config may be used for another model, and would keep tensors in memory alive.
        self.quantization_config.headers = None
        if headers is None:
            headers = read_headers(checkpoint_files or [])
        experts = experts_of(model, self.quantized_names(headers))
        if experts:
            self.split_experts(model, experts)
        layers = self.find_layers(model, headers)
        _check_other_weights(model, headers, layers)
        _name_what_keeps_its_type(model, layers)
        for name, layer in layers.items():
            dtype = next(model.get_submodule(name).parameters()).dtype
            model.set_submodule(name, layer.build(dtype))
        keep_values(model, layers)
        share_codes(model, layers)
        # While weights are read: of a file that counts as quantized, transformers 5.15 does not cast renamed tensors.
        self.pre_quantized = hasattr(HfQuantizer, "get_new_dtype")

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        self.pre_quantized = True
        super()._process_model_after_weight_loading(model, **kwargs)


def load_stored(
    checkpoint: "Checkpoint", config_class: type[StoredConfig], values: Mapping[str, Any], *, device: str
) -> "Noted[PreTrainedModel]":
    """Build the model of a checkpoint on `device` by the quantizer that is registered for `config_class`.

    Args:
        checkpoint: the model, whose tensors are those of the file.
        config_class: registered by `register_stored`.
        values: the `quantization_config`, which becomes that of the model unchanged.
        device: "cpu" or "cuda:0".
    """
    from qtoolkit.records import ignore_progress
    from qtoolkit.stream.loading import load_streamed

    # The skeleton is built while the config still says that its tensors are quantized, and not missing.
    assert checkpoint.skeleton is not None
    config = copy.deepcopy(checkpoint.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    stored_as = config_class(**{**values, "quant_method": config_class.own_method()})
    stored_as.headers = checkpoint.tensors
    return load_streamed(replace(checkpoint, config=config), stored_as, device=device, on_progress=ignore_progress)


def register_stored(
    config_class: type[StoredConfig], quantizer: type[StoredQuantizer], *, instead_of_transformers: bool
) -> None:
    """Register a format with transformers; idempotent.

    Args:
        config_class, quantizer: the format's.
        instead_of_transformers: also for its files, not only for our own loader.
    """
    names = [config_class.own_method(), *([config_class.file_method] if instead_of_transformers else [])]
    for name in names:
        AUTO_QUANTIZATION_CONFIG_MAPPING[name] = config_class
        AUTO_QUANTIZER_MAPPING[name] = quantizer


def share_codes(model: PreTrainedModel, layers: Container[str]) -> None:
    """Let the output head that is tied to a quantized embedding multiply with its codes.

    Args:
        model: the model, its quantized layers in place.
        layers: their names.
    """
    from qtoolkit.kernels import QuantizedEmbedding, TiedHead

    for target, source in list(model.all_tied_weights_keys.items()):
        name = source.removesuffix(".weight")
        if name in layers:
            embedding = model.get_submodule(name)
            assert isinstance(embedding, QuantizedEmbedding)
            model.set_submodule(target.removesuffix(".weight"), TiedHead(embedding))
            # No parameters are left to tie, here and when somebody calls `tie_weights`.
            del model.all_tied_weights_keys[target]
            model._tied_weights_keys = {}  # noqa: SLF001


def read_headers(files: list[str]) -> dict[str, Any]:
    """Return the tensors of safetensors files by name; refuse pickled files."""
    from qtoolkit.checkpoints.safetensors import read_tensors

    headers: dict[str, Any] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            raise UnsafeCheckpointError(f"{file} is pickled, and unpickling runs code: ask its author for safetensors")
        headers.update(read_tensors(Path(file)))
    return headers


def _name_what_keeps_its_type(model: PreTrainedModel, quantized: Container[str]) -> None:
    """Let a model name in full what stays float32 in any type: its patterns may fit tensors of quantized layers, too.

    HY-V4 keeps what has "scale" in its name, and is not meant to change the type of a layer's scales.

    Args:
        model: its layers not yet replaced.
        quantized: names of the layers that will be; one whose weight stays float32 keeps all its tensors so.
    """
    for attribute in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
        given = getattr(model, attribute, None) or ()
        patterns = [re.compile(pattern.replace("*", ".*")) for pattern in given]
        kept = [name for name in model.state_dict() if any(pattern.search(name) for pattern in patterns)]
        if given:
            owners = {name: name.rpartition(".")[0] for name in kept}
            full = [f"{owner}." if owner in quantized else name for name, owner in owners.items()]
            setattr(model, attribute, type(given)(full))


def _check_other_weights(model: PreTrainedModel, headers: Mapping[str, Any], quantized: Container[str]) -> None:
    """Refuse unquantized weights of another shape than the model's; some versions of transformers load them.

    Args:
        model: the model, its layers not yet replaced.
        headers: the tensors of the file.
        quantized: names of the modules whose codes a format may call "weight", too.
    """
    from qtoolkit.formats.stored_layer import module_names

    state = model.state_dict()
    weights = [key.removesuffix(".weight") for key in headers if key.endswith(".weight")]
    for stored, name in module_names(model, weights).items():
        expected = state.get(f"{name}.weight")
        shape = tuple(headers[f"{stored}.weight"].shape)
        if name not in quantized and expected is not None and tuple(expected.shape) != shape:
            raise CheckpointError(
                f"{stored}.weight has the shape {list(shape)}: its config wants {list(expected.shape)}"
            )
