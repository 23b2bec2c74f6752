"""Choose the kernel for a weight: the only place that knows all kernels."""

from functools import cache
from importlib.metadata import EntryPoint

import torch

from qtoolkit.kernels import int8_groups, int8_rows, packed_int4
from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors, stored_bytes
from qtoolkit.optional import entry_points_in

ENTRY_POINT_GROUP = "qtoolkit.kernels"
# The first that supports a weight is used; kernels of other packages come before these.
_OWN: tuple[Kernel, ...] = (int8_rows.KERNEL, int8_groups.KERNEL, packed_int4.KERNEL)


def pack(codes: Codes) -> Codes | None:
    """Pack a weight for the fastest kernel on its device; return None where no kernel supports it.

    Another package brings a kernel with an entry point of the group `qtoolkit.kernels`:
    `name = "package.module:KERNEL"`.
    """
    if codes.device.type == "meta":
        return None
    kernel = _kernel_for(codes, codes.device)
    return None if kernel is None else kernel.pack(codes)


def memory_bytes(stored: StoredTensors, *, device: str, reordered: bool = False) -> int:
    """Return the bytes of a weight in memory once it is packed for a device; allocate nothing.

    Args:
        stored: how a file stores it.
        device: "cpu" or "cuda:0".
        reordered: whether the inputs of a group are not neighbours (`desc_act`).

    Raises:
        ValueError: the format cannot store such a weight; the message says why.
    """
    target = torch.device(device)
    kernel = _kernel_for(stored, target)
    if kernel is None:
        return stored_bytes(stored)
    not_packed = stored_bytes(stored) - stored_bytes(stored, stored.packed_names)
    return not_packed + kernel.packed_bytes(stored, target) + 4 * stored.in_features * reordered


def _kernel_for(weight: Codes | StoredTensors, device: torch.device) -> Kernel | None:
    """Return the first kernel that supports a weight on a device; None without one."""
    # What stores weights in other packages need not know of minima and floats.
    if getattr(weight, "has_minima", False) or getattr(weight, "holds_floats", False):
        return None
    entries = (entry for entries in entry_points_in(ENTRY_POINT_GROUP).values() for entry in entries)
    kernels = (*map(_loaded, entries), *_OWN)
    return next((kernel for kernel in kernels if kernel.takes(weight, device)), None)


@cache
def _loaded(entry: EntryPoint) -> Kernel:
    """Import the kernel that an entry point names."""
    kernel = entry.load()
    assert isinstance(kernel, Kernel)
    return kernel
