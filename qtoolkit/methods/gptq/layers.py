"""GPTQ of layers that share their inputs: Hessian, grid, codes, and the tensors that AutoGPTQ's format has for them."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gptq.tensors import in_order, zero_offset
from qtoolkit.methods.gptq import stored_tensors
from qtoolkit.methods.gptq.solver import SingularHessianError, column_order, factor, solve
from qtoolkit.stream import Result
from qtoolkit.tensor import pack_words
from qtoolkit.tensor.grid import Grid, search_grid
from qtoolkit.tensor.hessian import Hessian
from qtoolkit.tensor.processor import bfloat16_is_native

# Candidates for a scale, and the smallest of them as a share of the full range: benchmarks/README.md.
SEARCH_STEPS = {2: 40, 3: 30, 4: 20, 8: 10}
SMALLEST = {2: 0.3, 3: 0.4, 4: 0.4, 8: 0.8}
# For the sensitivity of a layer, of which no more than its order counts.
_ROUNDING_STEPS = 8


class GPTQBlocks:
    """GPTQ as `qtoolkit.stream.quantize_blocks` wants it.

    Args:
        config: a `GPTQ`; its group size divides the inputs of all layers.
        device: where layers are solved.
    """

    def __init__(self, config: Any, device: str) -> None:
        self.config, self.device = config, torch.device(device)
        self.true_sequential: bool = config.true_sequential

    def start(self, names: Sequence[str], in_features: int) -> "_Group":
        """See `BlockMethod`."""
        return _Group(self, names, in_features)

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `BlockMethod`."""
        words, groups = tensors["qweight"], tensors["g_idx"]
        bits = 32 * len(words) // len(groups)
        stored = stored_tensors(self.config, words.shape[1], len(groups), bits=bits)
        return stored.decode(tensors).expanded(slice(0, words.shape[1]), torch.float32).T

    def fits(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, StoredTensor | torch.Tensor],
        facts: Mapping[str, Any],
    ) -> bool:
        """See `BlockMethod`."""
        size, wanted = self.config.group_size, {}
        for name, (outputs, inputs) in shapes.items():
            bits = self.config.of(name).bits
            for key, described in stored_tensors(self.config, outputs, inputs, bits=bits).tensors().items():
                wanted[f"{name}.{key}"] = described
        if {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} != wanted:
            return False
        if facts.keys() != shapes.keys() or not all(_are_facts(values) for values in facts.values()):
            return False
        return all(
            bool(tensors[f"{name}.scales"][...].isfinite().all())
            and self._are_groups(tensors[f"{name}.g_idx"][...], shape[1] if size == -1 else size)
            for name, shape in shapes.items()
        )

    def _are_groups(self, groups: torch.Tensor, size: int) -> bool:
        """Whether each group has its inputs, in their own order where these may not be in another."""
        return in_order(groups.sort().values if self.config.desc_act else groups, size)


class _Group:
    """Layers that share their inputs."""

    def __init__(self, method: GPTQBlocks, names: Sequence[str], in_features: int) -> None:
        self._method, self._names = method, names
        self._hessian = Hessian(in_features, method.device)

    def add(self, inputs: torch.Tensor) -> None:
        self._hessian.add(inputs)

    def finish(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, Result]:
        config, hessian = self._method.config, self._hessian.full()
        importance = hessian.diagonal().clone()
        order = column_order(importance, config.order)
        size = len(hessian) if config.group_size == -1 else config.group_size
        groups = torch.arange(len(hessian), device=hessian.device) // size
        if config.desc_act:
            # Groups are formed in the order of activation.
            groups[order] = groups.clone()
        stacks: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, (layer, value) in zip(self._names, weights.items(), strict=True):
            stacks[config.of(name).bits][layer] = value
        weight = {bits: self._stacked(stack) for bits, stack in stacks.items()}
        energy = {bits: _energy(stacked, hessian) for bits, stacked in weight.items()}
        try:
            lower, diagonal, damp = factor(hessian, order, config.damp_percent)
        except SingularHessianError as error:
            raise UnsupportedModelError(
                f"{self._names[0]} cannot be calibrated ({error}): give other calibration text, or exclude it"
            ) from error
        members = groups.argsort(stable=True)
        found: dict[str, Result] = {}
        for bits, stack in stacks.items():
            stacked = weight.pop(bits)
            grid = search_grid(
                stacked[members],
                importance[members],
                bits=bits,
                group_size=size,
                sym=config.sym,
                steps=SEARCH_STEPS[bits],
                smallest=SMALLEST[bits],
            )
            codes, loss = solve(stacked, lower, diagonal, order, grid, groups)
            found |= self._results(stack, codes, grid, groups, loss, energy[bits], damp)
        return found

    def _stacked(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Weights [out, in] one after the other, float32 [in, out of all]."""
        return torch.cat([value.to(self._method.device, torch.float32) for value in weights.values()]).T.contiguous()

    def _results(
        self,
        weights: Mapping[str, torch.Tensor],
        codes: torch.Tensor,
        grid: Grid,
        groups: torch.Tensor,
        loss: torch.Tensor,
        energy: torch.Tensor,
        damp: float,
    ) -> Iterator[tuple[str, Result]]:
        start = 0
        for name, weight in weights.items():
            columns = slice(start, start + len(weight))
            start = columns.stop
            own = Grid(grid.scale[:, columns], grid.zero_point[:, columns], grid.bits)
            tensors = pack_layer(codes[:, columns], own, groups, self._method.config.checkpoint_format)
            total = energy[columns].sum().item()
            facts = {
                "error": loss[columns].sum().item() / total if total else 0.0,
                "damp_percent": damp,
                "num_inputs": self._hessian.num_inputs,
            }
            yield name, Result(tensors, facts)


def _are_facts(values: Any) -> bool:
    """Whether these are the facts of one layer."""
    if not isinstance(values, dict) or set(values) != {"error", "damp_percent", "num_inputs"}:
        return False
    numbers = [values["error"], values["damp_percent"]]
    inputs = values["num_inputs"]
    are_floats = all(isinstance(number, float) and math.isfinite(number) for number in numbers)
    return are_floats and type(inputs) is int and inputs >= 0


def round_to_grid(weight: torch.Tensor, config: Any) -> torch.Tensor:
    """A weight float32 [out, in] rounded to the nearest codes, no error passed on, on grids searched in few steps."""
    size = weight.shape[1] if config.group_size == -1 else config.group_size
    columns = weight.T.contiguous()  # [in, out]
    grid = search_grid(
        columns,
        columns.new_ones(len(columns)),
        bits=config.bits,
        group_size=size,
        sym=config.sym,
        steps=_ROUNDING_STEPS,
        smallest=SMALLEST[config.bits],
    )
    # [in, out] -> [groups, group_size, out]
    grouped, zero = columns.unflatten(0, (-1, size)), grid.zero_point[:, None]
    codes = (grouped / grid.scale[:, None] + zero).round_().clamp_(0, 2**config.bits - 1)
    rounded: torch.Tensor = codes.sub_(zero).mul_(grid.scale[:, None]).flatten(0, 1).T  # [out, in]
    return rounded


def pack_layer(
    codes: torch.Tensor, grid: Grid, groups: torch.Tensor, checkpoint_format: str
) -> dict[str, torch.Tensor]:
    """Return the tensors of one layer in AutoGPTQ's format, on the CPU.

    Args:
        codes: uint8 [in, out].
        grid: scales and zero points [groups, out].
        groups: the group of each input, int64 [in].
        checkpoint_format: "gptq" or "gptq_v2".
    """
    zeros = (grid.zero_point - zero_offset(checkpoint_format)).to(torch.uint8)
    tensors = {
        "qweight": pack_words(codes.contiguous(), grid.bits),
        # [groups, out] -> [out, groups], packed along out -> [groups, out * bits / 32]
        "qzeros": pack_words(zeros.T.contiguous(), grid.bits).T.contiguous(),
        "scales": grid.scale.to(torch.float16).contiguous(),
        "g_idx": groups.to(torch.int32),
    }
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _energy(weight: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Return the squared outputs of each output of a layer, summed over all inputs, [out]: the diagonal of W H W^T.

    Where bfloat16 has instructions of its own, products are rounded to it: their sum is off by about 0.1 %.
    """
    dtype = torch.bfloat16 if weight.device.type == "cpu" and bfloat16_is_native() else torch.float32
    hessian = hessian.to(dtype)
    parts = [(hessian @ part.to(dtype)).float().mul_(part).sum(0) for part in weight.split(2048, dim=1)]
    return torch.cat(parts)
