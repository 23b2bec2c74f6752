"""Plan and load an MLX checkpoint."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.mlx import FORMAT
from qtoolkit.formats.mlx.affine_layers import check_biases, find_layers, quantized_names
from qtoolkit.formats.mlx.config import QUANTIZATION, check_both, for_mlx, read_schemes
from qtoolkit.formats.stored_loader import load_stored
from qtoolkit.formats.stored_reader import StoredReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.formats.stored_layer import StoredLayer
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted


class AffineReader(StoredReader):
    """Plan and load one MLX checkpoint; its config and its tensors must agree.

    Args:
        checkpoint: quantized.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_schemes`, `check_both` and `find_layers`.
    """

    def __init__(self, checkpoint: "Checkpoint") -> None:
        assert checkpoint.quantization is not None
        schemes = read_schemes(checkpoint.quantization)
        self.name, _ = FORMAT.method_of(checkpoint.quantization)
        check_both(getattr(checkpoint.config, QUANTIZATION, None), checkpoint.quantization)
        super().__init__(checkpoint, quantized_names(checkpoint.tensors), partial(find_layers, schemes=schemes))

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Reader`; asymmetric codes are found in the first layer, before the others are read."""
        assert checkpoint.quantization is not None
        self._check_values(next(iter(self.layers.values())))
        return load_affine(checkpoint, checkpoint.quantization, device=device)

    def check_codes(self, layer: "StoredLayer") -> None:
        """See `StoredReader`: refuse minima of other codes than symmetric ones, which stand for no zero points."""
        if not layer.tensors.centered:
            raise UnsupportedModelError(
                f"{layer.name} has rounded minima, and no zero points that another format could take over: quantize "
                "the full-precision model into that format"
            )
        self._check_values(layer)

    def _check_values(self, layer: "StoredLayer") -> None:
        scales, biases = (self._headers[f"{layer.name}.{part}"][...] for part in ("scales", "biases"))
        check_biases(layer.name, scales, biases, layer.tensors)


def load_affine(checkpoint: "Checkpoint", values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of an MLX checkpoint on `device`, ready to run and to save; see `load_stored`.

    Its config has what MLX reads, too.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_schemes`, `find_layers` and `load_stored`.
    """
    from qtoolkit.formats.mlx.loader import MLXConfig, register

    register()
    read_schemes(values)
    config = copy.deepcopy(checkpoint.config)
    setattr(config, QUANTIZATION, for_mlx(values))
    return load_stored(replace(checkpoint, config=config), MLXConfig, values, device=device)
