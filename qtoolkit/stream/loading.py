"""A model built by transformers from weights that are read one by one, and quantized as they come.

transformers builds the modules, renames and merges tensors (experts, fused projections), ties weights and makes the buffers;
it is given tensors that are read when they are asked for, so that one full-precision weight at a time is in memory.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from qtoolkit.errors import CheckpointError
from qtoolkit.records import ProgressEvent
from qtoolkit.source import Checkpoint
from qtoolkit.source.opening import OnProgress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_streamed(
    checkpoint: Checkpoint, quantization_config: Any, *, device: str, on_progress: OnProgress
) -> "PreTrainedModel":
    """Build the checkpoint's model on `device`, each weight being quantized, or put in place, as soon as it is read.

    Args:
        checkpoint: the model; its `dtype` is that of what is not quantized.
        quantization_config: what transformers calls by this name: it says which modules are replaced by what; None when the
            checkpoint is to be loaded as it is, in full precision or quantized already.
        device: "cpu" or "cuda:0".
        on_progress: told of each weight, in bytes of full precision.

    Raises:
        CheckpointError: weights of the model are missing in the checkpoint, or have other shapes.
    """
    total, done = checkpoint.weight_bytes, 0

    def on_read(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        on_progress(ProgressEvent("quantize", done, total, "bytes"))

    with quiet_transformers():
        model, info = _model_class(checkpoint).from_pretrained(
            None,
            config=checkpoint.config,
            state_dict=checkpoint.hand_over(on_read),
            quantization_config=quantization_config,
            device_map={"": device},
            dtype=checkpoint.dtype,
            output_loading_info=True,
        )
    _check_complete(checkpoint.name, info)
    on_progress(ProgressEvent("quantize", total, total, "bytes"))
    if checkpoint.generation_config is not None:
        model.generation_config = checkpoint.generation_config
    model.config.name_or_path = checkpoint.name
    return model  # type: ignore[no-any-return]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers without its own progress bars and loading tables; both settings are put back afterwards."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _model_class(checkpoint: Checkpoint) -> Any:
    if checkpoint.format == "loaded":
        return type(checkpoint.skeleton)
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(checkpoint.config)]


def _check_complete(name: str, info: Mapping[str, Any]) -> None:
    """transformers fills missing weights with random numbers and says so in a log; here that is an error."""
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"], key=str)
    if missing:
        raise CheckpointError(f"{name} has no weights for {missing[0]} and {len(missing) - 1} more: download it again")
    if mismatched:
        key, found, expected = mismatched[0]
        raise CheckpointError(f"{name} has {key} as {list(found)}, but its config wants {list(expected)}")
    if info["error_msgs"]:
        raise CheckpointError(f"{name} does not load: {str(info['error_msgs'][0]).splitlines()[0]}")


def compute_dtype_for(device: str, stored: torch.dtype) -> torch.dtype:
    """The type to compute in: the stored one, unless the device lacks it.

    A T4 (compute capability 7.5) has no bfloat16, so float16 there; float32 stays.
    """
    if stored == torch.bfloat16 and device.startswith("cuda") and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.float16
    return stored
