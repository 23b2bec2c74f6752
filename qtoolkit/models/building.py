"""Build a model without values by transformers, and check that the weights fit its modules and shapes."""

import re
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.folder import holder_of
from qtoolkit.checkpoints.model_class import TEXT_CLASS, auto_class_of
from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError, oneline
from qtoolkit.models.empty_models import building_empty, uninitialized
from qtoolkit.models.foreign_codes import refuse_codes
from qtoolkit.noted import Noted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint

# Reentrant: building a model may build another one.
_BUILDING = threading.RLock()


def build_skeleton(checkpoint: "Checkpoint") -> "Noted[PreTrainedModel]":
    """Build the model on the meta device, once the names and shapes of its weights were found to fit it.

    The weights are checked by a rehearsal: transformers loads tensors of their names and shapes on the meta device,
    renames and merges them as it will later, and needs no memory for that, however wrong a config is. There is none for
    a quantized checkpoint, whose reader needs the tensors' values, and for one whose weights are expanded later.

    Raises:
        CheckpointError: no model can be built from the config, weights are missing or have other shapes.
        UnsupportedModelError: codes of a quantized model, or a loaded model that holds more, or less, than its class
            makes from its config.
    """
    try:
        notes: tuple[str, ...] = ()
        skeleton = build_empty(checkpoint, checkpoint.dtype)
        if checkpoint.quantization is None and checkpoint.expand is None:
            refuse_codes(checkpoint, skeleton)
            notes = _rehearse(checkpoint, type(skeleton))
    except SourceError:
        raise
    except Exception as error:  # a config that lies makes transformers raise anything
        what = f"no {checkpoint.config.model_type} model can be built from {checkpoint.name}"
        way = "set pad_token_id in config.json to a token of the model, or to null"
        way = way if "adding_idx" in str(error) else sound_copy(checkpoint.path)
        raise CheckpointError(f"{what} ({cause_of(error)}): {way}") from error
    return Noted(skeleton.eval(), notes)


def build_empty(checkpoint: "Checkpoint", dtype: torch.dtype) -> "PreTrainedModel":
    """Build the model on the meta device, unchecked; each call makes another.

    Its tensors have the types in which transformers loads them: some, such as what corrects a router's scores, are
    float32 in any model.
    """
    import transformers

    config = checkpoint.config
    with torch.device("meta"), using_transformers(), building_empty(checkpoint.name):
        if checkpoint.model_class is not None:
            model: PreTrainedModel = checkpoint.model_class._from_config(config, dtype=dtype)  # noqa: SLF001
        else:
            named = auto_class_of({"model_type": config.model_type, "architectures": config.architectures})
            auto_class = getattr(transformers, named or TEXT_CLASS)
            model = auto_class.from_config(config, dtype=dtype, trust_remote_code=False)
        _keep_types(model, model._get_dtype_plan(dtype))  # noqa: SLF001
    return model


def _keep_types(model: "PreTrainedModel", types: Mapping[str, torch.dtype]) -> None:
    """Give tensors the types in which transformers loads them whatever the type of the model.

    Args:
        model: on the meta device.
        types: patterns of tensors' names, as `build_glob_alternation` of transformers reads them, with their types.
    """
    patterns = {re.compile(pattern.replace("*", ".*")): dtype for pattern, dtype in types.items()}
    if not patterns:
        return
    stored = model.state_dict()
    for prefix, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):  # noqa: SLF001
            for name, tensor in tensors.items():
                full = f"{prefix}.{name}" if prefix else name
                dtype = next((dtype for pattern, dtype in patterns.items() if pattern.search(full)), None)
                if dtype is not None and tensor is not None and full in stored:
                    tensor.data = tensor.data.to(dtype)


def _rehearse(checkpoint: "Checkpoint", model_class: Any) -> tuple[str, ...]:
    """Load the names and shapes of the weights into a model class; returns and raises as `check_complete`."""
    empty = {
        name: torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="meta")
        for name, tensor in checkpoint.tensors.items()
    }
    with using_transformers(), building_empty(checkpoint.name):
        _, info = uninitialized(model_class).from_pretrained(
            None,
            config=checkpoint.config,
            state_dict=empty,
            device_map={"": "meta"},
            dtype=checkpoint.dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return check_complete(checkpoint, info)


def check_complete(checkpoint: "Checkpoint", info: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuse weights that are not those of the model, by the lists that transformers returns after loading.

    transformers fills missing weights with random numbers and logs that; here it is an error.

    Returns:
        A note of the weights that belong to nothing in the model, if there are any; without those that transformers
        knows to be of no use.

    Raises:
        CheckpointError: weights are missing, or have other shapes.
        UnsupportedModelError: a loaded model that holds more, or less, than its class makes from its config.
    """
    name = checkpoint.name
    missing = sorted(info["missing_keys"])
    surplus = sorted(info["unexpected_keys"])
    if checkpoint.format == "loaded" and (missing or surplus):
        raise UnsupportedModelError(
            f"{name} was changed after it was built ({(missing + surplus)[0]}): merge its adapters, or undo the change"
        )
    if missing:
        holder = holder_of(checkpoint.path, missing[0]) if checkpoint.path else None
        unnamed = f"{holder} holds some and the index does not name it: remove the index"
        way = unnamed if holder else sound_copy(checkpoint.path)
        raise CheckpointError(f"{name} has no weights for {_first(missing)}: {way}")
    if info["mismatched_keys"]:
        key, stored, expected = min(info["mismatched_keys"], key=str)
        raise CheckpointError(f"{name} has {key} as {list(stored)}, but its config wants {list(expected)}")
    return (f"weights that belong to nothing in the model are left out: {_first(surplus)}",) if surplus else ()


def cause_of(error: Exception) -> str:
    """Return in one line what went wrong while transformers loaded a model.

    transformers logs the errors of merging and quantizing tensors, and raises another one; so the first of them is
    looked up in the frame that raised.
    """
    name, lines = _first_conversion_error(error)
    # Its lines are a traceback, the message, and where that was raised.
    return f"{name}: {lines[-2]}" if lines else oneline(error)


def failed_in_quantizing(error: Exception) -> bool:
    """Check whether what went wrong while transformers loaded a model is that a weight could not be quantized."""
    _, lines = _first_conversion_error(error)
    return bool(lines) and "Quantize" in lines[-1]


def _first_conversion_error(error: Exception) -> tuple[str, list[str]]:
    """Return the name of a tensor and the lines that transformers logged of it; both empty without such an error."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        errors = getattr(frame.f_locals.get("loading_info"), "conversion_errors", None)
        if errors:
            name, text = next(iter(errors.items()))
            return name, text.splitlines()
    return "", []


def _first(names: list[str]) -> str:
    """Return the first name, with the number of the others."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


@contextmanager
def using_transformers() -> Iterator[None]:
    """Let one thread at a time use transformers, without its progress bars and loading tables.

    While transformers builds a model, it sets torch's default type for the whole process: of two threads at once, the
    second could restore what the first had set. A panel's plans and jobs run in threads.
    """
    from transformers.utils import logging as transformers_logging

    with _BUILDING:
        logger = transformers_logging.get_logger()
        level = logger.level
        # Not `disable_progress_bar`, which would change huggingface_hub's bars too.
        hook = transformers_logging.set_tqdm_hook(lambda bar, args, options: bar(*args, **{**options, "disable": True}))
        logger.setLevel(transformers_logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
            transformers_logging.set_tqdm_hook(hook)
