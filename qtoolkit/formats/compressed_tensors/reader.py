"""Plan and load a compressed-tensors checkpoint."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.compressed_tensors import FORMAT
from qtoolkit.formats.compressed_tensors.byte_tensors import ByteTensors
from qtoolkit.formats.compressed_tensors.config import read_schemes
from qtoolkit.formats.compressed_tensors.packed_layers import find_layers, quantized_names
from qtoolkit.formats.stored_loader import load_stored
from qtoolkit.formats.stored_reader import StoredReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.formats.stored_layer import StoredLayer
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted


class PackedReader(StoredReader):
    """Plan and load one compressed-tensors checkpoint; its config and its tensors must agree.

    Args:
        checkpoint: quantized.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_schemes` and `find_layers`.
    """

    def __init__(self, checkpoint: "Checkpoint") -> None:
        assert checkpoint.quantization is not None
        schemes = read_schemes(checkpoint.quantization)
        self.name, _ = FORMAT.method_of(checkpoint.quantization)
        super().__init__(checkpoint, quantized_names(checkpoint.tensors), partial(find_layers, schemes=schemes))

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Reader`."""
        assert checkpoint.quantization is not None
        return load_packed(checkpoint, checkpoint.quantization, device=device)

    def check_codes(self, layer: "StoredLayer") -> None:
        """See `StoredReader`: refuse codes whose inputs are rounded too, as no other format tells readers."""
        if isinstance(layer.tensors, ByteTensors):
            raise UnsupportedModelError(
                f"{layer.name} is multiplied in 8 bits with rounded inputs, which no other format holds: quantize the "
                "full-precision model into that format"
            )


def load_packed(checkpoint: "Checkpoint", values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of a compressed-tensors checkpoint on `device`, ready to run and to save; see `load_stored`.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_schemes`, `find_layers` and `load_stored`.
    """
    from qtoolkit.formats.compressed_tensors.loader import CompressedTensorsConfig, register

    register()
    read_schemes(values)
    return load_stored(checkpoint, CompressedTensorsConfig, values, device=device)
