"""Base of the planners of files for which a text runs through the model before they are written."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.formats import FilePlanner, Layer, Sizes
from qtoolkit.records import LayerPlan, OnProgress
from qtoolkit.tensor.block_types import BlockType

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.checkpoints.safetensors import StoredTensor
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted
    from qtoolkit.stream.input_squares import InputSquares


class CalibratedFile(FilePlanner):
    """Plan a file as its own planner does, but for the phases before it is written.

    Args:
        file: plans and writes the file.
    """

    def __init__(self, file: FilePlanner) -> None:
        self._file = file
        self.name = file.name
        self.bits = file.bits
        self.splits_experts = file.splits_experts

    @property
    def file_notes(self) -> tuple[str, ...]:
        """See `FilePlanner`."""
        return self._file.file_notes

    def fit(self, layers: tuple[Layer, ...], config: Any) -> Any:
        """See `Planner`: refuse a text by which nothing would be chosen."""
        if not self._file.grids(layer.name for layer in layers if layer.in_block):
            raise ConfigError(
                f"{type(config).__name__}: calibration would change nothing, since all layers of the blocks have types "
                "that round too little to matter: leave it out, or ask for fewer bits"
            )
        return self._file.fit(layers, config)

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

    def sizes(self, layers: Sizes) -> Sizes:
        """See `Planner`."""
        return self._file.sizes(layers)

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

    def with_importance(
        self, found: "Mapping[str, InputSquares]", *, text: str, samples: tuple[int, ...]
    ) -> FilePlanner:
        """See `FilePlanner`."""
        return self._file.with_importance(found, text=text, samples=samples)
