"""4-bit layers of bitsandbytes saved exactly, whatever they did before."""

from typing import TYPE_CHECKING

from qtoolkit.optional import optional

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_exact(model: "PreTrainedModel") -> None:
    """Let 4-bit layers be saved exactly after they have run on a CPU, also while other threads run them."""
    bnb = optional("bitsandbytes", "a 4-bit model")
    from qtoolkit.formats.bitsandbytes.linear4bit import Linear4bit

    for module in model.modules():
        if type(module) is bnb.nn.Linear4bit:
            module.__class__ = Linear4bit
