"""Turn the advice of a plan into buttons, each of which sets the fields of the method and the device."""

import ast
from functools import partial

from ipywidgets import VBox

from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig, find_config
from qtoolkit.notebook.panels.field import ButtonField
from qtoolkit.notebook.panels.shared_fields import MethodFields
from qtoolkit.records import Advice, Plan

# As many as a plan gives.
_MOST = 4
_WITH_DEVICE = " with device="


class AdviceButtons:
    """One button for each change that a plan suggests.

    Made once and shown when they are needed: a plan comes from a thread, which had better make no widgets.

    Args:
        methods: the fields that a button sets.

    Attributes:
        box: the widget to put on the page.
        buttons: all buttons, hidden or not.
    """

    def __init__(self, methods: MethodFields) -> None:
        self._methods = methods
        self._shown: list[tuple[MethodConfig, str]] = []
        self.buttons = [ButtonField("", partial(self._apply, index)) for index in range(_MOST)]
        self.box = VBox([button.box for button in self.buttons])
        self.show(None)

    def show(self, plan: Plan | None) -> None:
        """Show the advice of a plan; none for None, or where all is well."""
        advice = [(one, read) for one in (plan.advice if plan else ()) if (read := read_change(one.change))][:_MOST]
        self._shown = [read for _, read in advice]
        for index, button in enumerate(self.buttons):
            button.box.layout.display = None if index < len(advice) else "none"
            if index < len(advice):
                self._label(button, advice[index][0])

    def _label(self, button: ButtonField, advice: Advice) -> None:
        button.control.description = f"Use {advice.change}"
        button.set_hint(f"{'fits' if advice.fits else 'does not fit, but needs the least'}: {advice.peaks()}")

    def _apply(self, index: int) -> None:
        config, device = self._shown[index]
        if device:
            self._methods.device.value = device
        self._methods.form.apply(config)


def read_change(change: str) -> tuple[MethodConfig, str] | None:
    """Return the config and the device of an advice; None for a method that this package does not have.

    Args:
        change: as it is written in a call: "GPTQ(num_samples=32)", "NF4() with device='cpu'"; no device is "".
    """
    call, _, device = change.partition(_WITH_DEVICE)
    try:
        tree = ast.parse(call, mode="eval").body
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
            return None
        config_class = find_config(tree.func.id)
        options = {one.arg: ast.literal_eval(one.value) for one in tree.keywords if one.arg}
        return None if config_class is None else (config_class(**options), device.strip("'"))
    except (SyntaxError, ValueError, ConfigError):
        return None
