"""Sum up what the layers of a block get from all samples, for methods that correct by it."""

from collections.abc import Sequence

import torch

from qtoolkit.stream.backward import LoadedBlock
from qtoolkit.stream.current_block import weight_of
from qtoolkit.stream.forward import observed
from qtoolkit.stream.groups import Group, trace, with_unseen, without_indices
from qtoolkit.tensor.hessian import Hessian


def inputs_of_groups(block: LoadedBlock, names: Sequence[str]) -> list[tuple[Group, Hessian]]:
    """Run all samples through a block; return its layers, those with the same inputs together, and these inputs.

    The same layers of all experts count as one group: each expert sees few of the tokens.

    Args:
        block: with its original weights.
        names: layers within the block.
    """
    groups = with_unseen(trace(block.module, names, block.run_one), names)
    found: dict[str, tuple[list[str], Hessian]] = {}
    sums: dict[str, Hessian] = {}
    for group in groups:
        weight = weight_of(block.module.get_submodule(group[0]))
        key = without_indices(group[0])
        members, inputs = found.setdefault(key, ([], Hessian(weight.shape[1], weight.device)))
        members.extend(group)
        sums[group[0]] = inputs

    def note(name: str, x: torch.Tensor) -> None:
        sums[name].add(x)

    with observed(block.module, list(sums), note), torch.no_grad():
        for call in block.calls:
            call()
    return [(tuple(members), inputs) for members, inputs in found.values()]
