"""Solve the codes of a file that other programs run: GPTQ on the block types that its planner has chosen."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtoolkit.formats import FilePlanner
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods.calibrated_file import CalibratedFile
from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.gptq.calibrating import begin, report_of
from qtoolkit.methods.gptq.estimates import gptq_phases
from qtoolkit.methods.gptq.hidden_states import where_states_wait
from qtoolkit.methods.gptq.notes import note_on_few, note_on_few_tokens, note_on_unseen, notes_on_experts
from qtoolkit.methods.gptq.solved_blocks import SolvedBlocks, blocks_alone
from qtoolkit.methods.method import Outcome
from qtoolkit.records import LayerPlan, OnProgress, PhasePlan, Plan
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.run import quantize_blocks
from qtoolkit.stream.sharded_run import ThisProcess, quantize_in_shards
from qtoolkit.tensor.block_types import BLOCK_TYPES

if TYPE_CHECKING:
    import torch

    from qtoolkit.methods.config import MethodConfig
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.cost import JobShape
    from qtoolkit.stream.journal import JournalLocation
    from qtoolkit.stream.shards import Workers
    from qtoolkit.tensor.hessian import Hessian


class SolvedFile(CalibratedFile):
    """Plan a file whose codes are solved before it is written.

    Args:
        file: plans and writes the file.
        solving: how the layers in blocks are solved.
    """

    corrects = True

    def __init__(self, file: FilePlanner, solving: GPTQ) -> None:
        super().__init__(file)
        self._solving = solving

    def phases(self, job: "JobShape", config: Any) -> tuple[PhasePlan, ...]:
        """See `Planner`: those of GPTQ, whose result is not read back, and that of the file."""
        *solving, _reading = gptq_phases(job, self._solving)
        return (*solving, *self._file.phases(job, config))

    def notes(self, config: Any, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """See `Planner`."""
        solved = self._file.grids(layer.name for layer in layers)
        few = note_on_few_tokens(self._solving, tuple(layer for layer in layers if layer.name in solved))
        return (*self._file.notes(config, layers), *notes_on_experts(self._solving, layers), *few)

    def corrected(
        self, weights: "Iterable[torch.Tensor]", inputs: "Hessian", configs: Sequence[Any]
    ) -> "Iterator[list[torch.Tensor]]":
        """See `Planner`."""
        types = [BLOCK_TYPES[config.tensor_type] for config in configs]
        return blocks_alone(weights, inputs, types, self._solving)

    def solve(
        self,
        checkpoint: "Checkpoint",
        config: "MethodConfig",
        plan: Plan,
        on_progress: OnProgress,
        location: "JournalLocation | None",
        workers: "Workers | None" = None,
    ) -> Outcome:
        """Solve the codes of all layers in blocks, on workers if there are some; see `Method.quantize`."""
        solving = self._solving
        types = self.grids(layer.name for layer in plan.layers)
        begun = begin(
            checkpoint,
            solving,
            {"method": config.method, **config.to_file()},
            {name: type_.name for name, type_ in types.items()},
            device=plan.device,
            location=location,
            absent=config.absent(),
            on_progress=on_progress,
        )
        streamed = StreamedModel(checkpoint, device=plan.device, dtype=begun.dtype)
        layers = streamed.names_by_block([*types])
        tokens = begun.text.tokens
        if solving.shards > 1:
            # Without its text, which workers do not read.
            method = SolvedBlocks(replace(solving, calibration=GPTQ.calibration), types, plan.device)
            blocks = quantize_in_shards(
                streamed,
                layers,
                tokens,
                method,
                begun.journal,
                on_progress,
                {},
                num_shards=min(solving.shards, len(tokens)),
                workers=workers or ThisProcess(checkpoint),
            )
        else:
            method = SolvedBlocks(solving, types, plan.device)
            states, journal = where_states_wait(plan), begun.journal
            blocks = quantize_blocks(streamed, layers, tokens, method, journal, on_progress, {}, states=states)
        give_memory_back()
        report = report_of(begun, blocks, damp_percent=solving.damp_percent, perplexity=None)
        solved = {key.rpartition(".")[0]: tensor for block in blocks for key, tensor in block.tensors.items()}
        notes = (*begun.notes, *begun.text.notes, *begun.journal.notes)
        notes = (*notes, *note_on_unseen(report.layers), *note_on_few(report.layers))
        return Outcome(None, report, (*self.file_notes, *notes), file=self.with_blocks(solved))
