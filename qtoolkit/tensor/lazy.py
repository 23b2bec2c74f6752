"""Tensors that are computed when they are read, so that a state dict can be saved without being in memory at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape and type are known, and whose values are computed each time it is indexed.

    Attributes:
        shape: its shape.
        dtype: its torch type.
        make: returns the whole tensor.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Return its size in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Compute the whole tensor, then index it."""
        return self.make()[index]


class LazyState(dict[str, torch.Tensor | LazyTensor]):
    """A destination for `nn.Module.state_dict` in which tensors that must be computed may be a `LazyTensor`."""
