"""Read the structure of a result that was just written, as its own reader does, before it is put in place."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.errors import UnsupportedModelError, oneline
from qtoolkit.formats import Format, format_of
from qtoolkit.methods import reader_of
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_structure


def check_opens(folder: Path) -> None:
    """Refuse a folder that its own reader does not open; no value stays in memory.

    The reader builds the model on the meta device, where names, shapes and what the reader looks at are checked: no
    value of what is not quantized.

    Args:
        folder: holds config and weights of a quantized model.

    Raises:
        UnsupportedModelError: it does not open.
        MemoryError: memory ran out.
    """
    try:
        with panics_as_errors():
            checkpoint = open_structure(folder)
            stored_as = format_of(checkpoint.quantization)
            assert stored_as is not None
            read_as = reader_of(checkpoint)
            tensors = _without_others(stored_as, read_as.checkpoint, stored_as.structure(checkpoint.tensors))
            structure = replace(read_as.checkpoint, tensors=tensors)
            read_as.reader.load(structure, device="meta")
    except MemoryError:
        raise
    except Exception as error:  # readers raise anything where a model is not what they expect
        raise UnsupportedModelError(
            f"its own reader does not open the result, which is not put in place ({oneline(error)}): take another "
            "method or format, and tell the makers of qtoolkit"
        ) from error


def _without_others(stored_as: Format, checkpoint: Checkpoint, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return tensors, on the meta device those that belong to no quantized layer; all as they are where none is known.

    An embedding may be larger than a block.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    layers = stored_as.layer_bits(checkpoint.quantization or {}, shapes)
    return {
        name: tensor
        if not layers or name.rpartition(".")[0] in layers
        else torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in tensors.items()
    }
