"""Ask whether Triton's kernels may be used on a device: each is compared there with torch's operations, once."""

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache

import torch

from qtoolkit.errors import memory_cause, oneline


@cache
def runs_triton(device: torch.device, check: Callable[[torch.device], bool]) -> bool:
    """Return whether a kernel runs on a device, as `check` sees it; where it does not, a warning says why.

    Args:
        device: with an index where there are several. Other devices than CUDA's have no such kernel.
        check: runs the kernel on the device, and compares it with torch's operations. Without a C compiler, or on a
            card that it does not know, Triton raises errors of many kinds.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    try:
        runs = check(device)
        reason = "its results differ from torch's"
    except Exception as error:  # of Triton, LLVM, ptxas, the C compiler, or the driver
        if memory_cause(error):
            raise
        runs, reason = False, oneline(error)
    if not runs:
        what = f"{device} is used without Triton's kernels ({reason}), by torch's operations, which are slower"
        warnings.warn(what, RuntimeWarning, stacklevel=2)
    return runs
