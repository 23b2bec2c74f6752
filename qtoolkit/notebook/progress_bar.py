"""Draw the bar of a running magic with widgets of ipywidgets 7.7 and 8, removed from page and kernel at the end."""

import time
from html import escape
from types import TracebackType
from typing import Any

from IPython.display import display
from ipywidgets import HTML, FloatProgress, Layout, VBox, Widget

from qtoolkit.notebook.progress import Clock, Progress, fraction
from qtoolkit.records import ProgressEvent
from qtoolkit.units import format_seconds

SECONDS_BETWEEN_UPDATES = 0.1

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class BarProgress(Progress):
    """A bar, and the same as a line of text for people who do not see the bar."""

    def __init__(self, title: str, clock: Clock = time.monotonic) -> None:
        super().__init__(title, clock)
        self.bar = FloatProgress(min=0.0, max=1.0, layout=Layout(width="auto"))
        self.text = HTML()
        self.box = VBox([self.bar, self.text])
        self._show(f"{title}: starting")
        self._drawn: float | None = None
        self._handle: Any = None

    def start(self) -> None:
        """Put the bar on the page."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        # As raw data: a widget of ipywidgets 7 displays itself, without a handle to replace it by.
        bundle = {WIDGET_VIEW: view, "text/plain": f"{self.title}: running"}
        self._handle = display(bundle, raw=True, display_id=True)

    def __call__(self, event: ProgressEvent) -> None:
        line = self._line(event)
        now = self._clock()
        if self._drawn is None or now - self._drawn >= SECONDS_BETWEEN_UPDATES:
            self._drawn = now
            self.bar.value = fraction(event)
            self._show(line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Replace the bar by a line of text: a saved page cannot show a widget without its kernel."""
        end = "done" if kind is None else "stopped" if kind is KeyboardInterrupt else "failed"
        line = f"{self.title}: {end} after {format_seconds(self._elapsed())}"
        if self._handle is not None:
            bundle = {"text/plain": line, "text/html": f'<div role="status">{escape(line)}</div>'}
            self._handle.update(bundle, raw=True)
        close_widget(self.box)

    def _show(self, line: str) -> None:
        self.text.value = f'<span role="status" aria-live="polite">{escape(line)}</span>'


def close_widget(widget: Widget) -> None:
    """Close a widget with its children, layout and style, each of which is a widget of its own to the page."""
    for child in getattr(widget, "children", ()):
        close_widget(child)
    parts = [getattr(widget, name, None) for name in ("layout", "style")]
    for part in (widget, *parts):
        if isinstance(part, Widget):
            part.close()
