"""Save models as transformers reads them: config, tokenizer, and safetensors written tensor by tensor."""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.core_model_loading import revert_weight_conversion

from qtoolkit.checkpoints.config_ages import with_both_ages
from qtoolkit.checkpoints.config_limits import without_code
from qtoolkit.checkpoints.filenames import INDEX_FILE, PROCESSOR_FILES
from qtoolkit.checkpoints.model_class import takes_images
from qtoolkit.checkpoints.safetensors import DTYPES, StoredTensor
from qtoolkit.errors import OutputError, UnsupportedModelError
from qtoolkit.files import open_new
from qtoolkit.measure.malloc import GIVE_BACK_EVERY, give_memory_back
from qtoolkit.noted import Noted
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.companion_files import copy_companions
from qtoolkit.stream.tokenizer_writing import write_tokenizer
from qtoolkit.tensor.lazy import LazyState, LazyTensor

if TYPE_CHECKING:
    from io import BufferedWriter

    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

# As in transformers' `save_pretrained`: small enough for any file system, and for repeating an upload to the Hub.
MAX_SHARD_BYTES = 5_000_000_000
# Of a tensor that is copied from another file, so much is in memory at one time.
_PIECE_BYTES = 4 * 2**20
_FILE_KEYS = ("model_file_base_name", "model_name_or_path")
_Tensors = Mapping[str, torch.Tensor | LazyTensor]


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: Path,
    on_progress: OnProgress,
    *,
    base: Path | None = None,
    side_files: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda quantization: {},
    weights: Callable[[Mapping[str, Any]], list[str]] | None = None,
) -> tuple[str, ...]:
    """Write a model as transformers 4 and 5 read it: config, generation config, weights, tokenizer and chat template.

    Args:
        model: the model.
        tokenizer: a tokenizer of transformers; None if there is none.
        folder: where its files are written.
        on_progress: called for each tensor written.
        base: the folder of the model that it was made from, whose licence and the like are taken along; None where it
            is not known.
        side_files: returns further files that readers expect beside `config.json`, texts by name, given the
            `quantization_config` of that file.
        weights: writes the tensors, given by name, and returns the names of the files; None for `write_weights`.

    Returns:
        Notes of what was left out, one line each.

    Raises:
        OutputError: some of these files were removed while the model was saved.
        UnsupportedModelError: a tensor has a type that safetensors files lack.
    """
    described = describe_model(model, folder, side_files=side_files)
    tensors = own_tensors(model)
    written = write_weights(tensors, folder, on_progress) if weights is None else weights(tensors)
    beside = write_beside(tokenizer, folder, [*described.value, *written], base=base)
    return (*described.notes, *beside, *_note_on_processor(model, folder))


def _note_on_processor(model: "PreTrainedModel", folder: Path) -> tuple[str, ...]:
    """Return a note on a model that takes images, and whose processor nothing here knows."""
    if not takes_images(type(model).__name__) or any((folder / name).is_file() for name in PROCESSOR_FILES):
        return ()
    return ("its processor is not known here, and images need one: save it beside the weights (save_pretrained)",)


def describe_model(
    model: "PreTrainedModel",
    folder: Path,
    *,
    side_files: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda quantization: {},
    quantization: Mapping[str, Any] | None = None,
    generation: "GenerationConfig | None" = None,
) -> Noted[list[str]]:
    """Write the config of a model, what readers expect beside it, and the options of generating.

    Args:
        model: the model; one on the meta device will do.
        folder: where its files are written.
        side_files: as for `save_model`.
        quantization: a `quantization_config` to write; None for the model's own.
        generation: the options of generating; None for the model's own, which one on the meta device lacks.

    Returns:
        The names of the files, and notes of what was left out.
    """
    names = ["config.json"]
    config = _config_values(model, quantization)
    text = json.dumps(config.value, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    for name, text in side_files(config.value.get("quantization_config") or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
        names.append(name)
    generation = generation or model.generation_config
    if generation is not None:
        # Not `save_pretrained`, which refuses values of many published models, such as a temperature without do_sample.
        generation.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])
        names.append("generation_config.json")
    return Noted(names, config.notes)


def write_beside(
    tokenizer: "PreTrainedTokenizerBase | None", folder: Path, names: Iterable[str], *, base: Path | None
) -> tuple[str, ...]:
    """Write the tokenizer and the companion files beside weights.

    Args:
        tokenizer, folder, base: as for `save_model`.
        names: of the files that are written already.

    Returns:
        Notes of what was left out, one line each.

    Raises:
        OutputError: some of these files were removed meanwhile.
    """
    names = list(names)
    # If the folder was removed, transformers would create it again.
    _check_files(folder, names)
    written = Noted[list[str]]([]) if tokenizer is None else write_tokenizer(tokenizer, folder)
    beside = copy_companions(base, folder)
    _check_files(folder, [*names, *written.value, *beside.value])
    return (*written.notes, *beside.notes)


def _config_values(model: "PreTrainedModel", given: Mapping[str, Any] | None) -> Noted[dict[str, Any]]:
    """Return the values of a model's `config.json` for readers of either age, without what names code or other files.

    The notes name what fetches or runs code.
    """
    config = model.config
    config.architectures = [type(model).__name__]
    values, dropped = without_code(json.loads(config.to_json_string()))
    if given is not None:
        values["quantization_config"] = dict(given)
    quantization = values.get("quantization_config")
    if isinstance(quantization, dict):
        # auto-gptq's names of the file and the folder that the weights were read from.
        values["quantization_config"] = {key: quantization[key] for key in quantization if key not in _FILE_KEYS}
    notes = tuple(f"left out of its config, since it fetches or runs code: {what}" for what in dropped)
    return Noted(with_both_ages(values), notes)


def _check_files(folder: Path, names: list[str]) -> None:
    """Check that files still exist.

    Raises:
        OutputError: some were removed; the message names them.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise OutputError(f"{folder} lost {', '.join(missing)} while it was saved: leave it alone, and call that again")


def own_tensors(model: "PreTrainedModel") -> _Tensors:
    """Return the tensors to save: tied ones once, with the names and fusions of the original checkpoint."""
    excluded = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}  # noqa: SLF001
    # Layers with packed weights make their tensors only when they are written, one by one.
    state = model.state_dict(destination=LazyState())
    tensors = {name: tensor for name, tensor in state.items() if name not in excluded}
    return dict(revert_weight_conversion(model, tensors))


def write_weights(
    tensors: _Tensors, folder: Path, on_progress: OnProgress, max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[str]:
    """Write tensors to safetensors files of at most `max_shard_bytes` each, with an index if there are several.

    A file is its header followed by the tensors' bytes; no second copy of them is made in memory.

    Returns:
        The names of the files.

    Raises:
        UnsupportedModelError: a tensor has a type that the format lacks; nothing is written then.
    """
    _refuse_unknown(tensors)
    shards = _named_shards(tensors, max_shard_bytes)
    total = sum(tensor.nbytes for tensor in tensors.values())
    done = 0
    for file, shard in shards.items():
        for _, num_bytes in write_file(folder / file, shard):
            done += num_bytes
            on_progress(ProgressEvent("save", done, total, "bytes", file))
    return [*shards, *write_index(folder, shards)]


def write_parts(
    described: Mapping[str, torch.Tensor],
    parts: Iterable[Mapping[str, torch.Tensor | StoredTensor]],
    folder: Path,
    on_progress: OnProgress,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Write files as `write_weights` does, of tensors that come some at one time and in any order.

    Args:
        described: all tensors on the meta device: their shapes and types, in the order of the files.
        parts: the tensors, each once; a part is dropped before the next one is asked for. Those that are copied from
            a file are read piece by piece.
        folder, on_progress, max_shard_bytes: as for `write_weights`, which raises the same.

    Returns:
        The names of the files.
    """
    _refuse_unknown(described)
    shards = _named_shards(described, max_shard_bytes)
    total = sum(tensor.nbytes for tensor in described.values())
    done = given_back = 0
    with ExitStack() as stack:
        places: dict[str, tuple[str, BufferedWriter, int]] = {}
        for name, shard in shards.items():
            file = stack.enter_context(open_new(folder / name))
            header, offsets = _header(shard)
            file.write(header)
            places |= {key: (name, file, len(header) + offset) for key, offset in offsets.items()}
        for part in parts:
            for key, tensor in part.items():
                name, file, start = places[key]
                assert (tuple(tensor.shape), tensor.dtype) == (tuple(described[key].shape), described[key].dtype), key
                file.seek(start)
                for piece in _pieces(tensor):
                    file.write(_bytes_of(piece))
                done += tensor.nbytes
                on_progress(ProgressEvent("save", done, total, "bytes", name))
            del part, tensor  # before the next one is made
            if done - given_back > GIVE_BACK_EVERY:
                given_back = done
                give_memory_back()
    assert done == total, "each tensor is written once"
    return [*shards, *write_index(folder, shards)]


def _pieces(tensor: torch.Tensor | StoredTensor) -> Iterator[torch.Tensor]:
    """Yield a tensor, or one that is large and read from a file as some of its rows after the others."""
    if not isinstance(tensor, StoredTensor) or tensor.nbytes <= _PIECE_BYTES or not tensor.shape:
        yield tensor[...]
        return
    rows = max(1, _PIECE_BYTES * tensor.shape[0] // tensor.nbytes)
    for first in range(0, tensor.shape[0], rows):
        yield tensor.part(first, first + rows)


def _refuse_unknown(tensors: _Tensors) -> None:
    """Refuse tensors of a type that safetensors files lack."""
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            allowed = ", ".join(DTYPES)
            raise UnsupportedModelError(
                f"{name} has the type {tensor.dtype}: safetensors files are written of {allowed}"
            )


def write_index(folder: Path, shards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write the index of several files, and return its name; nothing for one file."""
    if len(shards) == 1:
        return []
    total = sum(tensor.nbytes for shard in shards.values() for tensor in shard.values())
    # In the order in which they stand in the files.
    weight_map = {name: file for file, shard in shards.items() for name, _ in _ordered(shard)}
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"
    (folder / INDEX_FILE).write_text(text, encoding="utf-8")
    return [INDEX_FILE]


def _named_shards(tensors: _Tensors, max_shard_bytes: int) -> dict[str, _Tensors]:
    """Return the tensors of each file by the names of the files."""
    shards = _shards(tensors, max_shard_bytes)
    names = (f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1))
    return dict(zip(["model.safetensors"] if len(shards) == 1 else names, shards, strict=True))


def _shards(tensors: _Tensors, max_shard_bytes: int) -> list[dict[str, torch.Tensor | LazyTensor]]:
    """Return the tensors in groups of at most `max_shard_bytes`, in their order; a larger tensor is a group alone."""
    shards: list[dict[str, torch.Tensor | LazyTensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def write_file(path: Path, tensors: _Tensors) -> Iterator[tuple[str, int]]:
    """Write one safetensors file, yielding each tensor's name and size in bytes once it is written."""
    header, _ = _header(tensors)
    with open_new(path) as file:
        file.write(header)
        for name, tensor in _ordered(tensors):
            values = tensor[...]
            file.write(_bytes_of(values))
            del values  # before the next tensor is read
            yield name, tensor.nbytes


def _ordered(tensors: Mapping[str, Any]) -> list[tuple[str, torch.Tensor | LazyTensor]]:
    """Return tensors in the order of a file, which must be aligned.

    With the widest types first, every offset is a multiple of the item size.
    """
    return sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)


def _header(tensors: _Tensors) -> tuple[bytes, dict[str, int]]:
    """Return what stands before the tensors' bytes in a file, and where each tensor begins after that."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    position = 0
    for name, tensor in _ordered(tensors):
        starts[name] = position
        position += tensor.nbytes
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [starts[name], position],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, starts


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data  # [bytes]
