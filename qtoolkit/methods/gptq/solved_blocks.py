"""GPTQ on the block types of `.gguf` files: each block keeps the levels that a search gives it, codes are solved."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qtoolkit.checkpoints.gguf_tensors import expanded_rows
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.gptq.alone import factored_alone
from qtoolkit.methods.gptq.layer_inputs import Factored, SolvedTogether, are_facts, energy, share_of
from qtoolkit.methods.gptq.solver import solve
from qtoolkit.stream.block_method import Result
from qtoolkit.tensor.block_search import Codebook
from qtoolkit.tensor.block_types import BLOCK_TYPES, BlockType, quantize_rows, search_levels
from qtoolkit.tensor.hessian import Hessian
from qtoolkit.tensor.qparams import QParams

# The step of a group whose codes count for nothing: so small that none of them stands for anything.
_NO_STEP = 1e-30


class SolvedBlocks:
    """GPTQ for `qtoolkit.stream.run.quantize_blocks`, into blocks of bytes; implements `BlockMethod`.

    A layer has one tensor, by the name of its type: uint8 [out, bytes of a row].

    Args:
        config: how layers are solved: order, damping, and what is made good.
        types: of the blocks of each layer, by its full name; each has a grid.
        device: where layers are solved.
    """

    def __init__(self, config: GPTQ, types: Mapping[str, BlockType], device: str) -> None:
        self.config = config
        self.types = types
        self.device = torch.device(device)
        self.true_sequential: bool = config.true_sequential
        self.wants_exact = config.qep_alpha > 0

    def start(self, names: Sequence[str], in_features: int) -> "_Group":
        """See `BlockMethod`."""
        return _Group(self, names, in_features)

    def dequantize(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `BlockMethod`: by the `gguf` package."""
        ((type_name, packed),) = tensors.items()
        return expanded_rows(packed, BLOCK_TYPES[type_name].number)

    def fits(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, StoredTensor | torch.Tensor],
        facts: Mapping[str, Any],
    ) -> bool:
        """See `BlockMethod`."""
        expected = {
            f"{name}.{self.types[name].name}": ((shape[0], self.types[name].nbytes(shape[1:])), torch.uint8)
            for name, shape in shapes.items()
        }
        if {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} != expected:
            return False
        if not are_facts(facts, shapes, wants_exact=self.wants_exact):
            return False
        with np.errstate(all="ignore"):
            return all(
                bool(self.dequantize(layer, {type_name: tensor[...]}).isfinite().all())
                for (layer, _, type_name), tensor in ((name.rpartition("."), one) for name, one in tensors.items())
            )


class _Group(SolvedTogether):
    """Sum up the inputs of layers that share them, then solve these; implements `Accumulator`."""

    def __init__(self, method: SolvedBlocks, names: Sequence[str], in_features: int) -> None:
        super().__init__(names, in_features, method.device)
        self._method = method

    def finish(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, Result]:
        """See `Accumulator`."""
        config = self._method.config
        factored = self._inputs.factored(config.order, config.damp_percent)
        stacks: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, (layer, value) in zip(self._names, weights.items(), strict=True):
            stacks[self._method.types[name].name][layer] = value
        results: dict[str, Result] = {}
        for name, stack in stacks.items():
            target = self._inputs.target(stack, factored, config.qep_alpha)
            energies = energy(target, factored.hessian)
            packed, loss = solve_blocks(target, BLOCK_TYPES[name], factored)
            start = 0
            for layer, value in stack.items():
                outputs = slice(start, start + len(value))
                start = outputs.stop
                error = share_of(loss[outputs], energies[outputs])
                facts = self._inputs.facts(error, factored.damp, wants_exact=self._method.wants_exact)
                results[layer] = Result({name: packed[outputs].cpu()}, facts)
        return results


def solve_blocks(weight: torch.Tensor, type_: BlockType, inputs: Factored) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the codes of a weight on the levels of its blocks, by `solver.solve`.

    A code q stands for step * (q - zero) - minimum: with the minimum added to the weight, that is a step and a zero
    point, as the solver takes them.

    Args:
        weight: W^T float32 [in, out], `in` a multiple of the block size.
        type_: of the blocks; it has a grid.
        inputs: of the layer.

    Returns:
        uint8 [out, bytes of a row], and the squared error of each output summed over all inputs, float32 [out].
    """
    grid = type_.grid
    assert grid is not None
    in_features, out_features = weight.shape
    # Inputs that never were anything else than zero count as the smallest that were.
    seen = inputs.importance[inputs.importance > 0]
    importance = inputs.importance.clamp(min=seen.min()) if len(seen) else torch.ones_like(inputs.importance)
    levels = search_levels(weight.T, type_, importance)
    step = _by_group(levels.step, out_features)
    groups = torch.arange(in_features, device=weight.device) // (in_features // len(step))
    if levels.minimum is not None:
        weight = weight + _by_group(levels.minimum, out_features)[groups]
    qparams = QParams(
        scale=torch.where(step == 0, _NO_STEP, step), zero_point=torch.full_like(step, grid.zero), bits=grid.bits
    )
    codebook = Codebook(grid.codebook, weight.device) if grid.codebook else None
    codes, loss = solve(weight, inputs.lower, inputs.diagonal, inputs.order, qparams, groups, codebook)
    blocks = codes.T.reshape(-1, type_.block_size)  # [in, out] -> [blocks, block_size], row after row
    return grid.pack(levels.stored, blocks).reshape(out_features, -1), loss


def blocks_alone(
    weights: Iterable[torch.Tensor], inputs: Hessian, types: Sequence[BlockType], config: GPTQ
) -> Iterator[list[torch.Tensor]]:
    """Yield what layers with the same inputs become in blocks of several types, each alone in an unchanged model.

    Args:
        weights: W[out, in] float32 of each layer.
        inputs: of these layers.
        types: of the blocks; codes of those without a grid are those next to the weights.
        config: how layers are solved.

    Raises:
        SingularHessianError: the inputs hold NaN or infinity.
    """
    factored = factored_alone(inputs, config.order, config.damp_percent)
    for weight in weights:
        yield [
            expanded_rows(
                quantize_rows(weight, type_)
                if type_.grid is None
                else solve_blocks(weight.T.contiguous(), type_, factored)[0],
                type_.number,
            )
            for type_ in types
        ]


def _by_group(numbers: torch.Tensor, out_features: int) -> torch.Tensor:
    """Return numbers of the groups of blocks, row after row, as the solver has them."""
    return numbers.reshape(out_features, -1).T.contiguous()  # [blocks, groups] -> [groups of a row, out]
