"""Keep RWKV from dividing weights of its layers while it runs: a layer that holds codes has none to divide."""

import copy
from dataclasses import replace
from typing import Any

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.models.checkpoint import Checkpoint


def without_rescaling(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose config lets no layer be rescaled, with a note of that; most have none that says so.

    Every `rescale_every` blocks, RWKV halves the hidden states, and divides the weights that add to them by as much
    (transformers `RwkvModel._rescale_layers`): the last norm undoes that. It keeps float16 from overflowing.
    """
    every = getattr(checkpoint.config, "rescale_every", 0)
    if not every or checkpoint.quantization is not None:
        return checkpoint
    config = copy.deepcopy(checkpoint.config)
    config.rescale_every = 0
    note = f"rescale_every is 0 instead of {every}, since codes are not divided: in float16 the model may overflow"
    return replace(checkpoint, config=config, _built=[]).with_notes(note)


def refuse_rescaled(name: str, model: Any) -> None:
    """Refuse a loaded RWKV that has run: its weights are divided already.

    Args:
        name: of its class.
        model: a `PreTrainedModel`.

    Raises:
        UnsupportedModelError: it has run.
    """
    if model.config.to_dict().get("rescale_every") and getattr(model.base_model, "layers_are_rescaled", False):
        raise UnsupportedModelError(f"this {name} divided weights of its layers as it ran: name its folder or Hub id")
