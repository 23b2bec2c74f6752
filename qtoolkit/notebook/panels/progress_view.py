"""Show the progress of a job in a panel: a bar for each phase, its memory, and the same as text."""

import threading
import time
from collections.abc import Callable
from html import escape
from typing import TypeVar

from ipywidgets import HTML, Layout, VBox

from qtoolkit.errors import JobCancelled
from qtoolkit.notebook.panels.memory_chart import JobMemory
from qtoolkit.notebook.progress import Clock, Progress, count_of, fraction
from qtoolkit.records import ProgressEvent
from qtoolkit.units import format_bytes, format_seconds

T = TypeVar("T")
# Seconds between two drawings, each of three texts at most: with what the end of a job sends at once, no more than ten
# messages a second reach the page.
INTERVAL = 1.0
CANCELLING = "cancelling after the step that is running"


class PanelProgress(Progress):
    """Keep the latest events of a job, which runs in one thread, for `ProgressView.draw`, which runs in another.

    Args:
        title: the job's name.
        cancelled: once it is set, the job stops at its next event.
        clock: returns seconds that never run backwards.
    """

    def __init__(self, title: str, cancelled: threading.Event, clock: Clock = time.monotonic) -> None:
        super().__init__(title, clock)
        self._cancelled = cancelled
        # Phase -> its last event, and that as a line; replaced, never changed, so that another thread may read it.
        self._latest: dict[str, tuple[ProgressEvent, str]] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Keep an event.

        Raises:
            JobCancelled: the job was cancelled.
        """
        self._latest = {**self._latest, event.phase: (event, self._line(event))}
        if self._cancelled.is_set():
            raise JobCancelled(f"{self.title} was cancelled")

    def state(self) -> str:
        """Describe in some words how far the job is."""
        if self._cancelled.is_set():
            return CANCELLING
        lines = self.lines()
        return _rough_state(lines[-1][0]) if lines else "starting"

    def end(self) -> str:
        """Describe when the job ended, and where: "after 1.5 s, in quantize at 5 of 210 layers (2 %)"."""
        lines = self.lines()
        place = f", in {lines[-1][0].phase} at {count_of(lines[-1][0])}" if lines else ""
        return f"after {format_seconds(self._elapsed())}{place}"

    def seconds(self) -> str:
        """Return the time since the job began as text."""
        return format_seconds(self._elapsed())

    def lines(self) -> tuple[tuple[ProgressEvent, str], ...]:
        """Return the last event of each phase, and that as a line, in the order in which the phases began."""
        return tuple(self._latest.values())


class ProgressView:
    """Draw the progress of one job after the other.

    Attributes:
        box: the widget to put on the page.
        bars: HTML with a bar for each phase, and the memory.
        status: HTML with one line for people who do not see the bars.
    """

    def __init__(self) -> None:
        self.bars = HTML(layout=Layout(max_width="100%"))
        self.status = HTML(layout=Layout(max_width="100%"))
        self.box = VBox([self.status, self.bars])

    def show_status(self, line: str, *, failed: bool = False) -> None:
        """Put one line into the status, marked where it tells of a failure."""
        kind, mark = (" qtk-failed", "✖ ") if failed else ("", "")
        self.status.value = f'<div role="status" aria-live="polite" class="qtk-text{kind}">{mark}{escape(line)}</div>'

    def draw(self, progress: PanelProgress, memory: JobMemory, draw_more: Callable[[], None]) -> None:
        """Put the latest progress of a job on the page, and what `draw_more` draws."""
        draw_more()
        self.bars.value = "".join([*(_bar(event, line) for event, line in progress.lines()), memory.picture()])
        self.show_status(f"{progress.title}: {progress.state()}")

    def draw_end(self, memory: JobMemory, draw_more: Callable[[], None]) -> None:
        """Take the bars away, whose "about 5 s left" is no longer true, and fold the memory."""
        draw_more()
        picture = memory.picture()
        summary = f"Memory while it ran: at most {format_bytes(memory.main.peak)}"
        folded = f'<details class="qtk-text"><summary>{summary}</summary>{picture}</details>'
        self.bars.value = folded if picture else ""

    def follow(
        self, progress: PanelProgress, memory: JobMemory, job: Callable[[], T], draw_more: Callable[[], None]
    ) -> T:
        """Run a job in this thread while another one draws it, and return its result."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(INTERVAL):
                memory.sample()
                self.draw(progress, memory, draw_more)

        watcher = threading.Thread(target=watch, name="qtoolkit-progress", daemon=True)
        watcher.start()
        try:
            return job()
        finally:
            ended.set()
            watcher.join()
            self.draw_end(memory, draw_more)


def _rough_state(event: ProgressEvent) -> str:
    """Write how far a phase is, in steps of 10 %: a screen reader reads each new text aloud."""
    tens = 10 * int(10 * fraction(event))
    return f"{event.phase}, {tens} %{' or more' * bool(tens)}" if event.total else event.phase


def _bar(event: ProgressEvent, line: str) -> str:
    """Draw a phase as a bar below its line of text."""
    percent = round(100 * fraction(event))
    value = f'aria-valuenow="{percent}" ' if event.total else ""
    return (
        f'<div class="qtk-text">{escape(line)}</div>'
        f'<div role="progressbar" aria-label="{escape(event.phase)}" aria-valuemin="0" aria-valuemax="100" {value}'
        f'class="qtk-text qtk-bar"><div style="width:{percent}%"></div></div>'
    )
