"""The magics: each parses its line, calls the API and returns the record.

The API is imported when a magic runs, so that `%load_ext` loads no torch.
"""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, needs_local_scope
from traitlets import Enum

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.arguments import Request, read_request
from qtoolkit.notebook.cell import run_body
from qtoolkit.notebook.comparing import compare_help, read_compare_request
from qtoolkit.notebook.evaluating import eval_help, read_eval_request
from qtoolkit.notebook.help import helped_by, quantize_help
from qtoolkit.notebook.magic_errors import short_errors
from qtoolkit.notebook.opening import read_panel_request
from qtoolkit.notebook.progress import open_progress
from qtoolkit.notebook.publishing import publish_help, read_publish_request
from qtoolkit.records import (
    Comparison,
    Doctor,
    MemoryReport,
    PeakMemory,
    Plan,
    Publication,
    QualityReport,
    QuantizationReport,
)


@magics_class
class QuantizeMagics(Magics):
    """Quantize models and see their memory, a line each. `%quantize?` tells of all options."""

    shell: InteractiveShell

    progress = Enum(
        ["auto", "widget", "text", "none"],
        default_value="auto",
        help="How a running job is shown: a bar (widget), plain lines (text), nothing (none), or whichever the "
        "front-end can show (auto).",
    ).tag(config=True)

    @helped_by(quantize_help)
    @needs_local_scope
    @line_cell_magic
    @short_errors
    def quantize(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> QuantizationReport | Plan:
        """Quantize a model; `%quantize?` tells of all options."""
        request = read_request("quantize", line, cell)
        model = self._named(request.model, local_ns)
        if request.plan:
            return _plan(request, model)
        from qtoolkit.api import publish, quantize
        from qtoolkit.publishing import check_push

        if request.push:
            check_push(request.push, model, request.revision, **request.card)
        with open_progress(self.progress, self.shell, f"{request.config.method} of {request.model}") as on_progress:
            result = quantize(
                model,
                request.config,
                output=request.output,
                device=request.device,
                revision=request.revision,
                resume=request.resume,
                resume_repo=request.resume_repo,
                overwrite=request.overwrite,
                on_progress=on_progress,
            )
            if request.push:
                assert request.output is not None
                publish(request.output, request.push, **request.card, on_progress=on_progress)
        if request.into:
            self.shell.push({request.into: result})
        return result.report

    @helped_by(quantize_help)
    @needs_local_scope
    @line_cell_magic
    @short_errors
    def qplan(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Plan:
        """Tell what `%quantize` with the same line would do, and whether it fits, without reading a weight."""
        request = read_request("qplan", line, cell)
        return _plan(request, self._named(request.model, local_ns))

    @helped_by(eval_help)
    @needs_local_scope
    @line_magic
    @short_errors
    def qeval(self, line: str, local_ns: Mapping[str, Any] | None = None) -> QualityReport:
        """Measure a model on a text, and what it lost against its base; `%qeval?` tells of all options."""
        request = read_eval_request(line)
        options = dict(request.options)
        for name, word in (("base", request.base), ("text", request.text)):
            if word is not None:
                options[name] = self._named(word, local_ns)
        from qtoolkit.api import evaluate

        with open_progress(self.progress, self.shell, f"evaluation of {request.model}") as on_progress:
            return evaluate(self._named(request.model, local_ns), **options, on_progress=on_progress)

    @helped_by(compare_help)
    @needs_local_scope
    @line_cell_magic
    @short_errors
    def qcompare(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Comparison:
        """Quantize a model in several ways and measure each; `%qcompare?` tells of all options."""
        request = read_compare_request(line, cell)
        options = dict(request.options)
        for name, word in (("text", request.text), ("executor", request.executor)):
            if word is not None:
                options[name] = self._named(word, local_ns)
        from qtoolkit.api import compare

        with open_progress(self.progress, self.shell, f"comparison of {request.model}") as on_progress:
            model = self._named(request.model, local_ns)
            return compare(model, request.configs, **options, on_progress=on_progress)

    @needs_local_scope
    @line_cell_magic
    def qmemory(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> MemoryReport | PeakMemory:
        """Memory of a model, or of whatever a cell does.

          %qmemory q            bytes that a loaded or quantized model takes; q is a variable or an expression
          %%qmemory             run the cell and tell how much memory the process and the GPU needed at most

        Both return the record; sizes in it are whole numbers in bytes.
        """
        if cell is None:
            return self._memory_of(line, local_ns)
        from qtoolkit.api import measure_peak

        self._nothing_on(line, "%%qmemory")
        with measure_peak() as peak:
            run_body(self.shell, cell)
        return peak.report

    @helped_by(publish_help)
    @needs_local_scope
    @line_magic
    @short_errors
    def qpublish(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Publication:
        """Verify a saved model, and put it on the Hub with a card; `%qpublish?` tells of all options."""
        request = read_publish_request(line)
        quality = self._named(request.quality, local_ns) if request.quality else None
        if isinstance(quality, str):
            raise ConfigError(f"--quality takes a variable, and none is called {quality!r}: `{quality} = %qeval ...`")
        from qtoolkit.api import publish

        with open_progress(self.progress, self.shell, f"{request.folder} to {request.repo_id}") as on_progress:
            return publish(request.folder, request.repo_id, quality=quality, **request.options, on_progress=on_progress)

    @needs_local_scope
    @line_magic
    @short_errors
    def qpanel(self, line: str, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Open the panels: choose a model, see whether it fits, quantize, compare and publish by hand.

          %qpanel [MODEL] [--only model|plan|quantize|compare|publish]

        MODEL is a Hub id, a folder, a .gguf file, or a variable that holds one of these; --only opens one panel alone.
        """
        from qtoolkit.notebook.panels import panel

        model, only = read_panel_request(line)
        return panel(self._named(model, local_ns), only=only)

    @line_magic
    @short_errors
    def qdoctor(self, line: str) -> Doctor:
        """This machine for a bug report: versions, devices, free memory and disk, and which methods run here."""
        from qtoolkit.api import doctor

        self._nothing_on(line, "%qdoctor")
        return doctor()

    @short_errors
    def _nothing_on(self, line: str, magic: str) -> None:
        if line.strip():
            raise ConfigError(f"{magic} takes nothing on its line, got {line.strip()!r}")

    @short_errors
    def _memory_of(self, line: str, local_ns: Mapping[str, Any] | None) -> MemoryReport:
        from qtoolkit.api import measure_memory

        if not line.strip():
            message = "%qmemory needs a variable that holds a model: `%qmemory q`; or `%%qmemory` above a cell's code"
            raise ConfigError(message)
        try:
            model = eval(line, self.shell.user_ns, local_ns)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            message = f"%qmemory: {line.strip()!r} is no variable or expression that holds a model: {said}"
            raise ConfigError(message) from error
        return measure_memory(model)

    def _named(self, text: str, local_ns: Mapping[str, Any] | None) -> Any:
        """What a word means: a variable's value where there is one of that name and no folder, otherwise the text."""
        names = ChainMap(dict(local_ns or {}), self.shell.user_ns)
        return names[text] if text.isidentifier() and text in names and not Path(text).is_dir() else text


def _plan(request: Request, model: Any) -> Plan:
    from qtoolkit.api import plan

    return plan(
        model,
        request.config,
        device=request.device,
        output=request.output,
        revision=request.revision,
        machine=request.machine,
        context=request.context,
        batch_size=request.batch_size,
    )
