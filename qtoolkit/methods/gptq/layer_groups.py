"""GPTQ of layers that share their inputs: from Hessian to codes, and to the tensors of a format."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.gptq.layer_inputs import SolvedTogether, are_facts, energy, share_of
from qtoolkit.methods.gptq.refining import refine
from qtoolkit.methods.gptq.solver import solve
from qtoolkit.stream.block_method import Result
from qtoolkit.tensor.qparams import QParams, raised_groups, search_qparams

if TYPE_CHECKING:
    from qtoolkit.formats.stored_layer import GroupedTensors

# By bits: candidates for a scale, and the smallest of them as a share of the full range (benchmarks/README.md).
SEARCH_STEPS = {2: 40, 3: 30, 4: 20, 5: 15, 6: 12, 8: 10}
SMALLEST = {2: 0.3, 3: 0.4, 4: 0.4, 5: 0.6, 6: 0.7, 8: 0.8}


class GPTQBlocks:
    """GPTQ for `qtoolkit.stream.run.quantize_blocks`; implements `BlockMethod`.

    Args:
        config: fitted: its group size divides the inputs of all layers.
        device: where layers are solved.
        dtype: type of the model, as it is stored.
    """

    def __init__(self, config: GPTQ, device: str, dtype: torch.dtype) -> None:
        self.config = config
        self.device = torch.device(device)
        self.dtype = dtype
        self.stored_as = config.stored_as
        self.true_sequential: bool = config.true_sequential
        self.wants_exact = config.qep_alpha > 0

    def start(self, names: Sequence[str], in_features: int) -> "_Group":
        """See `BlockMethod`."""
        return _Group(self, names, in_features)

    def dequantize(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `BlockMethod`."""
        codes = self.stored_as.codes_of(self.config, tensors)
        return codes.expanded(slice(0, codes.out_features), torch.float32).T

    def stored(self, bits: int, out_features: int, in_features: int) -> "GroupedTensors":
        """Return how the weight of a layer with these bits is stored."""
        return self.stored_as.tensors_of(self.config, out_features, in_features, bits=bits, dtype=self.dtype)

    def fits(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, StoredTensor | torch.Tensor],
        facts: Mapping[str, Any],
    ) -> bool:
        """See `BlockMethod`."""
        stored = {name: self.stored(self.config.of(name).bits, *shape) for name, shape in shapes.items()}
        expected = {f"{name}.{key}": kind for name, one in stored.items() for key, kind in one.tensors().items()}
        if {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} != expected:
            return False
        if not are_facts(facts, shapes, wants_exact=self.wants_exact):
            return False
        return all(
            one.are_sound({key: tensors[f"{name}.{key}"] for key in one.tensors()}, reordered=self.config.desc_act)
            for name, one in stored.items()
        )


class _Group(SolvedTogether):
    """Accumulate the Hessian of layers that share their inputs, then solve them; implements `Accumulator`."""

    def __init__(self, method: GPTQBlocks, names: Sequence[str], in_features: int) -> None:
        super().__init__(names, in_features, method.device)
        self._method = method

    def finish(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, Result]:
        """See `Accumulator`."""
        config = self._method.config
        factored = self._inputs.factored(config.order, config.damp_percent)
        hessian, order = factored.hessian, factored.order
        size = len(hessian) if config.group_size == -1 else config.group_size
        groups = torch.arange(len(hessian), device=hessian.device) // size
        if config.desc_act:
            # Groups are formed in the order of activation.
            groups[order] = groups.clone()
        stacks: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        full_names = dict(zip(weights, self._names, strict=True))
        for layer, value in weights.items():
            stacks[config.of(full_names[layer]).bits][layer] = value
        members = groups.argsort(stable=True)
        results: dict[str, Result] = {}
        for bits, stack in stacks.items():
            # The target: the weights, corrected for what layers before them have changed.
            stacked = self._inputs.target(stack, factored, config.qep_alpha)
            energies = energy(stacked, hessian)
            in_groups = stacked[members]
            raised = raised_groups(in_groups, bits=bits, group_size=size, sym=config.sym)
            with storing(full_names[next(iter(stack))]):
                qparams = search_groups(
                    in_groups,
                    factored.importance[members],
                    config,
                    bits=bits,
                    group_size=size,
                    steps=SEARCH_STEPS[bits],
                    largest=torch.finfo(self._method.dtype).max,
                )
            del in_groups
            qparams = _as_stored(qparams, self._method.stored(bits, stacked.shape[1], len(hessian)))
            codes, loss = solve(stacked, factored.lower, factored.diagonal, order, qparams, groups)
            if config.rounds:
                qparams, codes, loss = refine(
                    stacked, hessian, factored.damp, order, qparams, groups, codes, loss, rounds=config.rounds
                )
            start = 0
            for name, value in stack.items():
                columns = slice(start, start + len(value))
                start = columns.stop
                stored = self._method.stored(bits, len(value), len(hessian))
                scale = qparams.scale[:, columns]
                zero_point = qparams.zero_point[:, columns]
                error = share_of(loss[columns], energies[columns])
                facts = self._inputs.facts(
                    error,
                    factored.damp,
                    wants_exact=self._method.wants_exact,
                    raised=int(raised[columns].sum()),
                )
                with storing(full_names[name]):
                    results[name] = Result(stored.store(codes[:, columns], scale, zero_point, groups), facts)
        return results


@contextmanager
def storing(name: str) -> Iterator[None]:
    """Turn what a format's numbers do not hold of the layer of this name into one line."""
    try:
        yield
    except ValueError as error:
        raise UnsupportedModelError(
            f"{name} cannot be stored ({error}): exclude it, or name another format or method"
        ) from error


def _as_stored(qparams: QParams, stored: "GroupedTensors") -> QParams:
    """Return the scales rounded to the type of the file, so that the codes are chosen for those that it holds."""
    _, dtype = stored.tensors()[stored.scale_name]
    return replace(qparams, scale=qparams.scale.to(dtype).to(qparams.scale.dtype))


def search_groups(
    weight: torch.Tensor,
    importance: torch.Tensor,
    config: GPTQ,
    *,
    bits: int,
    group_size: int,
    steps: int,
    largest: float = math.inf,
) -> QParams:
    """Return the scales and zero points of a weight float32 [in, out] whose groups are in order.

    Raises:
        ValueError: as `search_qparams`.
    """
    return search_qparams(
        weight,
        importance,
        bits=bits,
        group_size=group_size,
        sym=config.sym,
        full_range=config.full_range,
        steps=steps,
        smallest=SMALLEST[bits],
        largest=largest,
    )
