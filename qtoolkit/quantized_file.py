"""Hold a result that is a file of another program."""

import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.files import path_of
from qtoolkit.formats import FileFormat, format_of
from qtoolkit.measure.disk import disk_size
from qtoolkit.measure.guard import explained
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.noted import Noted
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import OnProgress, ProgressEvent, ignore_progress
from qtoolkit.stream.staging import check_output, staged
from qtoolkit.stream.writing import describe_model, write_beside

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from qtoolkit.formats import FilePlanner
    from qtoolkit.methods import MethodConfig
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.records import QuantizationReport, Receipt


class QuantizedFile(QuantizedModel):
    """A quantized model in a folder, as a file that other programs run; here it is expanded when it is first used.

    Args:
        open_model: loads the model from the folder.
        tokenizer, config, report, receipt: as for `QuantizedModel`; the report names the folder.
    """

    def __init__(
        self,
        open_model: "Callable[[], PreTrainedModel]",
        tokenizer: Any,
        config: "MethodConfig",
        report: "QuantizationReport",
        receipt: "Receipt | None",
    ) -> None:
        self._open_model = open_model
        self.tokenizer = tokenizer
        self.config = config
        self.report = report
        self.receipt = receipt

    @cached_property
    def model(self) -> "PreTrainedModel":
        """Load the model from its folder, expanded to 16 bits, and keep it.

        Raises:
            QToolkitError: as `qtoolkit.load`.
        """
        return self._open_model()

    def save(self, path: str | Path, *, overwrite: bool = False, on_progress: OnProgress | None = None) -> Path:
        """Copy its files to another folder, as `QuantizedModel.save` writes them."""
        folder = path_of(path, "path")
        on_progress = on_progress or ignore_progress
        source = self.path
        assert source is not None
        if folder == source:
            return folder
        refuse_own_source(self.report.source.path or self.report.source.name, folder)
        check_output(folder, overwrite=overwrite)
        files = [file for file in sorted(source.iterdir()) if file.is_file()]
        total = sum(file.stat().st_size for file in files)
        done = 0
        with (
            explained("saving", "free some, or save it when less is loaded"),
            staged(folder, overwrite=overwrite) as new,
        ):
            for file in files:
                shutil.copyfile(file, new / file.name)
                done += file.stat().st_size
                on_progress(ProgressEvent("save", done, total, "bytes", file.name))
        memory = replace(self.memory, disk_after=disk_size(folder))
        self.report = replace(self.report, memory=memory, path=str(folder))
        return folder


def write_file(
    planner: "FilePlanner",
    checkpoint: "Checkpoint",
    folder: Path,
    *,
    device: str,
    on_progress: OnProgress,
    base: Path | None,
) -> Noted[int]:
    """Write the file of a model into a folder, with the config, tokenizer and companions that a folder has.

    Args:
        planner: plans and writes the file.
        checkpoint: the model in full precision.
        folder: empty.
        device: where weights are quantized.
        on_progress: called for each tensor written.
        base: the folder of the model; None where it is not known.

    Returns:
        The bytes of the weights in memory, as a program maps them; notes of what was left out.
    """
    quantization = planner.write(folder, device, on_progress)
    names = [file.name for file in folder.iterdir()]
    described = describe_model(
        checkpoint.skeleton, folder, quantization=quantization, generation=checkpoint.generation_config
    )
    beside = write_beside(checkpoint.tokenizer, folder, [*names, *described.value], base=base)
    format_ = format_of(quantization)
    assert isinstance(format_, FileFormat)
    sizes = format_.bytes_by_type(folder / format_.file_name(quantization))
    return Noted(sum(sizes.values()), (*described.notes, *beside))
