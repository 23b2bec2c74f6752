"""Merge an adapter of QA-LoRA into a `.gguf` file: minima of blocks are moved, and no code is touched."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from qtoolkit.adapters.adapter_reading import Adapter, Change
from qtoolkit.checkpoints.gguf_tensors import GgufTensor
from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.files import path_of
from qtoolkit.jobs.checkpoint_loading import load_quantized
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.file_probe import probe_file
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.device import resolve_device
from qtoolkit.publishing import write_receipt
from qtoolkit.quantized import QuantizedModel
from qtoolkit.quantized_file import QuantizedFile
from qtoolkit.requests import MergeRequest, ModelSource
from qtoolkit.stream.staging import staged

# Types whose blocks of 32 begin with a scale and a minimum, both float16.
_WITH_MINIMA = ("Q4_1", "Q5_1")
_BLOCK = 32


def merge_into_file(request: MergeRequest, q: QuantizedFile, adapter: Adapter) -> QuantizedModel:
    """Return a copy of a file's folder in which the minima of blocks have an adapter added, rounded to float16.

    Raises:
        ConfigError: without an output; an adapter of other layers or shapes.
        UnsupportedModelError: a change that is not one number for each block, or blocks without a float minimum.
    """
    if request.output is None or q.path is None:
        raise ConfigError(f"{q.name} is a file for other programs: give output=, the folder for the merged one")
    if request.text is not None:
        raise ConfigError(
            "text= does not measure a merge into a file: leave it out, and give the result to qt.evaluate"
        )
    checkpoint = open_source(q.path, ModelSource(), quantized=True)
    found = {name: _tensor(checkpoint, adapter, name, change) for name, change in adapter.changes.items()}
    folder = path_of(request.output, "output")
    with staged(folder, overwrite=request.overwrite) as new:
        for file in sorted(q.path.iterdir()):
            if file.is_file():
                shutil.copyfile(file, new / file.name)
        moved = max(_move(new / tensor.file.name, tensor, adapter.changes[name]) for name, tensor in found.items())
        note = (
            f"the adapter {adapter.name} (sha256 {adapter.sha256[:12]}) was merged into the minima of {len(found)} "
            f"tensors: no code was touched, and rounding minima to float16 moves weights by {moved:.2g} at most"
        )
        if q.receipt is not None:
            # The logits of before the merge prove nothing of these weights.
            probe = probe_file(new, checkpoint, device=resolve_device(request.device), on_progress=request.report)
            notes = (*q.receipt.notes, *probe.notes, note)
            write_receipt(new, replace(q.receipt, notes=notes, probe=probe.value))
    merged = load_quantized(open_source(folder, ModelSource(), quantized=True), resolve_device(request.device))
    merged.report = replace(merged.report, notes=(*merged.report.notes, note))
    return merged


def _tensor(checkpoint: Checkpoint, adapter: Adapter, name: str, change: Change) -> GgufTensor:
    """Return the tensor of a file that a change belongs to.

    Raises:
        ConfigError: there is none, or it has another shape.
        UnsupportedModelError: it has no float minimum for each group of the change.
    """
    tensor = checkpoint.tensors.get(f"{name}.weight")
    if not isinstance(tensor, GgufTensor):
        raise ConfigError(
            f"adapter {adapter.name} changes {name}, which is no tensor of the file: give another adapter"
        )
    if tuple(tensor.shape) != change.shape:
        shapes = f"{list(change.shape)} in adapter {adapter.name} and {list(tensor.shape)} in the file"
        raise ConfigError(f"{name} is {shapes}: give an adapter of this model")
    if tensor.type_.name not in _WITH_MINIMA or tensor.order.transposed:
        raise UnsupportedModelError(
            f"{name} is stored as {tensor.type_.name}, which has no float minimum ({' and '.join(_WITH_MINIMA)} have): "
            "leave into_codes out, and it is quantized again from the base"
        )
    if change.group_size % _BLOCK:
        raise UnsupportedModelError(
            f"adapter {adapter.name} changes single weights of blocks of {_BLOCK}: leave into_codes out, or train one "
            f"with use_qalora=True, qalora_group_size={_BLOCK}"
        )
    return tensor


def _move(file: Path, tensor: GgufTensor, change: Change) -> float:
    """Add a change to the minima of a tensor in a file, and return the largest error of one."""
    packed = tensor.codes[...]  # [rows, bytes of a row]
    blocks = packed.view(len(packed), -1, tensor.type_.block_bytes)  # [rows, blocks, bytes of a block]
    minima = blocks[..., 2:4].contiguous().view(torch.float16)[..., 0]  # [rows, blocks]
    wanted = minima.float() + tensor.stored_rows(change.product()[:, ::_BLOCK])
    rounded = wanted.half()
    if not rounded.isfinite().all():
        raise ConfigError(
            f"a minimum of {tensor.file.name} would exceed float16: train the adapter with a smaller rate"
        )
    blocks[..., 2:4] = rounded[..., None].view(torch.uint8)
    with file.open("r+b") as stream:
        stream.seek(tensor.codes.start)
        stream.write(packed.numpy().tobytes())
    return (rounded.float() - wanted).abs().max().item()
