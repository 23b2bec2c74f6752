"""Make a source of a checkpoint whose weights are stored as FP8, MXFP4 or NVFP4, and expanded when they are read."""

import copy
from dataclasses import replace

import torch

from qtoolkit.checkpoints.coded_tensors import expand_tensors
from qtoolkit.checkpoints.expanded_tensors import stored_bytes
from qtoolkit.checkpoints.source_codes import source_codes
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.units import format_bytes


def expanded(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint as one in full precision, if its weights are stored as FP8, MXFP4 or NVFP4.

    Others are returned as they are.

    No weight is read, and the config of the result describes no quantization.

    Args:
        checkpoint: the model; its config says how its weights are stored.

    Raises:
        CheckpointError: codes without scales, scales that do not fit them, or sizes of blocks that none can have.
        UnsupportedModelError: other codes beside them.
    """
    codes = source_codes(checkpoint.name, checkpoint.quantization)
    if codes is None:
        return checkpoint
    config = copy.deepcopy(checkpoint.config)
    del config.quantization_config
    # As all such models are published; the few tensors that are stored as floats may have another type.
    dtype = torch.bfloat16 if config.dtype is None else checkpoint.dtype
    tensors = expand_tensors(checkpoint.name, checkpoint.tensors, codes, dtype)  # type: ignore[arg-type]
    whole = sum(tensor.nbytes for tensor in tensors.values())
    note = (
        f"its weights are stored as {codes}, {format_bytes(stored_bytes(tensors))}, and are expanded to "
        f"{str(dtype).removeprefix('torch.')}, {format_bytes(whole)}, one by one as they are read: all figures compare "
        "with the expanded model"
    )
    result = replace(checkpoint, config=config, tensors=tensors, dtype=dtype, stored_as=str(codes), _built=[])
    return result.with_notes(note)
