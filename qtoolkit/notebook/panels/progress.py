"""What a job in a panel says: a bar for each phase, its memory, and the same as text."""

import threading
import time
from collections.abc import Callable
from html import escape
from typing import TypeVar

from ipywidgets import HTML, Layout, VBox

from qtoolkit.errors import JobCancelled
from qtoolkit.notebook.panels.memory_chart import MemoryTrace
from qtoolkit.notebook.progress import Clock, Progress, fraction
from qtoolkit.records import ProgressEvent

T = TypeVar("T")
# Seconds between two drawings, each of three texts at most: fewer than ten messages a second reach the page.
INTERVAL = 0.35
CANCELLING = "cancelling after the step that is running"


class PanelProgress(Progress):
    """Notes what a job says in its own thread; `draw`, in another, puts the latest of it on the page.

    Args:
        title: what runs.
        cancelled: stops the job at its next event once it is set.
        clock: seconds that never run backwards.
    """

    def __init__(self, title: str, cancelled: threading.Event, clock: Clock = time.monotonic) -> None:
        super().__init__(title, clock)
        self._cancelled = cancelled
        # Phase -> its last event and that as a line; replaced whole, so that another thread may read it.
        self._latest: dict[str, tuple[ProgressEvent, str]] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Note an event.

        Raises:
            JobCancelled: somebody wants the job to stop.
        """
        self._latest = {**self._latest, event.phase: (event, self._line(event))}
        if self._cancelled.is_set():
            raise JobCancelled(f"{self.title} was cancelled")

    def state(self) -> str:
        """Where the job is, in some words."""
        if self._cancelled.is_set():
            return CANCELLING
        lines = self.lines()
        return _told(lines[-1][0]) if lines else "starting"

    def lines(self) -> tuple[tuple[ProgressEvent, str], ...]:
        """The last event of each phase, and that as a line, in the order in which the phases began."""
        return tuple(self._latest.values())


class ProgressView:
    """Draws the progress of one job after the other.

    Attributes:
        box: what is put on the page.
        bars: HTML with a bar for each phase, and the memory.
        status: HTML with one line for people who do not see the bars.
    """

    def __init__(self) -> None:
        self.bars, self.status = HTML(layout=Layout(max_width="100%")), HTML(layout=Layout(max_width="100%"))
        self.box = VBox([self.status, self.bars])

    def say(self, line: str) -> None:
        """Put one line in the status."""
        self.status.value = f'<div role="status" aria-live="polite" class="qtk-text">{escape(line)}</div>'

    def draw(self, progress: PanelProgress, trace: MemoryTrace, also: Callable[[], None]) -> None:
        """Put the latest of a job on the page, and what else is drawn of it."""
        also()
        self.bars.value = "".join([*(_bar(event, line) for event, line in progress.lines()), trace.picture()])
        self.say(f"{progress.title}: {progress.state()}")

    def follow(self, progress: PanelProgress, trace: MemoryTrace, job: Callable[[], T], also: Callable[[], None]) -> T:
        """Do a job in this thread while another one draws it, and return what it gives."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(INTERVAL):
                trace.sample()
                self.draw(progress, trace, also)

        watcher = threading.Thread(target=watch, name="qtoolkit-progress", daemon=True)
        watcher.start()
        try:
            return job()
        finally:
            ended.set()
            watcher.join()
            self.draw(progress, trace, also)


def _told(event: ProgressEvent) -> str:
    """A phase in tens of percent: a screen reader reads each new text aloud."""
    return f"{event.phase}, {10 * int(10 * fraction(event))} %" if event.total else event.phase


def _bar(event: ProgressEvent, line: str) -> str:
    """A phase as a bar and as a line of text."""
    percent = round(100 * fraction(event))
    value = f'aria-valuenow="{percent}" ' if event.total else ""
    return (
        f'<div class="qtk-text">{escape(line)}</div>'
        f'<div role="progressbar" aria-label="{escape(event.phase)}" aria-valuemin="0" aria-valuemax="100" {value}'
        f'class="qtk-text qtk-bar"><div style="width:{percent}%"></div></div>'
    )
