"""Sum up the Hessian of a layer's squared output error, H = X^T X (arXiv 2210.17323, section 3, without factor 2)."""

import torch

from qtoolkit.tensor.padded_rows import padded
from qtoolkit.tensor.processor import bfloat16_is_native

# Columns of one block of the product: wide enough for a fast product, narrow enough to skip nearly half of H.
_BLOCK = 256
# Inputs of one product.
TOKENS_AT_ONCE = 2048


class Hessian:
    """Sum x x^T over all inputs x of a layer, float32 [in, in], and count the inputs.

    The squared error of a layer's outputs under a change D of its weight is tr(D H D^T). A common factor of H changes
    neither the codes nor the order of columns, so that the sum is not divided by the number of inputs.

    H is symmetric: only blocks on and above its diagonal are computed, (n + 1) / 2n of the operations for n blocks, and
    `full` mirrors them. A CPU with bfloat16 instructions multiplies bfloat16 inputs directly, 2,048 at a time, and the
    products are added in float32: each is rounded to bfloat16, a relative error of 0.001 (the diagonal is computed
    separately, exactly). As an estimate from n inputs, H has an error of 1 / sqrt(n), 0.008 for 16,384.

    Args:
        in_features: size of an input.
        device: device of the sum.

    Example: two inputs (1, 2) and (3, 4) give [[1 + 9, 2 + 12], [2 + 12, 4 + 16]].

        >>> hessian = Hessian(2, torch.device("cpu"))
        >>> hessian.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> hessian.full().tolist(), hessian.num_inputs
        ([[10.0, 14.0], [14.0, 20.0]], 2)
    """

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.num_inputs = 0
        self._sum = torch.zeros(in_features, in_features, device=device)

    def add(self, inputs: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add X^T X of inputs X[..., in], any floating type; with weights w, X^T diag(w) X.

        Args:
            inputs: X.
            weights: one for each input, not negative, float32 [tokens].
        """
        # [..., in] -> [tokens, in]
        x = inputs.detach().reshape(-1, inputs.shape[-1]).to(self._sum.device)
        self.num_inputs += len(x)
        for start in range(0, len(x), TOKENS_AT_ONCE):
            some = slice(start, start + TOKENS_AT_ONCE)
            part = x[some] if weights is None else weighed(x[some], weights[some].sqrt())
            if part.dtype == torch.bfloat16 and x.device.type == "cpu" and bfloat16_is_native():
                self._add_rounded(part)
            elif part.dtype in (torch.bfloat16, torch.float16) and x.device.type == "cuda":
                # Exact: products of two such numbers fit into float32.
                self._sum += torch.mm(part.T, part, out_dtype=torch.float32)
            else:
                self._add_exact(part.float())

    def _add_exact(self, x: torch.Tensor) -> None:
        """Add X^T X of float32 inputs [tokens, in], blocks on and above the diagonal."""
        for start in range(0, x.shape[1], _BLOCK):
            columns = slice(start, start + _BLOCK)
            self._sum[columns, start:].addmm_(x[:, columns].T, x[:, start:])

    def _add_rounded(self, x: torch.Tensor) -> None:
        """Add X^T X of bfloat16 inputs [tokens, in], rounded to bfloat16 outside of the diagonal."""
        diagonal = self._sum.diagonal() + x.float().square_().sum(0)
        x = padded(x)  # [tokens, in] -> [padded tokens, in]
        for start in range(0, x.shape[1], _BLOCK):
            columns = slice(start, start + _BLOCK)
            self._sum[columns, start:] += x[:, columns].T @ x[:, start:]
        self._sum.diagonal().copy_(diagonal)

    def lean_on(self, inputs: torch.Tensor, count: int) -> None:
        """Blend with the Hessian of other inputs, as if `count` inputs with their mean of x x^T had been added.

        Let S be the mean of x x^T over n inputs, and S' that over the other ones. With an inverse Wishart prior of mean
        S' that weighs as much as k inputs, the expected mean over all inputs that could come is (n S + k S') / (n + k)
        (Gelman et al., Bayesian Data Analysis, 3.6, for large n + k). The sum is that times n + k, and a factor changes
        nothing. `num_inputs` stays.

        Args:
            inputs: x'[..., in], one or more.
            count: k.

        Example: one input (2, 0); other ones have the mean [[1, 0], [0, 1]], which counts as two inputs.

            >>> hessian = Hessian(2, torch.device("cpu"))
            >>> hessian.add(torch.tensor([[2.0, 0.0]]))
            >>> hessian.lean_on(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), 2)
            >>> hessian.full().tolist(), hessian.num_inputs
            ([[6.0, 0.0], [0.0, 2.0]], 1)
        """
        seen = self.num_inputs
        others = inputs.numel() // inputs.shape[-1]
        self.add(inputs, torch.full((others,), count / others, device=inputs.device))
        self.num_inputs = seen

    def sums(self) -> dict[str, torch.Tensor]:
        """Return the sum and the count, which `add_sums` adds to those of other inputs."""
        return {"hessian": self._sum, "num_inputs": torch.tensor(self.num_inputs)}

    def add_sums(self, hessian: torch.Tensor, num_inputs: int) -> None:
        """Add what `sums` returned of other inputs.

        Example: the sums of (1, 2) and of (3, 4) are together those of both.

            >>> one, other = Hessian(2, torch.device("cpu")), Hessian(2, torch.device("cpu"))
            >>> one.add(torch.tensor([[1.0, 2.0]]))
            >>> other.add(torch.tensor([[3.0, 4.0]]))
            >>> one.add_sums(other.sums()["hessian"], 1)
            >>> one.full().tolist(), one.num_inputs
            ([[10.0, 14.0], [14.0, 20.0]], 2)
        """
        self._sum += hessian.to(self._sum.device)
        self.num_inputs += num_inputs

    def full(self) -> torch.Tensor:
        """Return H float32 [in, in], both halves: the sum itself, completed in place."""
        for start in range(0, len(self._sum), _BLOCK):
            columns = slice(start, start + _BLOCK)
            block = self._sum[columns, columns]
            block.copy_(block.triu() + block.triu(1).T)
            self._sum[start + _BLOCK :, columns] = self._sum[columns, start + _BLOCK :].T
        return self._sum


def weighed(vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return vectors [tokens, n] times a weight each [tokens], in bfloat16 or float32.

    The weights of bfloat16 vectors are rounded to it. Float16 has no range to spare: it becomes float32.
    """
    dtype = torch.bfloat16 if vectors.dtype == torch.bfloat16 else torch.float32
    return vectors * weights.to(vectors.device, dtype)[:, None]
