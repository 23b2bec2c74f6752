"""Fold fields away behind a button, which the keyboard reaches: an accordion's header of ipywidgets it does not."""

from collections.abc import Sequence
from typing import Any

from ipywidgets import Layout, VBox

from qtoolkit.notebook.panels.field import ButtonField


class Fold:
    """A button that shows and hides what is below it.

    Args:
        title: what the button says.
        children: what is hidden at first.

    Attributes:
        box: the widget to put on the page.
        button: shows and hides.
    """

    def __init__(self, title: str, children: Sequence[Any]) -> None:
        self._title = title
        self._content = VBox(list(children), layout=Layout(display="none"))
        self.button = ButtonField("", lambda: self.turn(open_=not self.is_open))
        self.box = VBox([self.button.box, self._content])
        self.turn(open_=False)

    @property
    def is_open(self) -> bool:
        """Return whether its content is seen."""
        return bool(self._content.layout.display != "none")

    def turn(self, *, open_: bool) -> None:
        """Show or hide the content."""
        # None is the value of a layout that says nothing, in ipywidgets 7 and 8.
        self._content.layout.display = None if open_ else "none"
        self.button.control.description = f"{'▾' if open_ else '▸'} {self._title}"
