"""Show the progress of a running magic as a bar or as plain lines."""

import importlib.util
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from qtoolkit.errors import MissingDependencyError, masked, printable
from qtoolkit.records import ProgressEvent
from qtoolkit.units import format_bytes, format_seconds

Clock = Callable[[], float]


def open_progress(choice: str, shell: Any, title: str) -> "Progress":
    """Return the progress that a person chose, for a `with` statement and as `on_progress`.

    Args:
        choice: "auto", "widget", "text" or "none".
        shell: the IPython shell; "auto" draws a bar if it has a kernel, and so a page that can show one.
        title: the job's name.

    Raises:
        MissingDependencyError: `choice` is "widget", and ipywidgets is not installed.
    """
    # A token may have been pasted instead of a model's name.
    title = printable(masked(title))
    has_widgets = importlib.util.find_spec("ipywidgets") is not None
    if choice == "auto":
        choice = "widget" if has_widgets and getattr(shell, "kernel", None) is not None else "text"
    if choice == "widget":
        if not has_widgets:
            message = "progress = 'widget' needs ipywidgets: run `pip install ipywidgets`, or choose 'text'"
            raise MissingDependencyError(message)
        from qtoolkit.notebook.progress_bar import BarProgress

        return BarProgress(title)
    return TextProgress(title) if choice == "text" else NoProgress(title)


class Progress(ABC):
    """Receive the events of a job; a `with` statement shows it and takes it down.

    Args:
        title: the job's name, "nf4 of org/model".
        clock: returns seconds that never run backwards.
    """

    def __init__(self, title: str, clock: Clock = time.monotonic) -> None:
        self.title = title
        self._clock = clock
        self._started = clock()
        self._phase_started: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Take down what is shown; an error is raised as it is."""

    def start(self) -> None:
        """Say that the job has begun: its first event comes after seconds of imports."""

    @abstractmethod
    def __call__(self, event: ProgressEvent) -> None:
        """Show one event of the job."""

    def _elapsed(self) -> float:
        return self._clock() - self._started

    def _line(self, event: ProgressEvent) -> str:
        """Write an event as a line: `quantize: 3 of 30 layers (10 %), 2 s elapsed, about 18 s left in this phase`."""
        now = self._clock()
        in_phase = now - self._phase_started.setdefault(event.phase, now)
        parts = [f"{event.phase}: {count_of(event)}", f"{format_seconds(now - self._started)} elapsed"]
        if 0 < event.done < event.total and in_phase > 0:
            left = in_phase * (event.total - event.done) / event.done
            parts.append(f"about {format_seconds(left)} left in this phase")
        return ", ".join([*parts, printable(event.detail)] if event.detail else parts)


class NoProgress(Progress):
    """Show nothing, so that the outputs of a notebook are the same in every run."""

    def __call__(self, event: ProgressEvent) -> None:
        pass


class TextProgress(Progress):
    """Print plain lines: the first event of each phase, and then one for every 10 %."""

    def __init__(self, title: str, clock: Clock = time.monotonic) -> None:
        super().__init__(title, clock)
        self._printed: dict[str, int] = {}

    def start(self) -> None:
        """Print the job's name."""
        print(f"{self.title}: starting", flush=True)

    def __call__(self, event: ProgressEvent) -> None:
        line = self._line(event)
        tenths = 10 * event.done // event.total if event.total else 0
        if tenths > self._printed.get(event.phase, -1):
            self._printed[event.phase] = tenths
            print(line, flush=True)


def fraction(event: ProgressEvent) -> float:
    """Return how much of its phase is done, from 0 to 1; 0 if the total is unknown."""
    return min(event.done / event.total, 1.0) if event.total else 0.0


def count_of(event: ProgressEvent) -> str:
    """Write how much of its phase is done: "3 of 30 layers (10 %)"."""
    in_bytes = event.unit == "bytes"
    done = format_bytes(event.done) if in_bytes else str(event.done)
    if not event.total:
        return done if in_bytes else f"{done} {event.unit}"
    total = format_bytes(event.total) if in_bytes else f"{event.total} {event.unit}"
    return f"{done} of {total} ({100 * fraction(event):.0f} %)"
