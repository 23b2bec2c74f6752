"""Resolve the device on which a job runs, and the type in which its model computes there."""

from dataclasses import replace

import torch

from qtoolkit.errors import ConfigError
from qtoolkit.measure.host import GGUF_IS_FASTER
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.records import THIS_MACHINE, Machine
from qtoolkit.stream.loading import compute_dtype_for
from qtoolkit.tensor.processor import product_dtype


def resolve_device(device: str, machine: Machine | None = None) -> str:
    """Return the name of a device, "cpu" or "cuda:0", with "auto" and "cuda" resolved.

    Args:
        device: as the user gave it.
        machine: the machine to plan for; None for this one.

    Raises:
        ConfigError: the machine has no such device.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if machine is not None:
        num_gpus = len(machine.vram)
    if device == "auto":
        return "cuda:0" if num_gpus else "cpu"
    allowed = ("cpu", *(f"cuda:{index}" for index in range(num_gpus)))
    name = "cuda:0" if device == "cuda" else str(device)
    if name not in allowed:
        where = machine.name if machine else "this machine"
        raise ConfigError(f"device must be one of auto, {', '.join(allowed)} on {where}, got {device!r}")
    return name


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the type of this name, "float16" or "torch.float16".

    Raises:
        ConfigError: no model computes in this type.
    """
    allowed = {str(kind).removeprefix("torch."): kind for kind in (torch.bfloat16, torch.float16, torch.float32)}
    name = str(dtype).removeprefix("torch.")
    if name not in allowed:
        raise ConfigError(f"dtype must be one of auto, {', '.join(allowed)}, got {dtype!r}")
    return allowed[name]


def adapt_dtype(checkpoint: Checkpoint, device: str, machine: Machine | None = None) -> Checkpoint:
    """Return the checkpoint in a type that the device has, with a note where that is another one, or is slow there.

    Args:
        checkpoint: the model.
        device: where it will live.
        machine: the machine to plan for; None for this one, which is asked itself.
    """
    profile = None if machine is None or machine.name == THIS_MACHINE else machine
    dtype = checkpoint.dtype
    if profile is None:
        dtype = compute_dtype_for(device, dtype)
    elif dtype == torch.bfloat16 and device != "cpu" and not profile.has_bfloat16:
        dtype = torch.float16
    notes = []
    if dtype != checkpoint.dtype:
        notes.append(f"loaded in {dtype} instead of {checkpoint.dtype}, which {device} does not have")
    if profile is None and product_dtype(dtype, device) != dtype:
        gguf = f": {GGUF_IS_FASTER}" if dtype == torch.bfloat16 else ""
        notes.append(f"multiplied in float32, since this processor is slow in {dtype}{gguf}")
    return replace(checkpoint, dtype=dtype).with_notes(*notes)
