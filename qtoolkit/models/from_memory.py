"""Open a model that transformers has loaded already."""

import copy
from typing import Any

import torch

from qtoolkit.checkpoints.adapters import refuse_adapted
from qtoolkit.errors import ModelNotFoundError, UnsupportedModelError
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.foreign_codes import refuse_packed
from qtoolkit.models.opening_notes import opening_notes
from qtoolkit.models.rescaling import refuse_rescaled
from qtoolkit.models.tokenizer import find_tokenizer


def open_loaded(model: Any, tokenizer: Any) -> Checkpoint:
    """Open a model in memory; it is read and left as it is.

    Args:
        model: a `PreTrainedModel` in full precision.
        tokenizer: its tokenizer; None to look for it where the model came from.

    Raises:
        ModelNotFoundError: something that is no model.
        UnsupportedModelError: a model that is quantized, offloaded, adapted, or no causal language model.
    """
    from transformers import PreTrainedModel

    name = type(model).__name__
    refuse_adapted(model)
    if isinstance(model, torch.nn.Module) and not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(f"a loaded model must be a PreTrainedModel of transformers, got the module {name}")
    if not isinstance(model, PreTrainedModel):
        raise ModelNotFoundError(f"a model is a Hub id, a folder, a .gguf file or a PreTrainedModel, got {name}")
    if getattr(model, "quantization_method", None) or getattr(model.config, "quantization_config", None):
        raise UnsupportedModelError(f"this {name} is quantized already: give the full-precision model")
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{name} is no causal language model: give one that AutoModelForCausalLM loads")
    refuse_rescaled(name, model)
    tensors = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    refuse_packed(name, tensors)
    if any(tensor.is_meta for tensor in tensors.values()):
        raise UnsupportedModelError(f"some weights of this {name} are offloaded: name its folder or Hub id instead")
    checkpoint = Checkpoint(
        name=model.name_or_path or name,
        config=model.config,
        tensors=tensors,
        dtype=model.dtype,
        format="loaded",
        tokenizer=tokenizer if tokenizer is not None else find_tokenizer(model.name_or_path),
        generation_config=copy.deepcopy(model.generation_config),
        model_class=type(model),
        checked="not checked: a model in memory",
    )
    return checkpoint.with_notes(*opening_notes(checkpoint))
