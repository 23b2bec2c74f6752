"""Weigh the errors of weights by the importance of their inputs, from an imatrix file or a calibration text."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from qtoolkit.checkpoints.gguf_writing import Value
from qtoolkit.checkpoints.imatrix import Imatrix
from qtoolkit.errors import ConfigError

if TYPE_CHECKING:
    from qtoolkit.formats.gguf.file_plan import PlannedTensor

# The embedding, which llama.cpp goes without where the file has another size for it.
_EMBEDDING = "token_embd.weight"
# Types whose search takes no weights.
_UNWEIGHTED = ("Q8_0",)
# Names that a note lists.
_LISTED = 3
# What llama-quantize writes of a file's and a text's name.
_MAX_NAME = 127


def is_weighted(tensor: "PlannedTensor") -> bool:
    """Check whether the importance of its inputs changes the blocks of a tensor."""
    return tensor.type_.block_size > 1 and tensor.type_.name not in _UNWEIGHTED


def importance_of(tensor: "PlannedTensor", importance: Mapping[str, Tensor]) -> Tensor | None:
    """Return the importance of a tensor's inputs, float32 [in] or [experts, in]; None where none is known or used.

    Args:
        tensor: of a plan.
        importance: mean squares of inputs by the names of the tensors, [in], [experts, in] or [experts * in].

    Raises:
        ConfigError: it is that of another number of inputs or experts.
        CheckpointError: it cannot be read, or holds numbers that are no mean squares.
    """
    name, shape = tensor.entry.name, tensor.entry.shape
    if not is_weighted(tensor) or name not in importance:
        return None
    found = importance[name]
    wanted = (*shape[:-2], shape[-1])  # [out, in] -> [in], [experts, out, in] -> [experts, in]
    if found.numel() == prod(wanted):
        return found.float().reshape(wanted)
    if name == _EMBEDDING:
        return None
    experts = f" for each of {shape[0]} experts" if len(shape) > 2 else ""
    raise ConfigError(
        f"imatrix: it has {found.numel()} inputs for {name}, and the model {shape[-1]}{experts}: it is that of another "
        "model, name this one's"
    )


def check_importance(tensors: Sequence["PlannedTensor"], importance: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Check the importance for all tensors of a file, and tell which have none, one line each.

    Raises:
        ConfigError: it is that of another model.
        CheckpointError: as `importance_of`.
    """
    weighted = [tensor for tensor in tensors if is_weighted(tensor)]
    if not weighted:
        return ("no tensor of the file is rounded by importance: the imatrix changes no block",)
    missing = [tensor.entry.name for tensor in weighted if importance_of(tensor, importance) is None]
    if len(missing) == len(weighted):
        theirs = f", such as {next(iter(importance))!r:.80}" if importance else ""
        raise ConfigError(
            f"imatrix: it has no tensor of this model, whose first is {missing[0]}{theirs}: it is that of another "
            "model, name this one's"
        )
    notes = []
    if missing:
        notes.append(
            f"the imatrix has nothing on {len(missing)} of {len(weighted)} tensors, which are rounded without: "
            f"{_listed(missing)}"
        )
    known = {tensor.entry.name for tensor in tensors}
    if unknown := sorted(name for name in importance if name not in known):
        notes.append(f"the imatrix has {len(unknown)} tensors that the file has not: {_listed(unknown)}")
    return tuple(notes)


def notes_on_file(imatrix: Imatrix) -> tuple[str, ...]:
    """Tell where importance comes from, one line each."""
    texts = ", ".join(imatrix.datasets) or "a text that it does not name"
    size = f" of {imatrix.chunk_size} tokens" if imatrix.chunk_size else ""
    chunks = f", {imatrix.chunk_count} chunks{size}" if imatrix.chunk_count else ""
    notes = [f"importance weights from {imatrix.file.name}: {texts}{chunks}"]
    if unseen := sum(map(imatrix.unseen, imatrix)):
        notes.append(f"no token of that text chose {unseen} matrices of experts, whose inputs all weigh the same")
    return tuple(notes)


def header_values(imatrix: Imatrix) -> dict[str, Value]:
    """Return what `llama-quantize` writes into the header of a file about the imatrix; of names, no folders."""
    values = {"quantize.imatrix.file": Value("string", imatrix.file.name[:_MAX_NAME])}
    if imatrix.datasets:
        values["quantize.imatrix.dataset"] = Value("string", imatrix.datasets[0][:_MAX_NAME])
    values["quantize.imatrix.entries_count"] = Value("uint32", len(imatrix))
    if imatrix.chunk_count:
        values["quantize.imatrix.chunks_count"] = Value("uint32", imatrix.chunk_count)
    return values


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and how many others there are."""
    others = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + others
