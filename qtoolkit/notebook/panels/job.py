"""Start, cancel, and the progress of one kind of job in a panel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ipywidgets import Box, Layout, VBox

from qtoolkit.errors import JobCancelled
from qtoolkit.notebook.errors import forget_variables
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.call import Call
from qtoolkit.notebook.panels.field import Action, Places, place_of, told
from qtoolkit.notebook.panels.memory_chart import JobMemory
from qtoolkit.notebook.panels.progress import CANCELLING, PanelProgress, ProgressView
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.stop_button import StopButton
from qtoolkit.records import Record

_CANCELLED = "cancelled; nothing is half-written, and the same call goes on with what was kept"


@dataclass(frozen=True)
class Job:
    """What shall be done.

    Attributes:
        call: the call that is made.
        title: what it is called in its progress.
        take: given what the call returns; returns the record that stays on the page.
        predicted: the peaks of main and GPU memory that a plan predicts, in bytes; 0 where there is none.
        draw: draws what only this job has, as often as its progress is drawn.
        unseen: makes further arguments of the call, which do not change what is made, from the job's progress.
    """

    call: Call
    title: str
    take: Callable[[Any], Record]
    predicted: tuple[int, int] = (0, 0)
    draw: Callable[[], None] = lambda: None
    unseen: Callable[[PanelProgress], dict[str, Any]] = lambda progress: {"on_progress": progress}


class JobRunner:
    """Buttons that start jobs and one that cancels them, with their progress below.

    Args:
        worker: runs the job; one for all runners of a panel.
        results: where the result stays.
        actions: what stands on a button -> makes its job, or raises where a field is wrong, which then says so.
        places: the fields that an error of a job may be about; it is told beside them too.

    Attributes:
        box: what is put on the page.
        actions: the buttons, by what stands on them; with "Cancel".
        view: the progress.
    """

    def __init__(
        self, worker: Worker, results: Results, actions: dict[str, Callable[[], Job]], places: Places | None = None
    ) -> None:
        self._worker, self._results, self._places = worker, results, places or {}
        self._stop_button = StopButton(worker.cancelled.set)
        self.view = ProgressView()
        self.actions = {
            label: Action(label, self._starter(label, make), main=label == next(reversed(actions)))
            for label, make in actions.items()
        }
        self.actions["Cancel"] = Action("Cancel", self._cancel)
        row = Box([action.box for action in self.actions.values()], layout=Layout(flex_flow="row wrap"))
        self.box = VBox([row, self.view.box])

    def _starter(self, label: str, make: Callable[[], Job]) -> Callable[[], None]:
        def start() -> None:
            for field in self._places.values():
                field.complain("")
            job = make()
            self._worker.start(lambda: self._run(job))

        return start

    def _cancel(self) -> None:
        if self._worker.running:
            self._worker.cancelled.set()
            self.view.say(CANCELLING)
        else:
            self.view.say("no job is running")

    def _run(self, job: Job) -> None:
        """Do a job and show what came of it; in the worker's thread."""
        self.view.say(f"{job.title}: starting")
        progress = PanelProgress(job.title, self._worker.cancelled)
        memory = JobMemory(*job.predicted)
        self._stop_button.listen()
        try:
            result = self.view.follow(progress, memory, lambda: job.call.make(**job.unseen(progress)), job.draw)
            self._results.add(job.call.verb, str(job.call), job.take(result))
            self.view.say(f"{job.title}: done")
        except BaseException as error:  # noqa: BLE001  # nobody else would see it
            forget_variables(error)
            line = _CANCELLED if isinstance(error, JobCancelled) else told(error)
            self._results.add(job.call.verb, str(job.call), line)
            self.view.say(f"{job.title}: {line}")
            field = place_of(error, self._places)
            if field:
                field.complain(line)
        finally:
            self._stop_button.leave()
