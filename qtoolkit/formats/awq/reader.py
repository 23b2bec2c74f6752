"""Plan and load an AWQ checkpoint."""

from functools import partial
from typing import TYPE_CHECKING, Any

from qtoolkit.formats.awq.config import options_of, read_awq_config
from qtoolkit.formats.awq.interleaved_layers import find_layers, quantized_names
from qtoolkit.formats.stored_loader import load_stored
from qtoolkit.formats.stored_reader import StoredReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted


class AWQReader(StoredReader):
    """Plan and load one AWQ checkpoint; its config and its tensors must agree.

    Args:
        checkpoint: quantized.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_awq_config` and `find_layers`.
    """

    name = "awq"

    def __init__(self, checkpoint: "Checkpoint") -> None:
        assert checkpoint.quantization is not None
        config = read_awq_config(checkpoint.quantization)
        self._described = options_of(checkpoint.quantization)
        super().__init__(checkpoint, quantized_names(checkpoint.tensors), partial(find_layers, config=config))

    def settings(self, config: Any) -> dict[str, Any]:
        """See `Planner`: what the file says, and nothing of how its codes were chosen."""
        return self._described

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Reader`."""
        from qtoolkit.formats.awq.loader import AwqConfig, register

        register()
        assert checkpoint.quantization is not None
        return load_stored(checkpoint, AwqConfig, checkpoint.quantization, device=device)
