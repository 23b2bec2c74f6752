"""Buttons that turn to the panels which go on with what was saved."""

from collections.abc import Sequence
from functools import partial

from ipywidgets import HTML, Box, Layout, VBox

from qtoolkit.notebook.panels.field import ButtonField
from qtoolkit.notebook.panels.panel_choice import PanelChoice

# Panel -> what it does with the folder.
_STEPS = {
    "compare": "Compare it with the original",
    "publish": "Verify and publish it",
    "convert": "Write it in another format",
}


class NextSteps:
    """One button for each panel that goes on with the folder that was saved.

    Args:
        choice: is told which panel to turn to, with which folder.
        shown: the names of the panels on the page; a step whose panel is not there has no button.
        steps: the names of the panels that go on with it, in the order in which most people want them.

    Attributes:
        box: the widget to put on the page.
        buttons: by the panel's name.
    """

    def __init__(self, choice: PanelChoice, shown: Sequence[str], steps: Sequence[str] = tuple(_STEPS)) -> None:
        self._choice = choice
        self._folder = ""
        self.buttons = {
            name: ButtonField(_STEPS[name], partial(self._turn, name), main=name == steps[0])
            for name in steps
            if name in shown
        }
        row = [button.box for button in self.buttons.values()]
        told = '<div class="qtk-text">Next, in this order:</div>'
        self.box = VBox([HTML(told), Box(row, layout=Layout(flex_flow="row wrap"))] if row else [])

    def take(self, folder: str, *, without: Sequence[str] = ()) -> None:
        """Let the panels go on with a folder that was just saved, all but those that would refuse it."""
        self._folder = self._choice.folder = folder
        for name, button in self.buttons.items():
            button.box.layout.display = "none" if name in without else None

    def _turn(self, name: str) -> None:
        # Another panel may have saved something since. Emptied first, to be heard also when it is the same panel again.
        self._choice.folder, self._choice.turned_to = self._folder, ""
        self._choice.turned_to = name
