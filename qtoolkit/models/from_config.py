"""Open a transformers config alone, for a plan: a model without weights."""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from qtoolkit.checkpoints.config_limits import check_numbers
from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.models.building import build_empty, cause_of
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.dtypes import dtype_to_load
from qtoolkit.noted import Noted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def open_config(config: "PreTrainedConfig") -> Checkpoint:
    """Open a config: its weights are those that its class makes, in the type that it names, float16 where none.

    Raises:
        CheckpointError: it names more of something than any model has, or a type that no model computes in.
        UnsupportedModelError: no causal language model in full precision is made from it.
    """
    kind = type(config).__name__
    if config.is_encoder_decoder or getattr(config, "quantization_config", None):
        raise UnsupportedModelError(f"this {kind} is of no causal language model in full precision: give one that is")
    dtype = torch.float16 if config.dtype is None else dtype_to_load(f"this {kind}", config, {})
    # A copy, since kernels of the Hub that it names are left out, and a type that is text is replaced.
    config = copy.deepcopy(config)
    if config.dtype is not None:
        config.dtype = dtype
    checkpoint = Checkpoint(name=kind, config=config, tensors={}, dtype=dtype, format="config")
    try:
        check_numbers(f"this {kind}", config.to_dict())
        config._attn_implementation = config._experts_implementation = None  # noqa: SLF001  # as `attn_implementation=`
        model = build_empty(checkpoint, dtype)
    except CheckpointError:
        raise
    except Exception as error:  # a config that lies makes transformers raise anything
        raise UnsupportedModelError(f"no causal language model is made from this {kind} ({cause_of(error)})") from error
    count = sum(parameter.numel() for parameter in model.parameters())
    tied = model.all_tied_weights_keys
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    return replace(
        checkpoint,
        name=config.name_or_path or f"{kind} of {count / 1e9:.2f} billion parameters",
        tensors=tensors,
        disk_size=sum(tensor.nbytes for tensor in tensors.values()),
        notes=(f"planned from a {kind} alone, in {str(dtype).removeprefix('torch.')}, without weights",),
        _built=[Noted(model.eval())],
    )
