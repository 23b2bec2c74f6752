"""Build what all panels have in common that run a verb: its fields, its call, and the buttons that run it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ipywidgets import HTML, VBox

from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.field import ErrorFields, Field
from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.panel_choice import PanelChoice
from qtoolkit.notebook.panels.results import Results


class JobPanel(ABC):
    """Base of the panels that run a verb.

    Args:
        choice: what all panels share.
        worker: runs the job.
        results: shows its result.

    Attributes:
        box: the widget to put on the page.
        call: HTML with the call that a button makes.
        runner: start and cancel, and the progress.
    """

    box: VBox
    runner: JobRunner

    def __init__(self, choice: PanelChoice, worker: Worker, results: Results) -> None:
        self._choice = choice
        self._worker = worker
        self._results = results
        self._fields: Sequence[Field] = ()
        self.call = HTML()

    def _arrange(
        self,
        actions: dict[str, Callable[[], Job]],
        fields: Sequence[Field],
        error_fields: ErrorFields,
        *,
        above: Sequence[Any] = (),
        below: Sequence[Any] = (),
    ) -> None:
        """Put the fields, the call and the buttons on the page; errors are shown beside the field of their keyword.

        Args:
            actions: label of a button -> makes its job.
            fields: the fields of the call, which is shown anew whenever one of them changes.
            error_fields: further fields that errors are about.
            above, below: widgets at the top and at the end.
        """
        self._fields = fields
        keywords: ErrorFields = {field.keyword: field for field in fields if field.keyword}
        self.runner = JobRunner(self._worker, self._results, actions, {**keywords, **error_fields})
        self.box = VBox([*above, *(field.box for field in fields), self.call, self.runner.box, *below])
        for field in fields:
            field.on_change(self._show_call)
        self._show_call()

    @abstractmethod
    def _show_call(self) -> None:
        """Show the call of the fields, or say what it still needs."""
