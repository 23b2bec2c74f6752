"""Results on disk: safetensors written tensor by tensor into `OUTPUT.partial/`, renamed when whole."""

import errno
import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers.core_model_loading import revert_weight_conversion

from qtoolkit.errors import DiskFullError, OutputError, OutputExistsError, oneline
from qtoolkit.records import ProgressEvent
from qtoolkit.source.opening import OnProgress
from qtoolkit.source.weights import DTYPES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# As transformers' `save_pretrained`: small enough for any file system and for a Hub upload to be repeated.
MAX_SHARD_BYTES = 5_000_000_000
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, an output folder that cannot become the result.

    Raises:
        OutputExistsError: it exists and `overwrite` is false, or it is a file.
        OutputError: no folder can be made there.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputExistsError(f"{output} is not a folder: name another output")
    if output.exists() and any(output.iterdir()) and not overwrite:
        raise OutputExistsError(f"{output} exists: name another output, or give overwrite=True to replace it")
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    try:
        with TemporaryDirectory(prefix=".qtoolkit-", dir=parent):
            pass
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}; name another output") from error


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """The folder `OUTPUT.partial`, empty, which becomes `OUTPUT` when the block ends well and goes when it does not.

    What stood at `OUTPUT` before stays until the new result is whole.

    Raises:
        DiskFullError: the disk filled up while the block wrote.
        OutputError: it cannot be written for another reason.
    """
    partial, replaced = _partial(output), output.with_name(f"{output.name}.replaced")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if output.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            output.rename(replaced)
        partial.rename(output)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        kind = DiskFullError if error.errno in _NO_ROOM else OutputError
        raise kind(f"{output} cannot be written: {error.strerror or oneline(error)}; what stood there is untouched") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def save_model(model: "PreTrainedModel", tokenizer: Any, folder: Path, on_progress: OnProgress) -> None:
    """Write a model as transformers reads it: config, generation config, weights, tokenizer and chat template."""
    config = model.config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    write_weights(_own_tensors(model), folder, on_progress)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _own_tensors(model: "PreTrainedModel") -> dict[str, torch.Tensor]:
    """The state to store: tied tensors once, names and merges as in the checkpoint that was read."""
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    return dict(revert_weight_conversion(model, tensors))


def write_weights(
    tensors: Mapping[str, torch.Tensor], folder: Path, on_progress: OnProgress, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write tensors to safetensors files of at most `max_shard_bytes` each, with an index when there are several.

    A file is its header followed by the tensors' bytes; no second copy of them is made in memory.
    """
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > max_shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        for name, written in _write_file(folder / file, shard):
            done += written
            weight_map[name] = file
            on_progress(ProgressEvent("save", done, total, "bytes", file))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _write_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, int]]:
    """Write one safetensors file, yielding each tensor's name and bytes once it is written."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    # The format wants tensors aligned: the widest types first keeps every offset a multiple of the item size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in ordered:
        offsets = [position, position + tensor.nbytes]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name, tensor in ordered:
            data = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)  # [bytes]
            file.write(memoryview(data.numpy()))
            yield name, tensor.nbytes
