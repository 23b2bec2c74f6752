"""Where a job runs, and what its model computes in there."""

from dataclasses import replace

import torch

from qtoolkit.errors import ConfigError
from qtoolkit.models import Checkpoint
from qtoolkit.records import Machine
from qtoolkit.stream import compute_dtype_for
from qtoolkit.tensor.processor import product_dtype


def resolve_device(device: str, machine: Machine | None = None) -> str:
    """The device that "auto" or "cuda" stands for.

    Args:
        device: as the user gave it.
        machine: a machine that is planned for; None for this one.

    Raises:
        ConfigError: no such device there.
    """
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = here if machine is None else len(machine.vram)
    if device == "auto":
        return "cuda:0" if count else "cpu"
    allowed = ("cpu", *(f"cuda:{index}" for index in range(count)))
    name = "cuda:0" if device == "cuda" else str(device)
    if name not in allowed:
        where = machine.name if machine else "this machine"
        raise ConfigError(f"device must be one of auto, {', '.join(allowed)} on {where}, got {device!r}")
    return name


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The type that a name stands for.

    Raises:
        ConfigError: no type to compute in.
    """
    allowed = {str(kind).removeprefix("torch."): kind for kind in (torch.bfloat16, torch.float16, torch.float32)}
    name = str(dtype).removeprefix("torch.")
    if name not in allowed:
        raise ConfigError(f"dtype must be one of auto, {', '.join(allowed)}, got {dtype!r}")
    return allowed[name]


def refuse_below_one(**values: int) -> None:
    """Check numbers that must be at least 1.

    Raises:
        ConfigError: one is not.
    """
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def adapt_dtype(checkpoint: Checkpoint, device: str, machine: Machine | None = None) -> Checkpoint:
    """Return the checkpoint in a type that the device has, with a note where that is another one, or is slow there.

    A machine that is planned for says itself whether its GPU has bfloat16.
    """
    if machine is None:
        dtype = compute_dtype_for(device, checkpoint.dtype)
    else:
        lacks = checkpoint.dtype == torch.bfloat16 and device != "cpu" and not machine.has_bfloat16
        dtype = torch.float16 if lacks else checkpoint.dtype
    notes = []
    if dtype != checkpoint.dtype:
        notes.append(f"loaded in {dtype} instead of {checkpoint.dtype}, which {device} does not have")
    if machine is None and product_dtype(dtype, device) != dtype:
        notes.append(f"multiplied in float32, since this processor is slow in {dtype}")
    return replace(checkpoint, dtype=dtype).with_notes(*notes)
