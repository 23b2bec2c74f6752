"""A model built by transformers from weights that are read one by one, and quantized as they come.

transformers builds the modules, renames and merges tensors (experts, fused projections), ties weights and makes the
buffers; it is given tensors that are read when they are asked for, so that one full-precision weight at a time is in
memory.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.errors import CheckpointError, memory_cause
from qtoolkit.measure.malloc import GIVE_BACK_EVERY, give_memory_back
from qtoolkit.models import Checkpoint
from qtoolkit.models.building import cause_of, check_complete, using_transformers
from qtoolkit.noted import Noted
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.products import multiply_fast
from qtoolkit.tensor.processor import product_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_streamed(
    checkpoint: Checkpoint, quantization_config: Any, *, device: str, on_progress: OnProgress
) -> "Noted[PreTrainedModel]":
    """Build the checkpoint's model on `device`, each weight being quantized, or put in place, as soon as it is read.

    Args:
        checkpoint: the model; its `dtype` is that of what is not quantized.
        quantization_config: what transformers calls by this name: it says which modules are replaced by what; None when
            the checkpoint is to be loaded as it is, in full precision or quantized already.
        device: "cpu" or "cuda:0".
        on_progress: told of each weight, in bytes of full precision, and at the end; only at the end where nothing is
            to be quantized, since transformers reads in threads of its own then.

    Raises:
        CheckpointError: weights of the model are missing in the checkpoint, have other shapes, cannot be read, or hold
            NaN or infinity and are to be quantized.
        UnsupportedModelError: a loaded model that was changed after it was built.
        MemoryError: memory ran out, of whatever device.
    """
    # Not the checkpoint itself in `on_read`: a traceback that somebody keeps would keep its weights.
    model_name, total, done, given_back = checkpoint.name, checkpoint.weight_bytes, 0, 0
    lock, caller = threading.Lock(), threading.get_ident()

    def on_read(name: str, tensor: torch.Tensor) -> None:
        nonlocal done, given_back
        if quantization_config is not None:
            check_finite(model_name, name, tensor)
        with lock:
            done += tensor.nbytes
            if done - given_back > GIVE_BACK_EVERY:
                given_back = done
                give_memory_back()
        if threading.get_ident() == caller:
            on_progress(ProgressEvent("quantize", done, total, "bytes", name))

    model_class = type(checkpoint.skeleton)
    try:
        with using_transformers():
            model, info = model_class.from_pretrained(
                None,
                config=checkpoint.config,
                state_dict=checkpoint.hand_over(on_read),
                quantization_config=quantization_config,
                device_map={"": device},
                dtype=checkpoint.dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except RuntimeError as error:
        raise _explained(model_name, checkpoint.path, error) from error
    notes = check_complete(checkpoint, info)
    give_memory_back()
    on_progress(ProgressEvent("quantize", total, total, "bytes"))
    if checkpoint.generation_config is not None:
        model.generation_config = checkpoint.generation_config
    model.name_or_path = model.config.name_or_path = checkpoint.name
    _let_be_saved(model)
    multiply_fast(model)
    return Noted(model, notes)


def _let_be_saved(model: Any) -> None:
    """Forget conversions that saving could not undo: how bitsandbytes' tensors were read, which it saves as they were.

    Left in, `save_pretrained` of transformers 5 raises NotImplementedError.
    """
    conversions = getattr(model, "_weight_conversions", None)
    if conversions:
        model._weight_conversions = [rule for rule in conversions if _can_be_undone(rule)]  # noqa: SLF001


def _can_be_undone(rule: Any) -> bool:
    try:
        rule.reverse_transform()
    except NotImplementedError:
        return False
    return True


def check_finite(model: str, name: str, tensor: torch.Tensor) -> None:
    """Refuse NaN and infinity: one such weight makes a whole block, or a whole layer, worthless.

    Raises:
        CheckpointError: the tensor `name` of `model` holds one.
    """
    if tensor.numel() and tensor.dtype in _FLOATS:
        low, high = torch.aminmax(tensor)
        if not (low.isfinite() and high.isfinite()):
            what = f"{name} of {model} holds NaN or infinity, so it cannot be quantized"
            raise CheckpointError(f"{what}: name another checkpoint or revision of the model")


def _explained(name: str, path: Path | None, error: RuntimeError) -> CheckpointError | MemoryError:
    cause = cause_of(error)
    if memory_cause(error) or memory_cause(RuntimeError(cause)):
        # What to do about it depends on the job, which knows.
        return MemoryError(cause)
    return CheckpointError(f"{name} does not load ({cause}): {sound_copy(path)}")


def compute_dtype_for(device: str, stored: torch.dtype) -> torch.dtype:
    """Return the type to compute in: the stored one, unless the device lacks it.

    A T4 (compute capability 7.5) has no bfloat16, so float16 there; float32 stays.
    """
    if stored == torch.bfloat16 and device.startswith("cuda") and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.float16
    return stored


def calibration_dtype(device: str, stored: torch.dtype) -> torch.dtype:
    """Return the type in which blocks run: the model's own, or float32 on a processor that multiplies it slowly."""
    return torch.float32 if device == "cpu" and stored == torch.float64 else product_dtype(stored, device)
