"""Quantize the chosen model: output folder, start, progress, cancel."""

from collections.abc import Sequence
from functools import partial
from html import escape
from keyword import iskeyword
from pathlib import Path
from typing import Any

from IPython import get_ipython
from ipywidgets import HTML, Layout, VBox

from qtoolkit.errors import ConfigError, OutputError, SourceError
from qtoolkit.files import absolute, current_folder
from qtoolkit.formats import GroupedFormat, LayersFormat, get_format
from qtoolkit.methods import MethodConfig, stored_of
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.field import ErrorFields, text_field
from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.keyword_field import given_options, keyword_field
from qtoolkit.notebook.panels.next_steps import NextSteps
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.shared_call import SharedCall, given_workers, workers_field
from qtoolkit.notebook.panels.shared_fields import MethodFields, model_field, reader_field
from qtoolkit.notebook.panels.try_it import Made, TryIt
from qtoolkit.notebook.panels.verb_call import VerbCall, call_html
from qtoolkit.notebook.panels.zip_it import ZipIt
from qtoolkit.partial import partial_of
from qtoolkit.readers import readers_of, result_line
from qtoolkit.records import QuantizationReport
from qtoolkit.requests import QuantizeRequest


class QuantizePanel:
    """Quantize the chosen model with the chosen method.

    Args:
        choice: has model, config and device; is given the folder.
        worker: runs the job.
        results: shows the report.
        methods: the fields of the method, which the panel Plan shows too.
        shown: the names of all panels on the page.

    Attributes:
        box: the widget to put on the page.
        model, methods, output, for_, into, workers, overwrite: the fields.
        runner: start and cancel, and the progress.
        saved: HTML that tells what was made, and where it is.
        try_it, next_steps, zip_it: what to do with it.
        repair: HTML with the call that computes an adapter for it, which takes long, and belongs into a cell.
        afterwards, of_saved: boxes with all of these, hidden until something was made, and with what needs a folder.
    """

    def __init__(
        self, choice: PanelChoice, worker: Worker, results: Results, methods: MethodFields, shown: Sequence[str] = ()
    ) -> None:
        self._choice = choice
        self.model = model_field(choice)
        self.methods = methods
        self.output = keyword_field(QuantizeRequest, "output", "Save to")
        self.for_ = reader_field(choice, QuantizeRequest)
        self.into = text_field("Keep as", hint="a variable for the model; empty to keep only what is saved")
        self.workers = workers_field()
        self.overwrite = keyword_field(QuantizeRequest, "overwrite", "Replace the folder when it exists")
        errors: ErrorFields = {
            SourceError: self.model,
            OutputError: self.output,
            "for_": self.for_,
            "device": methods.device,
            "Workers": self.workers,
        }
        # One widget in two panels: the page draws it twice, and it is the same everywhere.
        boxes = [self.model.box, methods.box]
        self._fields = [self.output, self.for_, self.into, self.workers, self.overwrite]
        self._proposed = ""
        self._made = ""
        self.call = HTML()
        self.runner = JobRunner(worker, results, {"Quantize": self._job}, self._fields, errors)
        self.try_it = TryIt(self.runner)
        self.saved = HTML()
        self.next_steps = NextSteps(choice, shown)
        self.repair = HTML()
        self.zip_it = ZipIt(self.runner)
        self.of_saved = VBox([self.next_steps.box, self.repair, self.zip_it.button.box, self.zip_it.view.box])
        # Shown by one message: a job's end sends the page enough as it is.
        self.afterwards = VBox([self.saved, self.try_it.box, self.of_saved], layout=Layout(display="none"))
        below = [self.call, self.runner.box, self.afterwards]
        self.box = VBox([*boxes, *(field.box for field in self._fields), *below])
        for field in self._fields:
            field.on_change(self._show_call)
        choice.observe(lambda change: self._propose_output(), names=["model", "config", "device"])
        self._propose_output()

    def _propose_output(self) -> None:
        """Propose a folder, as long as nobody has typed another, and show the call."""
        if self.output.value == self._proposed and self._choice.model and self._choice.config:
            name = self._choice.model.partition("@")[0].rstrip("/\\").replace("\\", "/").rpartition("/")[2]
            self._proposed = f"output/{name}-{self._choice.config.method}"
            self.output.value = self._proposed
        self._show_call()

    def _show_call(self) -> None:
        wrong = self.methods.form.wrong
        missing = f"“{wrong}” is wrong: it says why beside itself." if wrong else "It needs a model."
        self.call.value = call_html(self._call() if self._choice.model and not wrong else None, missing)

    def _call(self) -> SharedCall:
        options = {**given_options(self._fields), **self._choice.device_option()}
        arguments = (self._choice.model, self._choice.config)
        return SharedCall("quantize", arguments, options, into=self.into.value, workers=self.workers.value)

    def _job(self) -> Job:
        if self._made:
            # Told as something older as soon as a new job is wanted, which may be refused.
            self.saved.value = f'<div class="qtk-text">Made before, and still there: {escape(self._made)}</div>'
        self.model.needed("a Hub id or a folder")
        if self._choice.config is None:
            raise ConfigError("a field of the method is wrong: it says so beside itself")
        into = self.into.value
        if into and (not into.isidentifier() or iskeyword(into)):
            self.into.refuse(f"Keep as must be a variable's name, got {into!r:.40}")
        if given_workers(self.workers):
            self.output.needed("a folder that all workers see")
        if not into:
            self.output.needed("a folder, or a variable to keep it as")
        self.into.set_problem("")
        plan = self._choice.plan
        title = f"{self._choice.config.method} of {self._choice.model}"
        predicted = (plan.peak_rss, plan.peak_vram) if plan else (0, 0)
        # With the variable's name of now: the field may change while the job runs.
        keep = partial(self._keep, self._choice.model, self._choice.device, into, self._choice.config)
        return Job(self._call(), title, keep, predicted, kept=partial(_kept, self.output.value))

    def _keep(self, model: str, device: str, into: str, config: MethodConfig, result: Any) -> QuantizationReport:
        """Assign the model to the variable, if one is named, and return the report, which holds no weight."""
        # Codes that are stored otherwise, no other format takes over.
        takes_over = isinstance(get_format(config.format), GroupedFormat | LayersFormat)
        if into:
            get_ipython().push({into: result})
        folder = _short(result.path) if result.path else ""
        if folder:
            self.next_steps.take(folder, without=() if takes_over else ("convert",))
            self.zip_it.take(folder)
            told = "An adapter gives it back some of what it lost (run this in a cell):"
            call = call_html(VerbCall("repair", (folder, model, f"{folder}-repair")))
            self.repair.value = f'<div class="qtk-text">{told}</div>{call}'
        report: QuantizationReport = result.report
        # The status tells of the next job soon.
        places = [f"saved to {folder}"] * bool(folder) + [f"kept as {into}"] * bool(into)
        self._made = f"{report.memory.sizes()}, {' and '.join(places)}"
        source = report.source
        stored = stored_of(config, dtype=source.dtype, architecture=source.architecture)
        programs = result_line(readers_of(stored)) if folder else ""
        loads = f'<div class="qtk-text">The folder {escape(programs)}</div>' if programs else ""
        self.saved.value = f'<div class="qtk-text qtk-made">Made: {escape(self._made)}</div>{loads}'
        self.of_saved.layout.display = None if folder else "none"
        self.afterwards.layout.display = None
        self.try_it.take(Made(model, device, folder, into))
        return report


def _kept(output: str) -> str:
    """Return what a cancelled job has left to go on with; empty for nothing."""
    journal = partial_of(absolute(output)) / "journal" if output else None
    blocks = journal is not None and any(journal.glob("block-*.json"))
    return "blocks that are done are kept, and the same call goes on with them" if blocks else ""


def _short(path: Path) -> str:
    """Write a folder relative to the current one, if it is in there."""
    return str(path.relative_to(current_folder()) if path.is_relative_to(current_folder()) else path)
