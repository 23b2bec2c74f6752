"""Run jobs from a panel: buttons that start and cancel them, and their progress below."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ipywidgets import Box, Layout, VBox

from qtoolkit.errors import JobCancelled
from qtoolkit.notebook.magic_errors import forget_variables
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.field import ButtonField, ErrorFields, Field, field_of_error
from qtoolkit.notebook.panels.memory_chart import JobMemory
from qtoolkit.notebook.panels.panel_words import headline_of_panel, panel_line
from qtoolkit.notebook.panels.progress_view import CANCELLING, PanelProgress, ProgressView
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.stop_button import StopButton
from qtoolkit.notebook.panels.verb_call import PanelCall
from qtoolkit.records import Record

_WHOLE = "nothing is half-written"


@dataclass(frozen=True)
class Job:
    """A job that a button starts.

    Attributes:
        call: the call to make.
        title: its name in the progress.
        on_result: called with what the call returns; returns the record to show on the page.
        predicted: the peaks of main and GPU memory in its plan, in bytes; 0 if unknown.
        draw: called whenever the progress is drawn, for what only this job shows.
        kept: called when the job was cancelled; returns what the same call goes on with, empty for nothing.
        hidden: further arguments of the call beside `on_progress`, which do not change its result.
    """

    call: PanelCall
    title: str
    on_result: Callable[[Any], Record]
    predicted: tuple[int, int] = (0, 0)
    draw: Callable[[], None] = lambda: None
    kept: Callable[[], str] = lambda: ""
    hidden: Mapping[str, Any] = field(default_factory=dict)


class JobRunner:
    """Buttons that start jobs and one that cancels the running job, with its progress below.

    Args:
        worker: runs the job; shared by all runners of a panel.
        results: shows the result.
        actions: label of a button -> makes its job, or raises if a field is wrong, which then shows the error.
        fields: the fields of the job's call; an error about one's keyword is shown beside it too.
        error_fields: further fields that errors are about.

    Attributes:
        box: the widget to put on the page.
        actions: label -> button; with "Cancel".
        view: the progress of the jobs of these buttons.
    """

    def __init__(
        self,
        worker: Worker,
        results: Results,
        actions: dict[str, Callable[[], Job]],
        fields: Sequence[Field] = (),
        error_fields: ErrorFields | None = None,
    ) -> None:
        self._worker = worker
        self._results = results
        keywords: ErrorFields = {shown.keyword: shown for shown in fields if shown.keyword}
        self._error_fields = {**keywords, **(error_fields or {})}
        # The field that the last refusal points at, which is so until it has another value, and where that is said.
        self._refused: tuple[Field, ProgressView] | None = None
        for shown in dict.fromkeys(self._error_fields.values()):
            shown.on_change(partial(self._forget_refusal, shown))
        self._stop_button = StopButton(worker.cancelled.set)
        self.view = self._shown_in = ProgressView()
        self.actions = {
            label: ButtonField(label, self._starter(label, make_job, self.view), main=label == next(reversed(actions)))
            for label, make_job in actions.items()
        }
        self.actions["Cancel"] = ButtonField("Cancel", self._cancel)
        row = Box([action.box for action in self.actions.values()], layout=Layout(flex_flow="row wrap"))
        self.box = VBox([row, self.view.box])

    def further_button(self, label: str, make_job: Callable[[], Job], view: ProgressView) -> ButtonField:
        """Return one more button that starts a job, to be put elsewhere with its view; Cancel is this one's."""
        self.actions[label] = ButtonField(label, self._starter(label, make_job, view))
        return self.actions[label]

    def _starter(self, label: str, make_job: Callable[[], Job], view: ProgressView) -> Callable[[], None]:
        def start() -> None:
            for shown in (*self._error_fields.values(), *self.actions.values()):
                shown.set_problem("")
            job = make_job()
            if self._worker.running:
                # What the button then says is true until that job ends.
                self._worker.when_idle(lambda: self.actions[label].set_problem(""))
            self._worker.start(lambda: self._run(job, view))

        return start

    def _forget_refusal(self, changed: Field) -> None:
        """Take a refusal off the page whose field has got another value."""
        if self._refused is not None and self._refused[0] is changed:
            self._refused[1].show_status("")
            self._refused = None

    def _cancel(self) -> None:
        if self._worker.running:
            self._worker.cancelled.set()
            self._shown_in.show_status(CANCELLING)
        else:
            self.view.show_status("no job is running")

    def _run(self, job: Job, view: ProgressView) -> None:
        """Run a job in the worker's thread, and show its result or its error."""
        self._shown_in, self._refused = view, None
        view.show_status(f"{job.title}: starting")
        self._results.forget_error(job.call.verb)
        progress = PanelProgress(job.title, self._worker.cancelled)
        memory = JobMemory(*job.predicted)
        self._stop_button.listen()
        run = partial(job.call.run, on_progress=progress, **job.hidden)
        try:
            record = job.on_result(view.follow(progress, memory, run, job.draw))
            self._results.add(job.call.verb, str(job.call), record)
            # The report may be a screen further down.
            view.show_status(
                f"{job.title}: done in {progress.seconds()}. {headline_of_panel(record.headline())}".strip()
            )
        except JobCancelled:
            ended = "; ".join(filter(None, (f"cancelled {progress.end()}", _WHOLE, job.kept())))
            view.show_status(f"{job.title}: {ended}")
        except BaseException as error:  # noqa: BLE001  # nobody else would see it
            forget_variables(error)
            self._show_error(job, view, error, progress)
        finally:
            self._stop_button.leave()

    def _show_error(self, job: Job, view: ProgressView, error: BaseException, progress: PanelProgress) -> None:
        """Tell an error once: beside its field, in the status, or, where it ended work, where results stay."""
        line = panel_line(error, self._error_fields)
        shown = field_of_error(error, self._error_fields)
        if progress.lines():
            # Somebody may have left it alone for the night, and find the page without its kernel.
            self._results.add(job.call.verb, str(job.call), line)
            line = f"stopped {progress.end()}: why stands below the panel"
        elif shown:
            shown.set_problem(line)
            self._refused = (shown, view)
            line = f"not started: “{shown.control.description}” is marked above"
        view.show_status(f"{job.title}: {line}", failed=True)
