"""Find what a text does not run through: blocks of Mllama that look at images, and most parts beside the text."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    with _called(blocks) as called:
        ended = run_without_values(model, _TOKENS)
    if not called:
        return frozenset()
    last = len(blocks) if ended else max(called)
    return frozenset(f"{path}.{index}" for index in range(last) if index not in called)


def unreached_parts(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the parts beside the language model that a text does not run through, by a run without values, sorted.

    Gemma 3n looks up tokens in what projects the outputs of its towers. Where the run ends early, what it did not come
    to counts as unreached.

    Args:
        model: on the meta device.
    """
    part_of = parts_beside_text(model)
    if not part_of:
        return ()
    with _called(model.get_submodule(name) for name in part_of) as called:
        run_without_values(model, _TOKENS)
    parts = [*part_of.values()]
    return tuple(sorted({*parts} - {parts[index] for index in called}))


@contextmanager
def _called(modules: Iterable[nn.Module]) -> Iterator[list[int]]:
    """Yield a list, to which the numbers of modules are added as they run, for the time of a `with` block."""
    called: list[int] = []

    def note(index: int, _module: nn.Module, _args: Any) -> None:
        called.append(index)

    hooks = [module.register_forward_pre_hook(partial(note, index)) for index, module in enumerate(modules)]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()
