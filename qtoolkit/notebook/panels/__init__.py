"""Show the verbs as panels, to be used by hand: each shows the call that it makes, and holds no logic of its own."""

from qtoolkit.notebook.panels.panel import Panel, panel

__all__ = ["Panel", "panel"]
