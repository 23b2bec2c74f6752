"""Find the blocks that a text does not run through: those of Mllama that look at images are passed over without one."""

from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from qtoolkit.models.empty_runs import run_without_values
from qtoolkit.models.structure import block_list, parts_beside_text

_TOKENS = 2


def unreached_blocks(model: PreTrainedModel) -> frozenset[str]:
    """Return the full names of the blocks that a text does not run through, by a run without values.

    Only a model of more than text may have some. Where the run ends early, since something depends on values, those
    after the last block that it came to count as reached.

    Args:
        model: on the meta device.
    """
    found = block_list(model)
    if found is None or not parts_beside_text(model):
        return frozenset()
    path, blocks = found
    called: list[int] = []

    def note(index: int, _module: nn.Module, _args: Any) -> None:
        called.append(index)

    hooks = [block.register_forward_pre_hook(partial(note, index)) for index, block in enumerate(blocks)]
    try:
        ended = run_without_values(model, _TOKENS)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        return frozenset()
    last = len(blocks) if ended else max(called)
    return frozenset(f"{path}.{index}" for index in range(last) if index not in called)
