"""Open the six panels as tabs, or one of them alone."""

import sys
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from IPython.display import display
from ipywidgets import HTML, Layout, Tab, VBox

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.panel_names import PANELS
from qtoolkit.notebook.panels.background import PAUSE, Worker
from qtoolkit.notebook.panels.compare_panel import ComparePanel
from qtoolkit.notebook.panels.convert_panel import ConvertPanel
from qtoolkit.notebook.panels.docs_links import docs_links
from qtoolkit.notebook.panels.model_panel import ModelPanel
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.plan_panel import PlanPanel
from qtoolkit.notebook.panels.publish_panel import PublishPanel
from qtoolkit.notebook.panels.quantize_panel import QuantizePanel
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.shared_fields import MethodFields
from qtoolkit.notebook.progress_bar import WIDGET_VIEW, close_widget

STYLE = Path(__file__).with_name("panel.css")
_TEXT = "The panel of qtoolkit is there while its kernel runs: run this cell to open it."
_GONE = "The kernel of this panel has ended: this is its last state. What was saved stays; run the cell again to go on."


class Panel:
    """Load, plan, quantize, compare, convert and publish by hand.

    Not a widget itself: ipywidgets 7 and 8 show widgets in different ways, and this is shown the same by both, with
    text for pages that have no kernel.

    Attributes:
        choice: what is chosen: model, config, device, folder.
        results: the results of jobs, by verb.
        worker: runs the jobs, one at a time; shared by all `Panel`s, so that one that is opened again can cancel them.
        model, plan, quantize, compare, convert, publish: the panels that are shown, otherwise None.
    """

    worker = Worker()

    def __init__(self, model: Any = "", *, only: str | None = None, pause: float = PAUSE) -> None:
        if not isinstance(model, str | PathLike):
            kind = type(model).__name__
            raise ConfigError(f"a panel takes a Hub id, a folder or a .gguf file, got {kind}: give its name")
        if only is not None and only not in PANELS:
            raise ConfigError(f"only must be one of {', '.join(PANELS)}, got {only!r}")
        if "google.colab" in sys.modules:
            from qtoolkit.publishing import read_token

            read_token()
        self.choice = PanelChoice(model=fspath(model))
        self.results = Results()
        shared = (self.choice, self.worker, self.results)
        shown = PANELS if only is None else (only,)
        self.model = ModelPanel(self.choice, pause=pause) if "model" in shown else None
        methods = MethodFields(self.choice) if {"plan", "quantize"} & set(shown) else None
        self.plan = PlanPanel(self.choice, methods, pause=pause) if methods and "plan" in shown else None
        self.quantize = QuantizePanel(*shared, methods, shown) if methods and "quantize" in shown else None
        self.compare = ComparePanel(*shared, shown) if "compare" in shown else None
        self.convert = ConvertPanel(*shared, shown) if "convert" in shown else None
        self.publish = PublishPanel(*shared) if "publish" in shown else None
        style = HTML(f"<style>{STYLE.read_text(encoding='utf-8')}</style>", layout=Layout(display="none"))
        boxes = [getattr(self, name).box for name in shown]
        tabs = Tab(children=boxes) if only is None else boxes[0]
        if only is None:
            for index, name in enumerate(shown):
                tabs.set_title(index, name.capitalize())
            tabs.observe(self._turn, names="selected_index")
            self.choice.observe(lambda change: self._open(tabs, change["new"]), names="turned_to")
        # Shown by the style once the page has lost the kernel.
        gone = HTML(f'<div role="status">{_GONE}</div>')
        gone.add_class("qtk-gone")
        self.box = VBox([style, gone, tabs, HTML(docs_links(shown))])
        self.box.add_class("qtk")

    def _open(self, tabs: Tab, name: str) -> None:
        """Turn to the panel of this name; to none for an empty one."""
        if name:
            tabs.selected_index = PANELS.index(name)

    def _turn(self, change: Any) -> None:
        """Let the panel that is turned to take what was saved meanwhile."""
        takers = {"model": self.model, "compare": self.compare, "convert": self.convert, "publish": self.publish}
        panel = takers.get(PANELS[change["new"] or 0])
        if panel is not None:
            panel.refresh()

    def close(self) -> None:
        """Take the panel off the page and out of the kernel; results stay, and a running job goes on."""
        close_widget(self.box)

    def __repr__(self) -> str:
        return f"Panel(model={self.choice.model!r})"

    def _ipython_display_(self) -> None:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        display({WIDGET_VIEW: view, "text/plain": _TEXT, "text/html": f"<div>{_TEXT}</div>"}, raw=True)
        self.results.open()


def panel(model: str | PathLike[str] = "", *, only: str | None = None) -> Panel:
    """Open the panels in a notebook: choose a model, see whether it fits, quantize, compare, convert, publish.

    They show the Python call that each button makes. What a job gives is put below them as text and HTML, which stay in
    the notebook when the kernel is gone.

    Args:
        model: chosen from the start: a Hub id, a folder or a `.gguf` file; empty for none.
        only: one of the panels alone: "model", "plan", "quantize", "compare", "convert" or "publish".

    Raises:
        ConfigError: no panel of that name, or no name of a model.
    """
    return Panel(model, only=only)
