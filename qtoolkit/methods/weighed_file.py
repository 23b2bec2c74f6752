"""Plan a file whose tensors are rounded by the importance of their inputs, which is measured on a text first."""

from typing import TYPE_CHECKING, Any

from qtoolkit.formats import FilePlanner
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods.calibrated_file import CalibratedFile
from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.gptq.calibrating import begin
from qtoolkit.methods.gptq.estimates import gptq_phases
from qtoolkit.methods.method import Outcome
from qtoolkit.records import OnProgress, PhasePlan, Plan
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.input_squares import input_squares

if TYPE_CHECKING:
    from qtoolkit.methods.config import MethodConfig
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.cost import JobShape


class WeighedFile(CalibratedFile):
    """Plan a file whose tensors are rounded, errors weighed by the mean squares of inputs on a text.

    Args:
        file: plans and writes the file, and keeps the importance beside it.
        text: what names the text, and its length.
    """

    def __init__(self, file: FilePlanner, text: GPTQ) -> None:
        super().__init__(file)
        self._text = text

    def phases(self, job: "JobShape", config: Any) -> tuple[PhasePlan, ...]:
        """See `Planner`: a forward of the text, and the phase of the file."""
        *forward, _reading = gptq_phases(job, self._text, solves=False)
        return (*forward, *self._file.phases(job, config))

    def measure(self, checkpoint: "Checkpoint", config: "MethodConfig", plan: Plan, on_progress: OnProgress) -> Outcome:
        """Measure the importance of the inputs of all layers in blocks; see `Method.quantize`, whose result this is."""
        begun = begin(
            checkpoint,
            self._text,
            {"method": config.method, **config.to_file()},
            {},
            device=plan.device,
            location=None,
            absent=config.absent(),
            on_progress=on_progress,
        )
        streamed = StreamedModel(checkpoint, device=plan.device, dtype=begun.dtype)
        layers = streamed.names_by_block([layer.name for layer in plan.layers])
        tokens = begun.text.tokens
        found = input_squares(streamed, layers, tokens, on_progress, phase="calibrate")
        give_memory_back()
        file = self.with_importance(found, text=begun.text.name, samples=tuple(tokens.shape))
        return Outcome(None, notes=(*file.file_notes, *begun.notes, *begun.text.notes), file=file)
