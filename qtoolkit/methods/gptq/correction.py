"""Change the weights that GPTQ aims at, so that layers make good what quantized layers before them have changed.

QEP (arXiv 2504.09629) and, for layers that write into the residual stream, the target of LoaQ (arXiv 2509.06297).
"""

from collections.abc import Mapping

import torch

from qtoolkit.methods.gptq import ENOUGH_TOKENS
from qtoolkit.stream.groups import GroupInputs
from qtoolkit.tensor.cross_products import CrossProducts
from qtoolkit.tensor.hessian import TOKENS_AT_ONCE, weighed


def trusted_share(num_tokens: int, in_features: int) -> float:
    """Return the share of a correction that this many tokens support: none up to one for each input, all from eight on.

    >>> trusted_share(1024, 1536), trusted_share(4608, 1024), trusted_share(32768, 1536)
    (0.0, 0.5, 1.0)
    """
    return min(1.0, max(0.0, (num_tokens / in_features - 1) / (ENOUGH_TOKENS - 1)))


class Correction:
    """Sum up what corrects a group of layers, then correct their weights.

    With inputs X [tokens, in] in the full-precision model and Xq in the quantized one, the best weight for the outputs
    X W^T is, with the damped Hessian H = Xq^T Xq + lambda I,

        W* = W + alpha W C H^-1, C = (X - Xq)^T Xq,

    for alpha = 1, the least squares; less follows the calibration text less closely. Of a layer that writes into the
    residual stream, R before its output is added, Rq in the quantized model, the target is the stream itself:

        W* = W + alpha [Xq^T ((X - Xq) W^T + (R - Rq))]^T H^-1.

    Both corrections are multiplied by `trusted_share`. Where tokens are weighed, H, C and Xq^T (...) are sums over
    tokens that count by their weights.

    Args:
        in_features: size of an input.
        device: where the sums are.

    Example: one input, which was 2 and became 1 for 8 tokens: with alpha 1 and no damping, the weight is doubled.

        >>> correction = Correction(1, torch.device("cpu"))
        >>> correction.add(GroupInputs(torch.ones(8, 1), exact=2 * torch.ones(8, 1)))
        >>> lower, diagonal, order = torch.ones(1, 1), torch.tensor([8.0]), torch.tensor([0])
        >>> correction.applied(torch.tensor([[3.0]]), 1.0, lower, diagonal, order)
        tensor([[6.]])
    """

    def __init__(self, in_features: int, device: torch.device) -> None:
        self._in_features = in_features
        self._device = device
        # Xq^T (X - Xq) [in, in], or the products of Xq and what the residual stream lacks [in, out].
        self._products: CrossProducts | None = None
        self._of_outputs = False
        self._num_tokens = 0

    @property
    def is_known(self) -> bool:
        """Check whether anything was added that corrects, from more tokens than inputs."""
        return self._products is not None and trusted_share(self._num_tokens, self._in_features) > 0

    def add(self, batch: GroupInputs) -> None:
        """Add a batch; nothing if it has neither exact inputs nor a residual stream."""
        y = batch.exact if batch.lacking is None else batch.lacking
        if y is None:
            return
        self._of_outputs = batch.lacking is not None
        self._num_tokens += batch.inputs.numel() // self._in_features
        if self._products is None:
            self._products = CrossProducts(self._in_features, y.shape[-1], self._device)
        # [..., in] -> [tokens, in]
        x = batch.inputs.reshape(-1, self._in_features).to(self._device)
        # [..., in or out] -> [tokens, in or out]
        y = y.reshape(-1, y.shape[-1]).to(self._device)
        for start in range(0, len(x), TOKENS_AT_ONCE):
            some = slice(start, start + TOKENS_AT_ONCE)
            part = x[some]
            other = y[some] if self._of_outputs else y[some] - part
            if batch.weights is not None:
                roots = batch.weights[some].sqrt()
                part, other = weighed(part, roots), weighed(other, roots)
            self._products.add(part, other)

    def sums(self) -> dict[str, torch.Tensor]:
        """Return what was summed up; nothing if nothing was."""
        if self._products is None:
            return {}
        kind = "of_outputs" if self._of_outputs else "of_inputs"
        return {kind: self._products.sum, "num_tokens": torch.tensor(self._num_tokens)}

    def add_sums(self, sums: Mapping[str, torch.Tensor]) -> None:
        """Add what `sums` returned of other tokens of the same layers; other names are passed over."""
        for kind in sums.keys() & {"of_outputs", "of_inputs"}:
            products = sums[kind].to(self._device)
            self._of_outputs = kind == "of_outputs"
            self._num_tokens += int(sums["num_tokens"])
            if self._products is None:
                self._products = CrossProducts(products.shape[0], products.shape[1], self._device)
            self._products.sum += products

    def applied(
        self, weight: torch.Tensor, alpha: float, lower: torch.Tensor, diagonal: torch.Tensor, order: torch.Tensor
    ) -> torch.Tensor:
        """Return the corrected weights, W*^T float32 [in, out]; the weights themselves if nothing was added.

        Args:
            weight: W^T float32 [in, out] of layers side by side.
            alpha: share of the correction.
            lower, diagonal, order: of `solver.factor`, of the damped Hessian.
        """
        share = trusted_share(self._num_tokens, self._in_features)
        if self._products is None or share == 0:
            return weight
        change = self._products.sum if self._of_outputs else self._products.sum @ weight
        # H = P^T L diag(d) L^T P, where P takes the columns in reverse order.
        reverse = order.flip(0)
        solved = torch.linalg.solve_triangular(lower, change[reverse], upper=False, unitriangular=True)
        solved /= diagonal[:, None]
        solved = torch.linalg.solve_triangular(lower.T, solved, upper=True, unitriangular=True)
        return weight.index_add(0, reverse, solved, alpha=alpha * share)
