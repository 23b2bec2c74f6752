"""Hold a quantized model that can be used, measured and saved."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError, oneline
from qtoolkit.evaluation.generation import continue_text
from qtoolkit.files import path_of
from qtoolkit.formats import quiet_layers, side_files_of
from qtoolkit.measure.disk import disk_size
from qtoolkit.measure.guard import explained
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods import MethodConfig
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.models.tokenizer import find_folder
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
from qtoolkit.stream.staging import check_output, staged
from qtoolkit.stream.writing import save_model
from qtoolkit.structural_reading import check_opens
from qtoolkit.units import format_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(eq=False, repr=False)
class QuantizedModel:
    """A quantized model with its tokenizer and the record of how it was made.

    Attributes:
        model: the model, a transformers `PreTrainedModel`.
        tokenizer: its tokenizer; None if it has none.
        config: the config that it was quantized with, "auto" resolved.
        report: what was done; a light record that a notebook can keep without the model.
        receipt: the facts that `save` writes beside the weights; None if the origin of the model is unknown.
    """

    model: "PreTrainedModel"
    tokenizer: Any
    config: MethodConfig
    report: QuantizationReport
    receipt: Receipt | None = None

    @property
    def name(self) -> str:
        """Return the name of the model and of its method: "org/model, nf4"."""
        return f"{self.report.source.name}, {self.report.method}"

    @property
    def memory(self) -> MemoryReport:
        """Return its bytes in memory and on disk before and after."""
        return self.report.memory

    @property
    def skipped(self) -> tuple[LayerPlan, ...]:
        """Return the modules that are not quantized, each with the reason."""
        return self.report.skipped

    @property
    def path(self) -> Path | None:
        """Return the folder that it was saved to last; None if it was not."""
        return Path(self.report.path) if self.report.path else None

    def generate(self, prompt: str, *, max_new_tokens: int = 40, **options: Any) -> str:
        """Continue a text, by default with the likeliest token at each step.

        Args:
            prompt: the text to continue.
            max_new_tokens: the most tokens to generate.
            options: options of transformers' `generate`, such as `do_sample=True` for sampling.

        Returns:
            The new text, without the prompt.

        Raises:
            ConfigError: the prompt is no text, or the model has no tokenizer, or one of another model.
            InsufficientMemoryError: memory ran out.
        """
        if self.tokenizer is None:
            raise ConfigError(f"{self.report.source.name} came without a tokenizer: give one as tokenizer=")
        with quiet_layers(), explained("generating", "give a shorter prompt, or fewer max_new_tokens"):
            return continue_text(self.model, self.tokenizer, prompt, max_new_tokens=max_new_tokens, **options)

    def save(self, path: str | Path, *, overwrite: bool = False, on_progress: OnProgress | None = None) -> Path:
        """Write config, weights, tokenizer and receipt to a folder, which appears once it is complete.

        Args:
            path: the folder to make.
            overwrite: replace the folder if it exists.
            on_progress: called with an event for each weight written.

        Raises:
            OutputExistsError: the folder exists, or holds the model that this one was made from.
            DiskFullError: the disk is too small; nothing is left behind.
            OutputError: the folder cannot be written; nothing is left behind.
        """
        folder = path_of(path, "path")
        on_progress = on_progress or ignore_progress
        # The folder that it was read from or saved to last holds this very model.
        if folder != self.path:
            refuse_own_source(self.report.source.path or self.report.source.name, folder)
        check_output(folder, overwrite=overwrite)
        limited = explained("saving", "free some, or save it when less is loaded")
        source = self.report.source
        base = base_folder(source.path, source.name)
        with limited, staged(folder, overwrite=overwrite) as partial:
            if self.receipt is None:
                notes = save_model(
                    self.model, self.tokenizer, partial, on_progress, base=base, side_files=side_files_of
                )
                check_opens(partial)
            else:
                probe = save_measured(self.model, self.tokenizer, partial, on_progress, base)
                self.receipt = self._write_receipt(self.receipt, partial, probe)
                notes = probe.notes
        memory = replace(self.memory, disk_after=disk_size(folder))
        notes = tuple(dict.fromkeys((*self.report.notes, *notes)))
        self.report = replace(self.report, memory=memory, path=str(folder), notes=notes)
        return folder

    def _write_receipt(self, receipt: Receipt, folder: Path, probe: Noted[Probe | None]) -> Receipt:
        """Write what is known of this model beside the weights that were just written."""
        memory = replace(receipt.memory, disk_after=disk_size(folder))
        notes = tuple(dict.fromkeys((*receipt.notes, *probe.notes)))
        return write_receipt(folder, replace(receipt, memory=memory, probe=probe.value, notes=notes))

    def __repr__(self) -> str:
        return str(self.report).replace(type(self.report).__name__, type(self).__name__, 1)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def base_folder(path: str | Path | None, name: str) -> Path | None:
    """Return the folder of the model that a result was made from; None where it is not on this machine.

    Args:
        path: of its weights; None for a model that was in memory.
        name: its folder or Hub id, by which that is found.
    """
    if path is None:
        return find_folder(name)
    return Path(path) if Path(path).is_dir() else None


def save_measured(
    model: "PreTrainedModel", tokenizer: Any, folder: Path, on_progress: OnProgress, base: Path | None
) -> Noted[Probe | None]:
    """Save a model, check that its own reader opens it, and return its logits on a few tokens; None without any.

    Args:
        model, tokenizer, folder, on_progress, base: as for `save_model`, whose notes are added.
    """
    probe: Noted[Probe | None]
    try:
        with quiet_layers():
            probe = Noted(measure_probe(model, tokenizer))
    except Exception as error:  # noqa: BLE001  # a model that does not run on this machine may raise anything
        note = f"its logits could not be measured, and no qt.verify can compare them: {oneline(error)}"
        probe = Noted(None, (note,))
    give_memory_back()
    notes = save_model(model, tokenizer, folder, on_progress, base=base, side_files=side_files_of)
    check_opens(folder)
    return replace(probe, notes=(*probe.notes, *notes))


def memory_report(plan: Plan, footprint: int, folder: Path | None, peak: PeakMemory) -> MemoryReport:
    """Return the memory and disk that a job took, beside the figures of its plan.

    Args:
        plan: the plan of the job.
        footprint: bytes of the result in memory.
        folder: the folder of the result; None if it was not saved.
        peak: the peaks measured while the job ran.
    """
    return MemoryReport(
        num_parameters=plan.source.num_parameters,
        footprint_before=plan.source.footprint,
        footprint_after=footprint,
        predicted_footprint_after=plan.footprint_after,
        disk_before=plan.source.disk_size,
        disk_after=disk_size(folder) if folder else None,
        predicted_disk_after=plan.disk_after,
        predicted_peak_rss=plan.peak_rss,
        peak=peak,
    )


def quantization_report(
    plan: Plan,
    notes: Iterable[str],
    memory: MemoryReport,
    folder: Path | None,
    seconds: float,
    calibration: CalibrationReport | None = None,
) -> QuantizationReport:
    """Return the report of a job that has ended.

    Args:
        plan: the plan of the job.
        notes: what was decided, left out or could not be done, one line each.
        memory: the memory and disk that the job took.
        folder: the folder of the result; None if it was not saved.
        seconds: the time that the job took.
        calibration: what the calibration measured; None for a method without calibration.
    """
    return QuantizationReport(
        source=plan.source,
        method=plan.method,
        settings=plan.settings,
        device=plan.device,
        layers=plan.layers,
        skipped=plan.skipped,
        warnings=(*plan.warnings, *_unlike_planned(memory)),
        notes=tuple(dict.fromkeys(notes)),
        memory=memory,
        path=str(folder) if folder else None,
        seconds=seconds,
        calibration=calibration,
    )


def _unlike_planned(memory: MemoryReport) -> tuple[str, ...]:
    """Return a warning of a result that takes other bytes than its plan says; nothing where both are the same."""
    planned, measured = memory.predicted_footprint_after, memory.footprint_after
    if planned is None or planned == measured:
        return ()
    sizes = f"takes {format_count(measured)} bytes in memory, and {format_count(planned)} were planned"
    return (f"the result {sizes}: its plan is wrong, tell the makers of qtoolkit this model and method",)
