"""Keep each finished group of layers of a mixture's block, so that a kill costs one expert and not the block."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.stream.groups import Group, is_indexed
from qtoolkit.stream.journal import DoneBlock, Journal

Tensors = Mapping[str, StoredTensor | torch.Tensor]
# Returns whether tensors and facts are valid results for these layers, given by full names.
FitsLayers = Callable[[Sequence[str], Tensors, Mapping[str, Any]], bool]


class DoneGroups:
    """Read the groups of a block that an earlier call has finished, and store those that are finished now.

    Groups of a block with experts are stored, each as soon as it is done; other blocks are done in a moment. What was
    stored counts up to the first gap. The last group is always done again: it ends the block's runs.

    Args:
        journal: of the job.
        index: of the block.
        block: its full name.
        groups: of layers with the same inputs, by names within the block.
        fits: returns whether tensors and facts are valid results for layers.
    """

    def __init__(self, journal: Journal, index: int, block: str, groups: Sequence[Group], fits: FitsLayers) -> None:
        self._journal = journal
        self._index = index
        self._block = block
        self._has_experts = any(is_indexed(layer) for group in groups for layer in group)
        self._fits = fits
        self._found: dict[str, DoneBlock] = {}
        self._stored = 0
        if self._has_experts:
            self._read(groups)

    def _read(self, groups: Sequence[Group]) -> None:
        by_names = {frozenset(f"{self._block}.{layer}" for layer in group): group for group in groups}
        while self._stored + 1 < len(groups):
            names: frozenset[str] = frozenset()

            def fits(tensors: Tensors, facts: Mapping[str, Any]) -> bool:
                nonlocal names
                names = frozenset(facts)
                return names in by_names and self._fits(sorted(names), tensors, facts)

            done = self._journal.read_group(self._index, self._stored, fits)
            if done is None:
                return
            self._found[by_names[names][0]] = done
            self._stored += 1

    def of(self, group: Group) -> DoneBlock | None:
        """Return the result of a group, by full names of its layers; None if it is still to be done."""
        return self._found.get(group[0])

    def keep(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Tensors:
        """Store the results of a group, by full names; returns the tensors, in a file if they are stored.

        Raises:
            OSError: the disk is full, or the folder was removed; what was stored before stays valid.
        """
        if not self._has_experts:
            return tensors
        done = self._journal.write_group(self._index, self._stored, tensors, facts)
        self._stored += 1
        return done.tensors
