"""Tell by a run on the meta device whether a model's blocks can run one by one, each on what the one before gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.models.empty_runs import run_without_values
from qtoolkit.models.structure import block_list, is_linear

# Blocks return hidden states, and beside them at most a cache, attentions and the logits of a router.
MOST_OUTPUTS = 4
_TOKENS = 2
_PASSED, _CHANGED, _AGAIN = "passed", "changed", "again"


def check_one_by_one(name: str, model: PreTrainedModel) -> None:
    """Refuse a model whose blocks cannot run one by one.

    Args:
        name: the user's name for it.
        model: on the meta device; its blocks do not run.

    Raises:
        UnsupportedModelError: they cannot.
    """
    reason = why_not_one_by_one(model)
    if reason:
        raise UnsupportedModelError(f"{name} ({model.config.model_type}) {reason}: take a method without text")


def why_not_one_by_one(model: PreTrainedModel) -> str:
    """Return why the blocks of a model cannot run one by one; empty where they can, or where values would tell.

    Args:
        model: on the meta device; its blocks do not run.
    """
    found = block_list(model)
    if found is None:
        return "has no list of blocks"
    path, blocks = found
    seen: list[str] = []
    for count in range(MOST_OUTPUTS + 1):
        seen.append(_what_happens(model, blocks, count))
        if seen[-1] == _PASSED:
            return ""
    if _AGAIN in seen:
        return f"runs the blocks of {path} more than once"
    # A tensor in place of several values is taken apart, which changes it, too.
    if all(one == _CHANGED for one in seen[1:]):
        return f"does not pass its hidden states from one block of {path} to the next as they are"
    beside = _lists_beside(model, path, blocks)
    return f"has the layers of each block in several lists ({path}, {beside[0]})" if beside and not any(seen) else ""


def _lists_beside(model: PreTrainedModel, path: str, blocks: nn.ModuleList) -> list[str]:
    """Return the names of lists beside a model's blocks that are as long and hold linear layers: XLM's MLPs."""
    around, _, own = path.rpartition(".")
    return [
        f"{around}.{name}" if around else name
        for name, other in model.get_submodule(around).named_children()
        if name != own
        and isinstance(other, nn.ModuleList)
        and len(other) == len(blocks)
        and any(is_linear(module) for module in other.modules())
    ]


def outputs_of(hidden: torch.Tensor, count: int) -> Any:
    """Return what a block with so many outputs returns: hidden states first, nothing of a cache or of attentions."""
    return (hidden, *[None] * (count - 1)) if count else hidden


@contextmanager
def replaced_forwards(blocks: nn.ModuleList, stand_in: Any) -> Iterator[None]:
    """Replace the `forward` of each block by `stand_in`, called with the block's index and the block's arguments."""
    for index, block in enumerate(blocks):
        block.forward = partial(stand_in, index)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _what_happens(model: PreTrainedModel, blocks: nn.ModuleList, count: int) -> str:
    """Return what becomes of the hidden states where each block returns as many values; empty where nothing is seen."""
    hidden: list[torch.Tensor] = []
    called: list[int] = []
    seen: list[str] = []

    def stand_in(index: int, *args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        if index in called or (hidden and given is not hidden[0]):
            seen.append(_AGAIN if index in called else _CHANGED)
            raise _Seen
        hidden.append(given)
        called.append(index)
        if index == len(blocks) - 1:
            seen.append(_PASSED)
        return outputs_of(given, count)

    with replaced_forwards(blocks, stand_in):
        run_without_values(model, _TOKENS)
    return seen[0] if seen else ""


class _Seen(Exception):  # how a forward is left, no error
    """Leave a model's forward once it is known what it does."""
