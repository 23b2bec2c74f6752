"""Solve the codes of a file that other programs run: GPTQ on the block types that its planner has chosen."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.formats import FilePlanner, Layer, Sizes
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.gptq.calibrating import begin, report_of
from qtoolkit.methods.gptq.estimates import gptq_phases
from qtoolkit.methods.gptq.notes import note_on_few_tokens, note_on_unseen, notes_on_experts
from qtoolkit.methods.gptq.solved_blocks import SolvedBlocks, blocks_alone
from qtoolkit.methods.method import Outcome
from qtoolkit.records import LayerPlan, OnProgress, PhasePlan, Plan
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.run import quantize_blocks
from qtoolkit.tensor.block_types import BLOCK_TYPES, BlockType

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.checkpoints.safetensors import StoredTensor
    from qtoolkit.methods.config import MethodConfig
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted
    from qtoolkit.stream.cost import JobShape
    from qtoolkit.stream.journal import JournalLocation
    from qtoolkit.tensor.hessian import Hessian


class SolvedFile(FilePlanner):
    """Plan a file whose codes are solved before it is written.

    Args:
        file: plans and writes the file.
        solving: how the layers in blocks are solved.
    """

    corrects = True

    def __init__(self, file: FilePlanner, solving: GPTQ) -> None:
        self._file = file
        self._solving = solving
        self.name = file.name
        self.bits = file.bits
        self.splits_experts = file.splits_experts
        self.file_notes = file.file_notes

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """See `Planner`."""
        return self._file.plan_layer(layer, config)

    def plan_embedding(self, layer: Layer, config: Any, *, multiplies: bool) -> LayerPlan | None:
        """See `Planner`."""
        return self._file.plan_embedding(layer, config, multiplies=multiplies)

    def sizes_by_choice(self, layer: Layer, config: Any) -> Mapping[str, int]:
        """See `Planner`."""
        return self._file.sizes_by_choice(layer, config)

    def rounded(self, weight: "torch.Tensor", layer: Layer, config: Any) -> "torch.Tensor":
        """See `Planner`: what is outside the blocks is not solved."""
        return self._file.rounded(weight, layer, config)

    def corrected(
        self, weights: "Iterable[torch.Tensor]", inputs: "Hessian", configs: Sequence[Any]
    ) -> "Iterator[list[torch.Tensor]]":
        """See `Planner`."""
        types = [BLOCK_TYPES[config.tensor_type] for config in configs]
        return blocks_alone(weights, inputs, types, self._solving)

    def sizes(self, layers: Sizes) -> Sizes:
        """See `Planner`."""
        return self._file.sizes(layers)

    def phases(self, job: "JobShape", config: Any) -> tuple[PhasePlan, ...]:
        """See `Planner`: those of GPTQ, whose result is not read back, and that of the file."""
        *solving, _reading = gptq_phases(job, self._solving)
        return (*solving, *self._file.phases(job, config))

    def notes(self, config: Any, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """See `Planner`."""
        solved = self._file.grids(layer.name for layer in layers)
        few = note_on_few_tokens(self._solving, tuple(layer for layer in layers if layer.name in solved))
        return (*self._file.notes(config, layers), *notes_on_experts(self._solving, layers), *few)

    def grids(self, layers: Iterable[str]) -> Mapping[str, BlockType]:
        """See `FilePlanner`."""
        return self._file.grids(layers)

    def with_blocks(self, blocks: "Mapping[str, StoredTensor | torch.Tensor]") -> FilePlanner:
        """See `FilePlanner`."""
        return self._file.with_blocks(blocks)

    def write(self, folder: Path, device: str, on_progress: OnProgress) -> Mapping[str, Any]:
        """See `FilePlanner`: nothing is solved here."""
        return self._file.write(folder, device, on_progress)

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Planner`."""
        return self._file.load(checkpoint, device=device)

    def solve(
        self,
        checkpoint: "Checkpoint",
        config: "MethodConfig",
        plan: Plan,
        on_progress: OnProgress,
        location: "JournalLocation | None",
    ) -> Outcome:
        """Solve the codes of all layers in blocks; see `Method.quantize`, whose result this is."""
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
        method = SolvedBlocks(solving, types, plan.device)
        blocks = quantize_blocks(streamed, layers, begun.text.tokens, method, begun.journal, on_progress, {})
        give_memory_back()
        report = report_of(begun, blocks, damp_percent=solving.damp_percent, perplexity=None)
        solved = {key.rpartition(".")[0]: tensor for block in blocks for key, tensor in block.tensors.items()}
        notes = (*begun.notes, *begun.text.notes, *begun.journal.notes, *note_on_unseen(report.layers))
        return Outcome(None, report, (*self.file_notes, *notes), file=self.with_blocks(solved))
