"""Panels: the verbs by hand. They show the call that they will make, make it, and hold no logic of their own."""

from qtoolkit.notebook.panels.whole import Panel, panel

__all__ = ["Panel", "panel"]
