"""Compare several forms of a model on one text."""

from typing import Any

from ipywidgets import HTML, VBox

from qtoolkit.errors import ConfigError, SourceError
from qtoolkit.methods import available_methods
from qtoolkit.notebook.body import DEFAULT_METHOD
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.call import Call
from qtoolkit.notebook.panels.choice import Choice
from qtoolkit.notebook.panels.field import Places, lines_field, several_field, text_field
from qtoolkit.notebook.panels.job import Job, JobRunner
from qtoolkit.notebook.panels.model_panel import call_html
from qtoolkit.notebook.panels.plan_panel import model_field
from qtoolkit.notebook.panels.results import Results
from qtoolkit.units import parse_bytes

_AS_PLANNED, _AS_IT_IS = "as planned", "full precision"


class ComparePanel:
    """Quantizes a model in several ways, measures each, and puts tables, charts and answers side by side.

    Args:
        choice: the model, and the config that is planned.
        worker: runs the job.
        results: where the comparison stays.

    Attributes:
        box: what is put on the page.
        model, forms, text, num_tokens, prompts, memory: the fields.
        runner: start and cancel, and the progress.
    """

    def __init__(self, choice: Choice, worker: Worker, results: Results) -> None:
        self._choice = choice
        self.model = model_field(choice)
        names = (_AS_IT_IS, *(() if choice.config is None else (_AS_PLANNED,)), *available_methods())
        self.forms = several_field(
            "Forms", [(name, name) for name in names], [_AS_IT_IS, DEFAULT_METHOD], hint="Ctrl or Shift chooses several"
        )
        self.text = text_field("Text", "wikitext2", hint="wikitext2, c4, self, or a file (.txt, .jsonl, .parquet)")
        self.num_tokens = text_field("Tokens", "4096", hint="tokens of the text to measure on")
        self.prompts = lines_field("Prompts", hint="one a line, which each form goes on with")
        self.memory = text_field("At most", hint="memory that using one may take, such as 2 GB; empty for any")
        self.call = HTML()
        places: Places = {"text": self.text, "num_tokens": self.num_tokens, SourceError: self.model}
        self.runner = JobRunner(worker, results, {"Compare": self._job}, places)
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

    def _call(self) -> Call:
        model = self.model.needed("a Hub id or a folder")
        configs = [self._config(name) for name in self.forms.value]
        if not configs:
            self.forms.refuse("Forms needs at least one")
        self.forms.complain("")
        given: dict[str, Any] = {"text": self.text.needed("a text"), "num_tokens": self.num_tokens.count()}
        given["prompts"] = [line for line in self.prompts.value.splitlines() if line.strip()]
        given["memory"] = self.memory.checked(lambda size: parse_bytes(size) if size else 0)
        given["device"] = self._choice.device if self._choice.device != "auto" else ""
        return Call("compare", (model, configs), {name: value for name, value in given.items() if value})

    def _config(self, name: str) -> Any:
        if name == _AS_IT_IS:
            return None
        if name != _AS_PLANNED:
            return name
        if self._choice.config is None:
            self.forms.refuse("the method that is planned has a field that is wrong: leave it out, or correct it")
        return self._choice.config

    def _job(self) -> Job:
        return Job(self._call(), f"comparison of {self._choice.model}", lambda comparison: comparison)
