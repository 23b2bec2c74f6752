"""Buttons that turn to the panels which go on with what was saved."""

from collections.abc import Sequence
from functools import partial

from ipywidgets import HTML, Box, Layout, VBox

from qtoolkit.notebook.panels.field import ButtonField
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.verb_call import VerbCall, call_html

# Panel -> what it does with the folder.
_STEPS = {
    "compare": "Compare it with the original",
    "publish": "Verify and publish it",
    "convert": "Write it in another format",
}


class NextSteps:
    """One button for each panel that goes on with the folder that was saved.

    Args:
        choice: is told which panel to turn to.
        shown: the names of the panels on the page; a step whose panel is not there has no button.
        steps: the names of the panels that go on with it, in the order in which most people want them.

    Attributes:
        box: the widget to put on the page.
        buttons: by the panel's name.
        repair: HTML with the call that computes an adapter for what was saved; it takes long, and belongs into a cell.
    """

    def __init__(self, choice: PanelChoice, shown: Sequence[str], steps: Sequence[str] = tuple(_STEPS)) -> None:
        self._choice = choice
        self.buttons = {name: ButtonField(_STEPS[name], partial(self._turn, name)) for name in steps if name in shown}
        buttons = Box([button.box for button in self.buttons.values()], layout=Layout(flex_flow="row wrap"))
        told = HTML('<div class="qtk-text">Next, in this order:</div>')
        self.box = VBox([told, buttons] if self.buttons else [])
        self.repair = HTML()
        choice.observe(lambda change: self._show_repair(), names="folder")
        self._show_repair()

    def _show_repair(self) -> None:
        folder, model = self._choice.folder, self._choice.model
        call = call_html(VerbCall("repair", (folder, model, f"{folder}-repair")))
        told = "An adapter gives it back some of what it lost (run this in a cell):"
        self.repair.value = f'<div class="qtk-text">{told}</div>{call}' if folder and model else ""

    def _turn(self, name: str) -> None:
        # Also when the same panel is asked for again.
        self._choice.turned_to = ""
        self._choice.turned_to = name
