"""A quantized model that can be used, measured and saved."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError, oneline
from qtoolkit.evaluation import continue_text
from qtoolkit.files import path_of
from qtoolkit.formats import quiet_layers, side_files_of
from qtoolkit.measure import disk_size, explained
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods import MethodConfig
from qtoolkit.models import refuse_own_source
from qtoolkit.noted import Noted
from qtoolkit.publishing import measure_probe, write_receipt
from qtoolkit.records import (
    CalibrationReport,
    LayerPlan,
    MemoryReport,
    OnProgress,
    PeakMemory,
    Plan,
    Probe,
    QuantizationReport,
    Receipt,
    ignore_progress,
)
from qtoolkit.stream import check_output, save_model, staged

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class QuantizedModel:
    """A quantized model with its tokenizer and all that is known of how it was made.

    Attributes:
        model: the model, a `PreTrainedModel` as any other.
        tokenizer: its tokenizer; None when it has none.
        config: how it was quantized, "auto" resolved.
        report: what was done; the light record that a notebook can keep when the model is gone.
        receipt: what is written down beside the weights when it is saved; None where its origin is not known.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: Any,
        config: MethodConfig,
        report: QuantizationReport,
        receipt: Receipt | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.report = report
        self.receipt = receipt

    @property
    def name(self) -> str:
        """What reports call it: "org/model, nf4"."""
        return f"{self.report.source.name}, {self.report.method}"

    @property
    def memory(self) -> MemoryReport:
        """Memory and disk before and after."""
        return self.report.memory

    @property
    def skipped(self) -> tuple[LayerPlan, ...]:
        """The modules that stay as they were, each with its reason."""
        return self.report.skipped

    @property
    def path(self) -> Path | None:
        """The folder it was saved to last; None when it was not."""
        return Path(self.report.path) if self.report.path else None

    def generate(self, prompt: str, *, max_new_tokens: int = 40, **options: Any) -> str:
        """Continue a text, taking the likeliest token each time.

        Args:
            prompt: the text to continue.
            max_new_tokens: tokens to add at most.
            options: passed on to transformers' `generate`; `do_sample=True` for sampling.

        Returns:
            The new text, without the prompt.

        Raises:
            ConfigError: the model came without a tokenizer, or with one of another model.
            InsufficientMemoryError: memory ran out.
        """
        if self.tokenizer is None:
            raise ConfigError(f"{self.report.source.name} came without a tokenizer: give one as tokenizer=")
        with quiet_layers(), explained("generating", "give a shorter prompt, or fewer max_new_tokens"):
            return continue_text(self.model, self.tokenizer, prompt, max_new_tokens=max_new_tokens, **options)

    def save(self, path: str | Path, *, overwrite: bool = False, on_progress: Any = None) -> Path:
        """Write config, weights, tokenizer and receipt to a folder, which appears when it is whole.

        Args:
            path: the folder to make.
            overwrite: replace it when it exists.
            on_progress: told of each weight written.

        Raises:
            OutputExistsError: it exists, or is what this was made from.
            DiskFullError, OutputError: it cannot be written; nothing is left behind.
        """
        folder = path_of(path, "path")
        # Where it was read from or saved to last, the same model stands.
        if folder != self.path:
            refuse_own_source(self.report.source.path or self.report.source.name, folder)
        check_output(folder, overwrite=overwrite)
        limited = explained("saving", "free some, or save it when less is loaded")
        with limited, staged(folder, overwrite=overwrite) as partial:
            if self.receipt is None:
                save_model(
                    self.model,
                    self.tokenizer,
                    partial,
                    on_progress or ignore_progress,
                    side_files=side_files_of,
                )
            else:
                self.receipt = self._save_with_receipt(self.receipt, partial, on_progress or ignore_progress)
        memory = replace(self.memory, disk_after=disk_size(folder))
        self.report = replace(self.report, memory=memory, path=str(folder))
        return folder

    def _save_with_receipt(self, receipt: Receipt, folder: Path, on_progress: OnProgress) -> Receipt:
        probe = save_measured(self.model, self.tokenizer, folder, on_progress)
        memory = replace(receipt.memory, disk_after=disk_size(folder))
        notes = (*receipt.notes, *probe.notes)
        return write_receipt(folder, replace(receipt, memory=memory, probe=probe.value, notes=notes))

    def __repr__(self) -> str:
        return str(self.report).replace(type(self.report).__name__, type(self).__name__, 1)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def save_measured(
    model: "PreTrainedModel", tokenizer: Any, folder: Path, on_progress: OnProgress
) -> Noted[Probe | None]:
    """Save a model, and return its logits on a few tokens; None, with a note, where they cannot be computed."""
    probe: Noted[Probe | None]
    try:
        with quiet_layers():
            probe = Noted(measure_probe(model, tokenizer))
    except Exception as error:  # noqa: BLE001  # what a model does not run on this machine raises anything
        note = f"its logits could not be measured, and no qt.verify can compare them: {oneline(error)}"
        probe = Noted(None, (note,))
    give_memory_back()
    save_model(model, tokenizer, folder, on_progress, side_files=side_files_of)
    return probe


def memory_report(made: Plan, footprint: int, folder: Path | None, peak: PeakMemory) -> MemoryReport:
    """What a job took, beside what its plan had said.

    Args:
        made: the plan.
        footprint: bytes of the result in memory.
        folder: where it was saved; None when it was not.
        peak: what was measured meanwhile.
    """
    return MemoryReport(
        num_parameters=made.source.num_parameters,
        footprint_before=made.source.footprint,
        footprint_after=footprint,
        predicted_footprint_after=made.footprint_after,
        disk_before=made.source.disk_size,
        disk_after=disk_size(folder) if folder else None,
        predicted_disk_after=made.disk_after,
        predicted_peak_rss=made.peak_rss,
        peak=peak,
    )


def quantization_report(
    made: Plan,
    notes: Iterable[str],
    memory: MemoryReport,
    folder: Path | None,
    seconds: float,
    calibration: CalibrationReport | None = None,
) -> QuantizationReport:
    """All that is known of a job that has ended."""
    return QuantizationReport(
        source=made.source,
        method=made.method,
        settings=made.settings,
        device=made.device,
        layers=made.layers,
        skipped=made.skipped,
        notes=tuple(dict.fromkeys(notes)),
        memory=memory,
        path=str(folder) if folder else None,
        seconds=seconds,
        calibration=calibration,
    )
