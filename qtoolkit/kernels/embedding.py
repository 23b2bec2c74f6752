"""An embedding that holds integer codes instead of its weight, and an output head that shares them."""

from typing import Self

import torch
from torch import nn

from qtoolkit.kernels.codes import StoredTensors
from qtoolkit.kernels.linear import QuantizedLinear


class QuantizedEmbedding(QuantizedLinear):
    """Look up rows of W[num_embeddings, embedding_dim], which is held as the tensors that store it in a file.

    Only the rows that are asked for are dequantized. The codes are packed for a kernel only where an output head
    multiplies with the same ones (`TiedHead`).

    Args:
        stored: how the format stores the weight, its rows as outputs.
        dtype: type of the rows that are returned; torch's default type when None.
        device: as for `QuantizedLinear`.
        tied: whether an output head shares the codes.
        factor: what rows are multiplied by, as Gemma's embedding does; None for nothing.
    """

    def __init__(
        self,
        stored: StoredTensors,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        tied: bool = False,
        factor: float | None = None,
    ) -> None:
        super().__init__(stored, bias=False, dtype=dtype, device=device)
        self.num_embeddings = stored.out_features
        self.embedding_dim = stored.in_features
        self.tied = tied
        self.factor = factor
        # Only its type counts, which `.to(dtype)` changes; it is as large as the tensor of the factor that it replaces.
        like = torch.empty(int(factor is not None), dtype=dtype, device=device)
        self.register_buffer("rows_like", like, persistent=False)

    def prepare(self) -> Self:
        """See `QuantizedLinear`: without effect where no output head multiplies with the codes."""
        return super().prepare() if self.tied else self

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of ids[...], [..., embedding_dim].

        Raises:
            IndexError: an id that there is not; on a GPU, the driver tells it later.
        """
        if ids.device.type == "cpu" and ids.numel():
            low, high = torch.aminmax(ids)
            if low < 0 or high >= self.num_embeddings:
                raise IndexError(f"ids must lie between 0 and {self.num_embeddings - 1}, got {low} to {high}")
        like = self.get_buffer("rows_like")
        rows = self._codes(prepare=self.tied).rows_of(ids.flatten(), like.dtype)
        if self.factor is not None:
            rows = rows * torch.tensor(self.factor, dtype=like.dtype, device=rows.device)
        return rows.view(*ids.shape, self.embedding_dim)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., embedding_dim] -> x W^T [..., num_embeddings]."""
        return super().forward(x)


class TiedHead(nn.Module):
    """Compute y = x W^T with the codes of an embedding, which alone holds, saves and moves them.

    Args:
        embedding: the embedding.
    """

    def __init__(self, embedding: QuantizedEmbedding) -> None:
        super().__init__()
        self.in_features = embedding.embedding_dim
        self.out_features = embedding.num_embeddings
        # In a tuple it is no child of this module, whose tensors would be saved a second time.
        self._shared = (embedding,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute x[..., in_features] -> [..., out_features]."""
        return self._shared[0].project(x)

    def extra_repr(self) -> str:
        """Return the shape, for `print(model)`."""
        return f"in_features={self.in_features}, out_features={self.out_features}, tied to the embedding"
