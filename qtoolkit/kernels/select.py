"""Which kernel multiplies with which codes: the one place that chooses."""

from functools import cache
from importlib.metadata import EntryPoint

import torch

from qtoolkit.kernels import int8_rows, packed_int4
from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors, stored_bytes
from qtoolkit.optional import brought

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
    where = torch.device(device)
    kernel = _kernel_for(stored, where)
    if kernel is None:
        return stored_bytes(stored)
    kept = stored_bytes(stored) - stored_bytes(stored, stored.packed_names)
    return kept + kernel.packed_bytes(stored, where) + 4 * stored.in_features * reordered


def _kernel_for(weight: Codes | StoredTensors, device: torch.device) -> Kernel | None:
    entries = (entry for entries in brought(ENTRY_POINT_GROUP).values() for entry in entries)
    kernels = (*map(_loaded, entries), *_OWN)
    return next((kernel for kernel in kernels if kernel.takes(weight, device)), None)


@cache
def _loaded(entry: EntryPoint) -> Kernel:
    kernel = entry.load()
    assert isinstance(kernel, Kernel)
    return kernel
