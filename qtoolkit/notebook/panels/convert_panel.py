"""Write a quantized model in another format: source, format, output folder, start, progress, cancel."""

from collections.abc import Sequence

from ipywidgets import HTML, VBox

from qtoolkit.errors import ModelNotFoundError, OutputError, SourceError, UnsupportedModelError
from qtoolkit.files import shortened
from qtoolkit.formats import conversion_targets
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.field import ErrorFields, choice_field, text_field
from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.keyword_field import given_options, keyword_field
from qtoolkit.notebook.panels.next_steps import NextSteps
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.path_field import path_field
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.shared_call import SharedCall, given_workers, workers_field
from qtoolkit.notebook.panels.shared_fields import reader_field
from qtoolkit.notebook.panels.verb_call import call_html
from qtoolkit.records import Conversion
from qtoolkit.requests import ConvertRequest


class ConvertPanel:
    """Write a quantized model in another format with the same codes.

    Args:
        choice: has the folder that was saved last, which is left as it is.
        worker: runs the job.
        results: shows the record of the conversion.
        shown: the names of all panels on the page.

    Attributes:
        box: the widget to put on the page.
        source, format, output, for_, lossy, wider, workers, overwrite: the fields.
        runner: start and cancel, and the progress.
        next_steps: what to do with the result, hidden until there is one.
    """

    def __init__(self, choice: PanelChoice, worker: Worker, results: Results, shown: Sequence[str] = ()) -> None:
        self.source = path_field("Quantized model", choice.folder, hint="a saved folder, or a Hub id")
        formats = tuple(conversion_targets())
        self.format = choice_field("Format", [(name, name) for name in formats], formats[0])
        self.output = text_field("Save to", hint="a folder, which appears when it is complete")
        self.for_ = reader_field(choice, ConvertRequest)
        self.lossy = keyword_field(
            ConvertRequest, "lossy", "Allow small changes: round what the format cannot hold exactly"
        )
        self.wider = keyword_field(
            ConvertRequest, "wider", "Allow a larger file: more bits for each weight where the format has none so small"
        )
        self.workers = workers_field()
        self.overwrite = keyword_field(ConvertRequest, "overwrite", "Replace the folder when it exists")
        self.call = HTML()
        self._choice = choice
        self._taken = choice.folder
        self._proposed = ""
        self._options = [self.for_, self.lossy, self.wider, self.overwrite]
        given = [self.for_, self.lossy, self.wider, self.workers, self.overwrite]
        self._fields = [self.source, self.format, self.output, *given]
        errors: ErrorFields = {
            "format": self.format,
            ModelNotFoundError: self.source,
            UnsupportedModelError: self.source,
            SourceError: self.source,
            OutputError: self.output,
            "Workers": self.workers,
        }
        self.runner = JobRunner(worker, results, {"Convert": self._job}, self._fields, errors)
        self.next_steps = NextSteps(choice, shown, ("compare", "publish"))
        self.next_steps.box.layout.display = "none"
        below = [self.call, self.runner.box, self.next_steps.box]
        self.box = VBox([*(field.box for field in self._fields), *below])
        for field in self._fields:
            field.on_change(self._propose_output)
        self._propose_output()

    def refresh(self) -> None:
        """Take the folder that was saved last, once: called when the panel is turned to.

        A job's end sends the page enough as it is: what nobody sees yet need not be drawn anew with it.
        """
        if self._choice.folder != self._taken:
            self._taken = self.source.value = self._choice.folder

    def _propose_output(self) -> None:
        """Propose a folder, as long as nobody has typed another, and show the call."""
        if self.output.value == self._proposed and self.source.value:
            name = self.source.value.partition("@")[0].rstrip("/\\").replace("\\", "/").rpartition("/")[2]
            self._proposed = f"output/{name}-{self.format.value}"
            self.output.value = self._proposed
        ready = self.source.value and self.output.value
        self.call.value = call_html(self._call() if ready else None, "It needs a quantized model and a folder.")

    def _call(self) -> SharedCall:
        arguments = (self.source.value, self.format.value, self.output.value)
        return SharedCall("convert", arguments, given_options(self._options), workers=self.workers.value)

    def _job(self) -> Job:
        self.source.needed("a saved folder or a Hub id")
        self.output.needed("a folder")
        given_workers(self.workers)
        return Job(self._call(), f"{self.source.value} to {self.format.value}", self._keep)

    def _keep(self, conversion: Conversion) -> Conversion:
        """Let the other panels go on with the result; this one keeps its source, of which people make more formats."""
        self._taken = shortened(conversion.path)
        self.next_steps.take(self._taken)
        self.next_steps.box.layout.display = None
        return conversion
