"""Keep calls of torch from a mode of ours that would change none of them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.overrides import TorchFunctionMode


def unseen_by(mode: type[TorchFunctionMode]) -> AbstractContextManager[object]:
    """Return a context whose calls a mode of this type does not see; one without effect where there are other modes.

    Each call that a mode sees takes two microseconds: a layer with one token takes a hundred, and GPTQ's solver makes
    five million calls for 210 layers.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_function_stack() != 1:  # noqa: SLF001
        return nullcontext()
    is_mine = isinstance(torch._C._get_function_stack_at(0), mode)  # noqa: SLF001
    return torch._C.DisableTorchFunction() if is_mine else nullcontext()  # noqa: SLF001
