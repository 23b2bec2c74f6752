"""A GPTQ weight as a checkpoint stores it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from qtoolkit.modules.gptq_format import expand, in_order, unpack_zero_points
from qtoolkit.modules.gptq_prepared import PreparedWeight, layout_of
from qtoolkit.tensor import unpack_words


@dataclass(frozen=True)
class StoredWeight:
    """The tensors of a checkpoint that stand for one weight W[out, in], as `GPTQLinear` describes them.

    Attributes:
        qweight, qzeros, scales, g_idx: the tensors.
        bits, group_size, checkpoint_format: how they are to be read.
    """

    qweight: torch.Tensor
    qzeros: torch.Tensor
    scales: torch.Tensor
    g_idx: torch.Tensor
    bits: int
    group_size: int
    checkpoint_format: str

    @property
    def order(self) -> None:
        """As that of a `PreparedWeight`: the inputs stand as they are given."""

    def blocks(self, columns: Iterable[slice], dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """W^T by blocks of outputs: which, and their weights in `dtype` [in, outputs]."""
        groups = self.g_idx
        # Equal groups in their order need no index.
        equal = len(groups) % self.group_size == 0 and (groups.is_meta or in_order(groups, self.group_size))
        zero_points = self._zero_points()
        for part in columns:
            codes = unpack_words(self.qweight[:, part], self.bits)
            yield part, expand(codes, self.scales[:, part], zero_points[:, part], None if equal else groups, dtype)

    def prepared(self, columns: Iterable[slice]) -> PreparedWeight | None:
        """The same weight in the layout in which it computes fastest on its device; None where it has none.

        Args:
            columns: blocks of outputs to work on, which are all of them together.
        """
        in_features, out_features = len(self.g_idx), self.qweight.shape[1]
        layout = layout_of(self.bits, in_features, out_features, self.group_size, self.qzeros.device)
        if layout is None or self.scales.is_meta or not self.scales.isfinite().all():
            return None
        order = None
        if not in_order(self.g_idx, self.group_size):
            order = torch.argsort(self.g_idx, stable=True)
            if not in_order(self.g_idx[order], self.group_size):
                return None
        pieces = (unpack_words(self.qweight[:, part], self.bits) for part in columns)
        return PreparedWeight(
            pieces if order is None else (piece[order] for piece in pieces),
            self.scales,
            self._zero_points(),
            qzeros=self.qzeros,
            order=None if order is None else order.to(torch.int32),
            bits=self.bits,
            checkpoint_format=self.checkpoint_format,
            layout=layout,
            in_features=in_features,
        )

    def _zero_points(self) -> torch.Tensor:
        return unpack_zero_points(self.qzeros, self.bits, self.checkpoint_format)
