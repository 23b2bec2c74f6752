"""Find the adapters that repair a quantized model, block by block: what `stream.run.quantize_blocks` asks a method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from qtoolkit.adapters.adapter_folder import A, B
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import ConfigError
from qtoolkit.stream.block_method import Result
from qtoolkit.stream.groups import GroupInputs
from qtoolkit.tensor.cross_products import CrossProducts
from qtoolkit.tensor.hessian import TOKENS_AT_ONCE, Hessian
from qtoolkit.tensor.low_rank import damped_factor, low_rank, refitted, rounded

# The share of what the layers before have changed that a layer makes good, from so many times as many tokens as it has
# inputs; less from fewer, whose noise it would follow. SmolLM2-135M in GPTQ of 3 bits, rank 32, calibrated on 8,192
# tokens: KL divergence falls by 17 % with a half (2,040 tokens measured), and by 10 % with the whole (4,080). Tokens
# that are weighed by gradients (stream.token_weights): by 14 % with a half, and by 1 % with the whole. On 49,152 tokens
# it falls by 20 % with a half.
_MOST_TRUSTED, _ENOUGH_TOKENS = 0.5, 8
_SCALING_OF_8_BITS = 2.0**-16
_TINY = 1e-30


class RepairBlocks:
    """Low-rank corrections for `qtoolkit.stream.run.quantize_blocks`; implements `BlockMethod`.

    With the original weight W and inputs X, and Q and Xq in the model that is quantized and, up to here, repaired, the
    outputs that are wanted lie half way between Xq W^T and X W^T, or between the first and those with which the
    residual stream is right again. The best change of Q for them, weighed by Xq, is approximated by a product of two
    small matrices, A rounded as it is stored and B then chosen anew for it. All tokens count alike.

    Args:
        quantized: returns the quantized weight Q[out, in] of a layer, float32, by its full name.
        ranks: of the product, by the full names of layers; a layer of rank 0 stays as it is.
        device: where layers are solved.
        dtype: type in which the matrices are stored; of 8 bits, their product is multiplied with `scaling_of`.
    """

    true_sequential = True
    wants_exact = True

    def __init__(
        self, quantized: Callable[[str], torch.Tensor], ranks: Mapping[str, int], device: str, dtype: torch.dtype
    ) -> None:
        self.quantized = quantized
        self.ranks = ranks
        self.device = torch.device(device)
        self.dtype = dtype

    def start(self, names: Sequence[str], in_features: int) -> "_Repair":
        """See `BlockMethod`."""
        return _Repair(self, names, in_features)

    def dequantize(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `BlockMethod`: the repaired weight."""
        weight = self.quantized(name)
        if not tensors:
            return weight
        return weight + scaling_of(self.dtype) * (tensors[B].float() @ tensors[A].float())

    def fits(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, StoredTensor | torch.Tensor],
        facts: Mapping[str, Any],
    ) -> bool:
        """See `BlockMethod`."""
        expected: dict[str, tuple[int, int]] = {}
        for name, (out, inputs) in shapes.items():
            rank = self.ranks[name]
            if rank:
                expected |= {f"{name}.{A}": (rank, inputs), f"{name}.{B}": (out, rank)}
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected:
            return False
        alike = {tensor.dtype for tensor in tensors.values()} <= {self.dtype}
        return alike and all(bool(tensor[...].float().isfinite().all()) for tensor in tensors.values())


def scaling_of(dtype: torch.dtype) -> float:
    """Return what a product of stored matrices is multiplied with: 8 bits hold numbers of about 100 best."""
    return _SCALING_OF_8_BITS if dtype == torch.float8_e4m3fn else 1.0


class _Repair:
    """Sum up what layers with the same inputs get, then repair them; implements `Accumulator`."""

    wants_more = False

    def __init__(self, method: RepairBlocks, names: Sequence[str], in_features: int) -> None:
        self._method = method
        self._names = names
        self._hessian = Hessian(in_features, method.device)
        # Xq^T (X - Xq) [in, in], or the products of Xq and what the residual stream lacks [in, out].
        self._lacking: CrossProducts | None = None
        self._of_outputs = False

    def lean_on(self, inputs: torch.Tensor) -> None:
        """See `Accumulator`: nothing, since `wants_more` is never true."""

    def add(self, batch: GroupInputs) -> None:
        """See `Accumulator`."""
        self._hessian.add(batch.inputs)
        other = batch.exact if batch.lacking is None else batch.lacking
        if other is None:
            return
        self._of_outputs = batch.lacking is not None
        # [..., in] -> [tokens, in], and [..., in or out] -> [tokens, in or out]
        x = batch.inputs.reshape(-1, batch.inputs.shape[-1]).to(self._method.device)
        y = other.reshape(-1, other.shape[-1]).to(self._method.device)
        if self._lacking is None:
            self._lacking = CrossProducts(x.shape[1], y.shape[1], self._method.device)
        for part, wanted in zip(x.split(TOKENS_AT_ONCE), y.split(TOKENS_AT_ONCE), strict=True):
            self._lacking.add(part, wanted if self._of_outputs else wanted - part)

    def finish(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, Result]:
        """See `Accumulator`.

        Raises:
            ConfigError: a layer is smaller than the rank, or of another shape than the quantized one.
        """
        factor = damped_factor(self._hessian.full())
        results = {}
        for full_name, (layer, value) in zip(self._names, weights.items(), strict=True):
            weight = value.to(self._method.device, torch.float32)
            quantized = self._method.quantized(full_name).to(self._method.device)
            if quantized.shape != weight.shape:
                shapes = f"{list(quantized.shape)} in the quantized model and {list(weight.shape)} in the base"
                raise ConfigError(f"{full_name} is {shapes}: give what it was made from as base")
            lost = (weight - quantized) @ factor + self._correction(weight, factor)
            tensors, share = self._matrices(lost, factor, self._method.ranks[full_name])
            results[layer] = Result(tensors, {"share": share, "num_inputs": self._hessian.num_inputs})
        return results

    def _correction(self, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return what the change of a weight W[out, in] lacks for the layers before, times L [out, in].

        With C = Xq^T (X - Xq), the best W* - W is W C^T H^-1, and times L that is W C^T L^-T; of a layer that writes
        into the residual stream, the transposed products of Xq and what the stream lacks stand for W C^T. Few tokens
        say little of it: it counts by (n / in - 1) / 7, at most by 1, times `_MOST_TRUSTED`.
        """
        tokens, inputs = self._hessian.num_inputs, len(factor)
        trusted = _MOST_TRUSTED * min(1.0, max(0.0, (tokens / inputs - 1) / (_ENOUGH_TOKENS - 1)))
        if self._lacking is None or trusted == 0:
            return torch.zeros_like(weight)
        products = self._lacking.sum.T if self._of_outputs else weight @ self._lacking.sum.T
        # Z L^T = products.
        solved: torch.Tensor = torch.linalg.solve_triangular(factor.T, products, upper=True, left=False)
        return trusted * solved

    def _matrices(self, lost: torch.Tensor, factor: torch.Tensor, rank: int) -> tuple[dict[str, torch.Tensor], float]:
        """Return A[rank, in] and B[out, rank] as they are stored, and the share of the squared error they take away.

        Args:
            lost: the change that is wanted times L, float32 [out, in].
            factor: L.
            rank: 0 for no matrices.
        """
        if not rank:
            return {}, 0.0
        found = low_rank(lost, factor, rank)
        dtype, scaling = self._method.dtype, scaling_of(self._method.dtype)
        # Each row of A beside its column of B, with largest numbers that are alike.
        sizes = (found.b.abs().amax(0) / found.a.abs().amax(1).clamp_min(_TINY)).clamp_min(_TINY).sqrt()
        whole = found.a * sizes[:, None] / scaling**0.5
        a = rounded(whole, factor, dtype) if dtype.itemsize == 1 else whole.to(dtype)
        most = torch.finfo(dtype).max
        b = refitted(lost, factor, scaling * a.float()).clamp(-most, most).to(dtype)
        left = lost - scaling * (b.float() @ (a.float() @ factor))
        total = lost.square().sum()
        share = 1 - float(left.square().sum() / total) if total > 0 else 0.0
        return {A: a.cpu(), B: b.cpu()}, share
