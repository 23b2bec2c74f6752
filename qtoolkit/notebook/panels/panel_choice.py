"""Hold what a person has chosen in the panels, which all of them share."""

from typing import Any

from traitlets import Any as AnyTrait
from traitlets import HasTraits, Unicode


class PanelChoice(HasTraits):
    """What a person has chosen so far; each panel observes it, and changes it.

    Attributes:
        model: a Hub id, a folder or a `.gguf` file.
        config: the config to quantize with; None as long as a field of it is wrong.
        device: "auto", "cpu" or "cuda".
        for_: the program that shall load the result; empty for none in particular.
        plan: the plan of model, config and device; None until there is one.
        folder: the folder that was saved last; empty if none was.
        turned_to: the panel that shall be seen, by its name; empty for the one that is.
    """

    model = Unicode()
    config = AnyTrait()
    device = Unicode("auto")
    for_ = Unicode()
    plan = AnyTrait()
    folder = Unicode()
    turned_to = Unicode()

    def device_option(self) -> dict[str, Any]:
        """Return the device as a keyword argument; nothing for "auto", which is every verb's default."""
        return {} if self.device == "auto" else {"device": self.device}

    def quantized(self) -> tuple[Any, ...]:
        """Return what a plan depends on: model, config and device."""
        return (self.model, self.config, self.device)
