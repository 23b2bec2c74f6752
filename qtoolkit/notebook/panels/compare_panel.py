"""Compare several quantized forms of a model on one text."""

from typing import Any

from ipywidgets import HTML, VBox

from qtoolkit.errors import ConfigError, SourceError
from qtoolkit.methods import MethodConfig, available_methods
from qtoolkit.notebook.body import DEFAULT_METHOD
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.field import ErrorFields, lines_field, several_field, text_field
from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.shared_fields import model_field
from qtoolkit.notebook.panels.verb_call import VerbCall, call_html
from qtoolkit.units import parse_bytes

_AS_PLANNED = "as planned"
_FULL_PRECISION = "full precision"


class ComparePanel:
    """Quantizes a model in several ways, measures each, and shows tables, charts and answers side by side.

    Args:
        choice: has the model, and the config that is planned.
        worker: runs the job.
        results: shows the comparison.

    Attributes:
        box: the widget to put on the page.
        model, forms, text, num_tokens, prompts, memory: the fields; forms are the configs to compare.
        runner: start and cancel, and the progress.
    """

    def __init__(self, choice: PanelChoice, worker: Worker, results: Results) -> None:
        self._choice = choice
        self.model = model_field(choice)
        names = (_FULL_PRECISION, *(() if choice.config is None else (_AS_PLANNED,)), *available_methods())
        default = [_FULL_PRECISION, DEFAULT_METHOD]
        hint = "Ctrl or Shift chooses several"
        self.forms = several_field("Forms", [(name, name) for name in names], default, hint=hint)
        self.text = text_field("Text", "wikitext2", hint="wikitext2, c4, self, or a file (.txt, .jsonl, .parquet)")
        self.num_tokens = text_field("Tokens", "4096", hint="tokens of the text to measure on")
        self.prompts = lines_field("Prompts", hint="one a line, which each form goes on with")
        self.memory = text_field("At most", hint="memory that using one may take, such as 2 GB; empty for any")
        self.call = HTML()
        error_fields: ErrorFields = {"text": self.text, "num_tokens": self.num_tokens, SourceError: self.model}
        self.runner = JobRunner(worker, results, {"Compare": self._job}, error_fields)
        fields = [self.forms, self.text, self.num_tokens, self.prompts, self.memory]
        self.box = VBox([self.model.box, *(field.box for field in fields), self.call, self.runner.box])
        choice.observe(lambda change: self._show_call(), names=["model", "config", "device"])
        for field in fields:
            field.on_change(self._show_call)
        self._show_call()

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
            self.forms.refuse("Forms needs at least one")
        self.forms.set_problem("")
        given: dict[str, Any] = {"text": self.text.needed("a text"), "num_tokens": self.num_tokens.count()}
        given["prompts"] = [line for line in self.prompts.value.splitlines() if line.strip()]
        given["memory"] = self.memory.checked(lambda size: parse_bytes(size) if size else 0)
        given["device"] = self._choice.device if self._choice.device != "auto" else ""
        return VerbCall("compare", (model, configs), {name: value for name, value in given.items() if value})

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
        return Job(self._call(), f"comparison of {self._choice.model}", lambda comparison: comparison)
