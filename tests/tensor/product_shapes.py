"""Note the shapes in which torch multiplies, which is what oneDNN compiles and keeps something for."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class ProductShapes(TorchDispatchMode):
    """Note the shapes of the factors of all products of matrices in bfloat16.

    Attributes:
        seen: the inputs and the weight of each product, with the bias before them where there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.Size, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.linear.default):
            factors = [arg for arg in args if torch.is_tensor(arg) and arg.dtype == torch.bfloat16]
            self.seen |= {tuple(factor.shape for factor in factors)} if factors else set()
        return func(*args, **(kwargs or {}))
