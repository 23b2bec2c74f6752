"""Plan and load a GPTQ checkpoint."""

from functools import partial
from typing import TYPE_CHECKING

from qtoolkit.formats.gptq import FORMAT
from qtoolkit.formats.gptq.config import read_quantize_config
from qtoolkit.formats.gptq.stored_layers import find_layers, load_gptq, quantized_names
from qtoolkit.formats.stored_reader import StoredReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted


class GPTQReader(StoredReader):
    """Plan and load one GPTQ checkpoint; its file decides which layers are quantized, and with how many bits.

    Args:
        checkpoint: quantized.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_quantize_config` and `find_layers`.
    """

    def __init__(self, checkpoint: "Checkpoint") -> None:
        assert checkpoint.quantization is not None
        config = read_quantize_config(checkpoint.quantization)
        self.name, _ = FORMAT.method_of(checkpoint.quantization)
        names = quantized_names(checkpoint.tensors)
        super().__init__(checkpoint, names, partial(find_layers, config=config), reordered=config.desc_act)

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Reader`."""
        assert checkpoint.quantization is not None
        return load_gptq(checkpoint, checkpoint.quantization, device=device)
