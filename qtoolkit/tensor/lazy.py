"""Tensors that are made when they are read, so that a state can be written without being whole in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape and type are known, and whose values are made each time it is indexed.

    Attributes:
        shape: its shape.
        dtype: its torch type.
        make: gives the whole tensor.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Its length in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Make the whole tensor, then index it."""
        return self.make()[index]


class LazyState(dict[str, torch.Tensor | LazyTensor]):
    """A destination of `nn.Module.state_dict` that says: what has to be made may come as a `LazyTensor`."""
