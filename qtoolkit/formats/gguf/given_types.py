"""Give tensors of a file other types than llama.cpp's quantizer chooses, by the names of their modules."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from qtoolkit.checkpoints.gguf_places import modules_in
from qtoolkit.errors import ConfigError
from qtoolkit.formats.gguf.file_plan import PlannedTensor
from qtoolkit.formats.gguf.mixes import fitting, is_kept
from qtoolkit.tensor.block_types import BLOCK_TYPES, BlockType

_LARGE_BLOCK = 256


def retyped(tensor: PlannedTensor, types: Callable[[str], str | None]) -> PlannedTensor:
    """Return a tensor as it is stored in the type that was given to its modules; as it is where none was.

    Args:
        tensor: of a plan. What llama.cpp keeps in float32 stays so.
        types: of a module's weight, by its name; None where llama.cpp chooses.

    Raises:
        ConfigError: experts of one tensor have several types.
    """
    if not tensor.sources or is_kept(tensor.entry.name, tensor.entry.shape):
        return tensor
    found = {type_ for source in tensor.sources for type_ in _types_in(source, tensor, types)}
    if len(found) > 1:
        several = " and ".join(sorted(name or "what llama.cpp chooses" for name in found))
        raise ConfigError(
            f"rules: the experts of {tensor.entry.name} are one tensor in a .gguf file, and get {several}: give all of "
            "them one type, by a pattern with * in place of their numbers"
        )
    name = found.pop()
    return tensor if name is None else _stored_as(tensor, fitting(name, tensor.entry.shape[-1]))


def left_alone(tensor: PlannedTensor, left: Callable[[str], bool]) -> PlannedTensor:
    """Return a tensor in 16 bits where one of its modules stays so."""
    modules = (module for source in tensor.sources for module in modules_in(source, tensor.entry))
    if tensor.type_.block_size == 1 or not any(left(module) for module in modules):
        return tensor
    return _stored_as(tensor, BLOCK_TYPES["F16"])


def retyped_names(before: Iterable[PlannedTensor], after: Iterable[PlannedTensor]) -> set[str]:
    """Return the tensors of a file that have different types in two plans of it, by their names there."""
    pairs = zip(before, after, strict=True)
    return {one.entry.name for one, other in pairs if one.type_ is not other.type_}


def fitting_types(names: Sequence[str], columns: int) -> list[BlockType]:
    """Return the types whose blocks divide rows of so many weights; those of the largest blocks, and Q8_0.

    Blocks of 256 take fewer bytes for their scales than those of 32 with codes of as many bits, and err no more.
    """
    types = [BLOCK_TYPES[name] for name in names]
    size = _LARGE_BLOCK if columns % _LARGE_BLOCK == 0 else min(type_.block_size for type_ in types)
    if columns % size:
        return []
    return [type_ for type_ in types if type_.block_size == size or type_.name == "Q8_0"]


def _types_in(source: str, tensor: PlannedTensor, types: Callable[[str], str | None]) -> Iterator[str | None]:
    """Yield the types given to what a tensor takes of a tensor of a checkpoint: one, or one for each expert.

    Experts that are stored as one may have either of two names, of which the model's own is not known here: the one
    that something was said of counts.
    """
    module, *experts = modules_in(source, tensor.entry)
    usual = types(module)
    if not experts:
        yield usual
        return
    aliases = len(experts) // tensor.entry.shape[0]
    for first in range(0, len(experts), aliases):
        names = experts[first : first + aliases]
        yield next((type_ for name in names if (type_ := types(name)) != usual), usual)


def _stored_as(tensor: PlannedTensor, type_: BlockType) -> PlannedTensor:
    entry = replace(tensor.entry, number=type_.number, nbytes=type_.nbytes(tensor.entry.shape))
    return replace(tensor, type_=type_, entry=entry)
