"""Compare several quantized forms of a model on one text."""

from collections.abc import Sequence
from functools import partial
from html import escape

from ipywidgets import HTML, SelectMultiple, VBox

from qtoolkit.errors import ConfigError, SourceError
from qtoolkit.methods import MethodConfig, available_methods
from qtoolkit.notebook.body import DEFAULT_METHOD
from qtoolkit.notebook.offered_words import TEXT_FILES
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.field import wide_field
from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.keyword_field import given_options, keyword_field
from qtoolkit.notebook.panels.next_steps import NextSteps
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.shared_fields import model_field
from qtoolkit.notebook.panels.verb_call import VerbCall, call_html
from qtoolkit.records import Comparison
from qtoolkit.records.html import grid
from qtoolkit.requests import CompareRequest
from qtoolkit.units import parse_bytes

_AS_PLANNED = "as planned"
_FULL_PRECISION = "full precision"


class ComparePanel:
    """Quantize a model in several ways, measure each, and show tables, charts and answers side by side.

    Args:
        choice: has the model, and the config that is planned.
        worker: runs the job.
        results: shows the comparison.
        shown: the names of all panels on the page.

    Attributes:
        box: the widget to put on the page.
        model, forms, text, num_tokens, prompts, memory, speed: the fields; forms are the configs to compare.
        runner: start and cancel, and the progress.
        table: HTML with the figures that people look for first, and what to do next.
        next_steps: what to do with the folder if it lost least; hidden until it did.
    """

    def __init__(self, choice: PanelChoice, worker: Worker, results: Results, shown: Sequence[str] = ()) -> None:
        self._choice = choice
        self.model = model_field(choice)
        self._taken = ""
        names = (_FULL_PRECISION, *(() if choice.config is None else (_AS_PLANNED,)), *available_methods())
        default = (_FULL_PRECISION, DEFAULT_METHOD)
        hint = "what to measure side by side: the original, what was saved last, methods; Ctrl or Shift chooses several"
        self.forms = wide_field(SelectMultiple, "To compare", hint, options=names, value=default, rows=len(names))
        self.text = keyword_field(CompareRequest, "text", "Text", suffixes=TEXT_FILES)
        self.num_tokens = keyword_field(CompareRequest, "num_tokens", "Tokens", "4096")
        self.prompts = keyword_field(CompareRequest, "prompts", "Prompts")
        self.memory = keyword_field(CompareRequest, "memory", "Memory, at most")
        self.speed = keyword_field(CompareRequest, "speed", "Measure speed")
        self._fields = [self.forms, self.text, self.num_tokens, self.prompts, self.memory, self.speed]
        self.call = HTML()
        self.runner = JobRunner(worker, results, {"Compare": self._job}, self._fields, {SourceError: self.model})
        self.table = HTML()
        self.next_steps = NextSteps(choice, shown, ("publish",))
        self.next_steps.box.layout.display = "none"
        below = [self.call, self.runner.box, self.table, self.next_steps.box]
        self.box = VBox([self.model.box, *(field.box for field in self._fields), *below])
        choice.observe(lambda change: self._show_call(), names=["model", "config", "device"])
        for field in self._fields:
            field.on_change(self._show_call)
        self._show_call()

    def refresh(self) -> None:
        """Offer the folder that was saved last, chosen beside full precision; called when the panel is turned to."""
        folder = self._choice.folder
        if folder and folder != self._taken:
            self._taken = folder
            others = (name for name in self.forms.control.options if name not in (_FULL_PRECISION, folder))
            # Second, where it is seen without scrolling.
            self.forms.control.options = (_FULL_PRECISION, folder, *others)
            self.forms.value = (_FULL_PRECISION, folder)

    def _show_call(self) -> None:
        try:
            ready = self._choice.model
            self.call.value = call_html(self._call() if ready else None, "A comparison needs a model.")
        except ConfigError as error:
            self.call.value = call_html(None, str(error))

    def _call(self) -> VerbCall:
        model = self.model.needed("a Hub id or a folder")
        configs = [self._config(name) for name in self.forms.value]
        if not configs:
            self.forms.refuse("To compare needs at least one")
        self.forms.set_problem("")
        self.text.needed("a text")
        self.memory.checked(lambda size: parse_bytes(size) if size else 0)
        options = {**given_options(self._fields), **self._choice.device_option()}
        return VerbCall("compare", (model, configs), options)

    def _config(self, name: str) -> MethodConfig | str | None:
        if name == _FULL_PRECISION:
            return None
        if name != _AS_PLANNED:
            return name
        if self._choice.config is None:
            self.forms.refuse("the method that is planned has a field that is wrong: leave it out, or correct it")
        config: MethodConfig = self._choice.config
        return config

    def _job(self) -> Job:
        call = self._call()
        self.table.value, self.next_steps.box.layout.display = "", "none"
        return Job(call, f"comparison of {self._choice.model}", partial(self._keep, self._choice.folder))

    def _keep(self, folder: str, comparison: Comparison) -> Comparison:
        """Show the figures side by side, and go on with the folder that was saved last if it lost least."""
        best = comparison.best
        told = "All figures stand below the panel."
        if best is not None and best.label == folder:
            self.next_steps.take(folder)
            self.next_steps.box.layout.display = None
        elif best is not None:
            told += f" Next: the panel Quantize saves {best.label} to a folder; more bits lose less."
        self.table.value = f'<div class="qtk-text">{grid(*comparison.overview())}<div>{escape(told)}</div></div>'
        return comparison
