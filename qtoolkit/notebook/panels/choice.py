"""What the panels have in common."""

from typing import Any

from traitlets import Any as AnyTrait
from traitlets import HasTraits, Unicode


class Choice(HasTraits):
    """What a person has chosen so far; a panel that changes it tells the others.

    Attributes:
        model: a Hub id, a folder or a `.gguf` file.
        config: how to quantize it; None while the fields for it are wrong.
        device: "auto", "cpu" or "cuda".
        plan: what was predicted for these; None while it is not known.
        folder: what was saved last; empty while nothing was.
    """

    model = Unicode()
    config = AnyTrait()
    device = Unicode("auto")
    plan = AnyTrait()
    folder = Unicode()

    def quantized(self) -> tuple[Any, ...]:
        """What a plan is for: model, config and device."""
        return (self.model, self.config, self.device)
