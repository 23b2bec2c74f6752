"""Which kernel multiplies with which codes: the one place that chooses."""

import sys
from functools import lru_cache
from importlib.metadata import entry_points
from math import prod

import torch

from qtoolkit.kernels import int8_rows, packed_int4
from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors

ENTRY_POINT_GROUP = "qtoolkit.kernels"
# The first that takes a weight; those that other packages bring come before.
_OWN: tuple[Kernel, ...] = (int8_rows.KERNEL, packed_int4.KERNEL)


def pack(codes: Codes) -> Codes | None:
    """The same weight in the form in which it is multiplied with fastest on its device; None where that is its own.

    Another package brings a kernel with an entry point of the group `qtoolkit.kernels`:
    `name = "package.module:KERNEL"`.
    """
    if codes.device.type == "meta":
        return None
    kernel = _kernel_for(codes, codes.device)
    return None if kernel is None else kernel.pack(codes)


def memory_bytes(stored: StoredTensors, *, device: str, reordered: bool = False) -> int:
    """Bytes in memory of a weight once it is packed for a device; nothing is allocated.

    Args:
        stored: how a file stores it.
        device: where it lives.
        reordered: whether inputs of a group do not stand side by side.

    Raises:
        ValueError: no such weight can be stored; the message says why.
    """
    sizes = {name: prod(shape) * dtype.itemsize for name, (shape, dtype) in stored.tensors().items()}
    place = torch.device(device)
    kernel = _kernel_for(stored, place)
    if kernel is None:
        return sum(sizes.values())
    kept = sum(size for name, size in sizes.items() if name not in stored.packed_names)
    return kept + kernel.packed_bytes(stored, place) + 4 * stored.in_features * reordered


def _kernel_for(weight: Codes | StoredTensors, device: torch.device) -> Kernel | None:
    kernels = (*_brought(tuple(sys.path)), *_OWN)
    return next((kernel for kernel in kernels if kernel.takes(weight, device)), None)


@lru_cache(maxsize=1)
def _brought(path: tuple[str, ...]) -> tuple[Kernel, ...]:
    """Return the kernels of installed packages; looked for anew where packages are looked for elsewhere (`path`)."""
    return tuple(entry.load() for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name))
