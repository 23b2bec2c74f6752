"""Load a model with transformers, reading weights one by one and quantizing each as it is read.

transformers builds the modules, renames and merges tensors (experts, fused projections), ties weights and makes the
buffers; it gets lazy tensors that are read on access, so that only one full-precision weight at a time is in memory.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError, memory_cause
from qtoolkit.measure.malloc import GIVE_BACK_EVERY, give_memory_back
from qtoolkit.models.building import cause_of, check_complete, failed_in_quantizing, using_transformers
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.dtypes import FLOATS
from qtoolkit.models.renaming import splits_by_rows
from qtoolkit.noted import Noted
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.model_parts import ModelPart
from qtoolkit.stream.products import multiply_fast
from qtoolkit.tensor.processor import product_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_streamed(
    checkpoint: Checkpoint,
    quantization_config: Any,
    *,
    device: str,
    on_progress: OnProgress,
    part: ModelPart | None = None,
) -> "Noted[PreTrainedModel]":
    """Build the checkpoint's model on `device`; each weight is quantized, or put in place, as soon as it is read.

    Args:
        checkpoint: the model; its `dtype` is the type of what is not quantized.
        quantization_config: transformers' argument of this name, which replaces modules by quantized ones; None to load
            the checkpoint unchanged, in full precision or quantized already.
        device: "cpu" or "cuda:0".
        on_progress: called for each weight, in bytes of full precision, and at the end; without a quantization config
            only at the end, since transformers then reads in threads of its own.
        part: what is loaded, where it is not all; the checkpoint has its tensors alone, and the model no other modules.

    Raises:
        CheckpointError: weights of the model are missing in the checkpoint, have other shapes, cannot be read, or hold
            NaN or infinity and are to be quantized.
        UnsupportedModelError: a loaded model that was changed after it was built, or a weight that cannot be stored so.
        MemoryError: memory ran out, of whatever device.
    """
    # `on_read` must not refer to the checkpoint: a traceback that is stored somewhere would keep its weights in memory.
    model_name = checkpoint.name
    total = checkpoint.weight_bytes
    done = given_back = 0
    lock = threading.Lock()
    caller = threading.get_ident()

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

    model_class: Any = type(checkpoint.skeleton)
    if part is not None:
        model_class = part.class_of(model_class)
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
    if part is not None:
        info = part.without_others(model, info)
    notes = check_complete(checkpoint, info)
    let_go_of_rests(model)
    give_memory_back()
    on_progress(ProgressEvent("quantize", total, total, "bytes"))
    if checkpoint.generation_config is not None:
        model.generation_config = checkpoint.generation_config
    model.name_or_path = model.config.name_or_path = checkpoint.name
    _let_be_saved(model)
    multiply_fast(model)
    return Noted(model, notes)


def let_go_of_rests(model: nn.Module) -> None:
    """Copy parameters that are parts of a larger tensor, where the model has no use for all the rest of it.

    Of a weight that a file holds for queries, keys and values, transformers reorders two and leaves the third a view:
    the tower of Kimi K2.5 would keep the other two twice.

    Args:
        model: whose parameters are changed in place.
    """
    parts: dict[int, dict[int, nn.Parameter]] = {}
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and not parameter.is_meta:
            parts.setdefault(parameter.untyped_storage().data_ptr(), {})[parameter.data_ptr()] = parameter
    for views in parts.values():
        used = sum(parameter.nbytes for parameter in views.values())
        if used < next(iter(views.values())).untyped_storage().nbytes():
            for parameter in views.values():
                parameter.data = parameter.data.clone()


def _let_be_saved(model: "PreTrainedModel") -> None:
    """Remove weight conversions that saving cannot reverse, such as those of bitsandbytes' tensors, saved unchanged.

    With them, `save_pretrained` of transformers 5 raises NotImplementedError. Nor can codes of several layers be
    one tensor.
    """
    conversions = getattr(model, "_weight_conversions", None)
    if conversions:
        is_quantized = getattr(model, "hf_quantizer", None) is not None
        kept = (rule for rule in conversions if not (is_quantized and splits_by_rows(rule)))
        model._weight_conversions = [rule for rule in kept if _is_reversible(rule)]  # noqa: SLF001


def _is_reversible(rule: Any) -> bool:
    try:
        rule.reverse_transform()
    except NotImplementedError:
        return False
    return True


def check_finite(model: str, name: str, tensor: torch.Tensor) -> None:
    """Refuse NaN and infinity: one such weight ruins a whole layer, or a whole block.

    Raises:
        CheckpointError: the tensor `name` of `model` holds one.
    """
    if tensor.numel() and tensor.dtype in FLOATS and not tensor.is_meta:
        low, high = torch.aminmax(tensor)
        if not (low.isfinite() and high.isfinite()):
            raise CheckpointError(
                f"{name} of {model} holds NaN or infinity, which ruins a whole layer: name another checkpoint or "
                "revision of the model"
            )


def _explained(name: str, path: Path | None, error: RuntimeError) -> SourceError | MemoryError:
    """Return transformers' error as one of ours."""
    cause = cause_of(error)
    if memory_cause(error) or memory_cause(RuntimeError(cause)):
        # The job, which catches this, knows what to advise.
        return MemoryError(cause)
    if failed_in_quantizing(error):
        return UnsupportedModelError(
            f"{name} cannot be quantized so ({cause}): exclude this layer, or name another format or method"
        )
    return CheckpointError(f"{name} does not load ({cause}): {sound_copy(path)}")


def compute_dtype_for(device: str, stored: torch.dtype) -> torch.dtype:
    """Return the type to compute in: the stored one, or float16 for bfloat16 on a GPU that lacks it.

    GPUs below compute capability 8.0, such as a T4 (7.5), have no bfloat16.
    """
    if stored == torch.bfloat16 and device.startswith("cuda") and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.float16
    return stored


def calibration_dtype(device: str, stored: torch.dtype) -> torch.dtype:
    """Return the type in which blocks run: the model's own, or float32 on a processor that is slow in that type."""
    return torch.float32 if device == "cpu" and stored == torch.float64 else product_dtype(stored, device)
