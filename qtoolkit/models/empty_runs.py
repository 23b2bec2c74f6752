"""Run a text through a model on the meta device, to see what it does of that which needs no values."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel


def run_without_values(model: PreTrainedModel, num_tokens: int) -> bool:
    """Run a text through a model on the meta device until it needs a value; return whether it came to its end.

    Where that is no end, it is run once more with a mask, since some models look at values to make one. What depends on
    values raises anything; hooks may, to end a run. Buffers that it replaces as it runs (CTRL) are put back.

    Args:
        model: on the meta device.
        num_tokens: of the text.
    """
    tokens = torch.zeros(1, num_tokens, dtype=torch.int64, device="meta")  # [1, tokens]
    mask = torch.zeros(1, 1, num_tokens, num_tokens, dtype=model.dtype, device="meta")  # [1, heads, tokens, tokens]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]  # noqa: SLF001
    try:
        return any(_runs(model, tokens, options) for options in ({}, {"attention_mask": mask}))
    finally:
        for module, own in buffers:
            module._buffers = own  # noqa: SLF001


def _runs(model: PreTrainedModel, tokens: torch.Tensor, options: Mapping[str, torch.Tensor]) -> bool:
    """Return whether a model ran to its end on tokens and other arguments."""
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False, **options)
    except Exception:  # noqa: BLE001  # see above
        return False
    return True
