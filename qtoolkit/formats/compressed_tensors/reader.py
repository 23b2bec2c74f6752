"""Plan and load a compressed-tensors checkpoint."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.formats.compressed_tensors import FORMAT
from qtoolkit.formats.compressed_tensors.byte_tensors import ByteTensors
from qtoolkit.formats.compressed_tensors.config import origin_of, read_schemes
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
        if schemes.schemes[0].in_bytes and origin_of(checkpoint.quantization) is None:
            # Other programs calibrate such codes, or do not: nothing tells.
            self.name = FORMAT.name
        super().__init__(checkpoint, quantized_names(checkpoint.tensors), partial(find_layers, schemes=schemes))

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Reader`."""
        assert checkpoint.quantization is not None
        return load_packed(checkpoint, checkpoint.quantization, device=device)

    def check_codes(self, layer: "StoredLayer") -> None:
        """See `StoredReader`: refuse float8, and scales that no layer of integers has."""
        if not isinstance(layer.tensors, ByteTensors):
            return
        if layer.tensors.kind == "float":
            raise UnsupportedModelError(
                f"{layer.name} has float8 codes, which {FORMAT.name} alone holds, as they are stored: serve it so, or "
                "quantize the full-precision model"
            )
        scale = self._headers[f"{layer.name}.{layer.tensors.scale_name}"][...]
        if fault := layer.tensors.fault_of_scale(scale):
            raise CheckpointError(f"{layer.name}.{fault}: name another checkpoint of the model")


def load_packed(checkpoint: "Checkpoint", values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of a compressed-tensors checkpoint on `device`, ready to run and to save; see `load_stored`.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_schemes`, `find_layers` and `load_stored`.
    """
    from qtoolkit.formats.compressed_tensors.loader import CompressedTensorsConfig, register

    register()
    read_schemes(values)
    return load_stored(checkpoint, CompressedTensorsConfig, values, device=device)
