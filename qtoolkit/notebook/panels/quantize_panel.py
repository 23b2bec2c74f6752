"""Quantize: where to, start, progress, cancel."""

from functools import partial
from keyword import iskeyword
from pathlib import Path
from typing import Any

from IPython import get_ipython
from ipywidgets import HTML, VBox

from qtoolkit.errors import ConfigError, OutputError, SourceError
from qtoolkit.files import current_folder
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.call import Call
from qtoolkit.notebook.panels.choice import Choice
from qtoolkit.notebook.panels.field import Places, switch_field, text_field
from qtoolkit.notebook.panels.job import Job, JobRunner
from qtoolkit.notebook.panels.model_panel import call_html
from qtoolkit.notebook.panels.plan_panel import MethodFields, model_field
from qtoolkit.notebook.panels.results import Results
from qtoolkit.records import QuantizationReport


class QuantizePanel:
    """Makes the chosen model small with the chosen method.

    Args:
        choice: model, config and device; takes the folder.
        worker: runs the job.
        results: where the report stays.
        with_method: whether it has the fields of the method itself, where no other panel shows them.

    Attributes:
        box: what is put on the page.
        output, into, overwrite: the fields.
        runner: start and cancel, and the progress.
    """

    def __init__(self, choice: Choice, worker: Worker, results: Results, *, with_method: bool = False) -> None:
        self._choice = choice
        self.model = model_field(choice)
        self.methods = MethodFields(choice) if with_method else None
        self.output = text_field("Save to", hint="a folder that does not exist yet")
        self.into = text_field("Keep as", hint="a variable for the model; empty to keep only what is saved")
        self.overwrite = switch_field("Replace the folder when it exists", value=False)
        self.call = HTML()
        self.runner = JobRunner(worker, results, {"Quantize": self._job}, self._places())
        fields = [self.output, self.into, self.overwrite]
        self._proposed = ""
        methods = [self.methods.box] if self.methods else []
        self.box = VBox([self.model.box, *methods, *(field.box for field in fields), self.call, self.runner.box])
        choice.observe(lambda change: self._follow(), names=["model", "config", "device"])
        for field in fields:
            field.on_change(self._show_call)
        self._follow()

    def _follow(self) -> None:
        """Propose a folder, as long as nobody has named another."""
        if self.output.value == self._proposed and self._choice.model and self._choice.config:
            name = self._choice.model.partition("@")[0].rstrip("/\\").replace("\\", "/").rpartition("/")[2]
            self._proposed = f"output/{name}-{self._choice.config.method}"
            self.output.value = self._proposed
        self._show_call()

    def _places(self) -> Places:
        places: Places = {SourceError: self.model, OutputError: self.output}
        return {**places, "device": self.methods.device} if self.methods else places

    def _show_call(self) -> None:
        ready = self._choice.model and self._choice.config
        self.call.value = call_html(self._call() if ready else None, "It needs a model, and a method without mistakes.")

    def _call(self) -> Call:
        device = self._choice.device if self._choice.device != "auto" else ""
        given = {"output": self.output.value, "device": device, "overwrite": self.overwrite.value}
        options = {name: value for name, value in given.items() if value}
        return Call("quantize", (self._choice.model, self._choice.config), options, into=self.into.value)

    def _job(self) -> Job:
        self.model.needed("a Hub id or a folder")
        if self._choice.config is None:
            raise ConfigError("a field of the method is wrong: it says so beside itself")
        into = self.into.value
        if into and (not into.isidentifier() or iskeyword(into)):
            self.into.refuse(f"Keep as must be a variable's name, got {into!r:.40}")
        if not into:
            self.output.needed("a folder, or a variable to keep it as")
        self.into.complain("")
        plan = self._choice.plan
        title = f"{self._choice.config.method} of {self._choice.model}"
        # By the name of now: the field may change while the job runs.
        predicted = (plan.peak_rss, plan.peak_vram) if plan else (0, 0)
        return Job(self._call(), title, partial(self._take, into), predicted)

    def _take(self, into: str, result: Any) -> QuantizationReport:
        """Keep the model where that is wished; what stays on the page is the report, which holds no weight."""
        if into:
            get_ipython().push({into: result})
        if result.path:
            self._choice.folder = _short(result.path)
        report: QuantizationReport = result.report
        return report


def _short(path: Path) -> str:
    """A folder as one would type it here."""
    return str(path.relative_to(current_folder()) if path.is_relative_to(current_folder()) else path)
