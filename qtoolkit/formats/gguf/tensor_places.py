"""Say where each tensor of a checkpoint goes in a `.gguf` file: llama.cpp's names, halves, and stacks of experts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qtoolkit.checkpoints.gguf_writing import TensorEntry
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gguf.architectures import Architecture

# The experts of a layer in one tensor, as transformers 5 holds them: [experts, out, in], with gate above up.
_FUSED = re.compile(r"mlp\.experts\.(gate_up_proj|down_proj)(?:\.weight)?")
_EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_EXPERT_NAMES = {
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
}
# Those that may have a bias in every architecture.
_BIASED = ("attn_q", "attn_k", "attn_v")


@dataclass(frozen=True)
class Place:
    """Where a tensor of a checkpoint goes.

    Attributes:
        name: llama.cpp's name of the tensor, "blk.0.ffn_gate_exps.weight".
        expert: its number in a stack of experts; None for a tensor of its own, or a whole stack.
        half: which half of the rows goes there, 0 or 1; None for all rows.
    """

    name: str
    expert: int | None = None
    half: int | None = None


@dataclass(frozen=True)
class Made:
    """A tensor of the file and of what it is made.

    Attributes:
        name: llama.cpp's name of it.
        sources: names in the checkpoint, in the order of experts; one for a tensor that is no stack.
        shape: as torch has it.
        half: of each source's rows, see `Place`.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    half: int | None


def places_of(source: str, architecture: Architecture) -> tuple[Place, ...]:
    """Return where a tensor goes; nothing where llama.cpp has no place for it.

    Args:
        source: its name in a checkpoint, "model.layers.0.self_attn.q_proj.weight".
        architecture: of the model.

    Example:
        >>> places_of("model.layers.0.mlp.experts.gate_up_proj", ARCHITECTURES["qwen3_moe"])
        (Place("blk.0.ffn_gate_exps.weight", half=0), Place("blk.0.ffn_up_exps.weight", half=1))
    """
    found = architecture.block.fullmatch(source)
    if not found:
        module, _, kind = source.rpartition(".")
        name = architecture.outside.get(module)
        return (Place(f"{name}.{kind}"),) if name and kind in ("weight", "bias") else ()
    block, rest = f"blk.{found[1]}", found[2]
    if architecture.experts and (stack := _FUSED.fullmatch(rest)):
        if stack[1] == "down_proj":
            return (Place(f"{block}.ffn_down_exps.weight"),)
        return tuple(Place(f"{block}.ffn_{kind}_exps.weight", half=half) for half, kind in enumerate(("gate", "up")))
    if architecture.experts and (one := _EXPERT.fullmatch(rest)):
        name = _EXPERT_NAMES.get(one[2])
        return (Place(f"{block}.{name}.weight", int(one[1])),) if name else ()
    module, _, kind = rest.rpartition(".")
    name = architecture.names.get(module)
    known = kind == "weight" or (kind == "bias" and (architecture.biases or name in _BIASED))
    return (Place(f"{block}.{name}.{kind}"),) if name and known else ()


def one_share(entry: TensorEntry, expert: int | None) -> int:
    """Return the bytes that a layer has of a tensor: all of them, or those of one expert."""
    return entry.nbytes if expert is None else entry.nbytes // entry.shape[0]


def modules_in(source: str, entry: TensorEntry) -> Iterator[str]:
    """Yield the names of the linear layers that a tensor of the file takes of a tensor of a checkpoint.

    Example:
        >>> [*modules_in("mlp.experts.down_proj", TensorEntry("blk.0.ffn_down_exps.weight", (2, 64, 32), 1, 8192))]
        ["mlp.experts", "mlp.experts.0.down_proj", "mlp.experts.0.w2", "mlp.experts.1.down_proj", "mlp.experts.1.w2"]
    """
    module = source.removesuffix(".weight").rpartition(".")[0] if _FUSED.search(source) else source.rpartition(".")[0]
    yield module
    if _FUSED.search(source):
        parts = [part for part, name in _EXPERT_NAMES.items() if f".{name}." in entry.name]
        yield from (f"{module}.{index}.{part}" for index in range(entry.shape[0]) for part in parts)


def tensors_of(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture, experts: int) -> tuple[Made, ...]:
    """Return the tensors of a file, in the order in which the checkpoint has their first parts.

    Args:
        shapes: of the tensors of the checkpoint, by their names there.
        architecture: of the model.
        experts: of a layer; 0 for a model without.

    Raises:
        UnsupportedModelError: llama.cpp has no place for a tensor, an expert is missing, or two have one place.
    """
    parts: dict[str, dict[int | None, tuple[str, int | None]]] = {}
    for source in shapes:
        places = places_of(source, architecture)
        if not places:
            raise UnsupportedModelError(
                f"no .gguf file is written of this model: llama.cpp's {architecture.name} has no tensor {source!r}"
            )
        for place in places:
            others = parts.setdefault(place.name, {})
            if place.expert in others:
                raise UnsupportedModelError(
                    f"no .gguf file is written of this model: {source!r} and {others[place.expert][0]!r} are one tensor"
                )
            others[place.expert] = (source, place.half)
    return tuple(_made(name, found, shapes, architecture, experts) for name, found in parts.items())


def _made(
    name: str,
    parts: Mapping[int | None, tuple[str, int | None]],
    shapes: Mapping[str, tuple[int, ...]],
    architecture: Architecture,
    experts: int,
) -> Made:
    """Return how one tensor is made of its parts, by the numbers of their experts."""
    stacked = None not in parts
    if stacked and {*parts} != {*range(experts)}:
        wrong = sorted({*range(experts)} ^ {number for number in parts if number is not None})
        raise UnsupportedModelError(
            f"no .gguf file is written of this model: {name} has {experts} experts by the config, and the checkpoint "
            f"{len(parts)}; the first that one of both lacks is {wrong[0]}"
        )
    sources = [parts[number] for number in range(experts)] if stacked else list(parts.values())
    first, half = sources[0]
    if other := next((source for source, _ in sources if shapes[source] != shapes[first]), None):
        raise UnsupportedModelError(
            f"no .gguf file is written of this model: {other!r} has the shape {shapes[other]}, and {first!r} "
            f"{shapes[first]}"
        )
    shape = _shape(shapes[first], half, transposed=is_transposed(name, architecture))
    if len(shape) > 2 and shape[0] != experts:
        raise UnsupportedModelError(
            f"no .gguf file is written of this model: {first!r} has {shape[0]} experts, and the config {experts}"
        )
    return Made(name, tuple(source for source, _ in sources), (experts, *shape) if stacked else shape, half)


def is_transposed(name: str, architecture: Architecture) -> bool:
    """Check whether the checkpoint holds a matrix as [in, out], as GPT-2's Conv1D does."""
    return architecture.transposed and name.startswith("blk.") and name.endswith(".weight") and "norm" not in name


def _shape(shape: Sequence[int], half: int | None, *, transposed: bool) -> tuple[int, ...]:
    """Return the shape of one source as the file has it."""
    if transposed:
        return tuple(reversed(shape))
    return tuple(shape) if half is None else (*shape[:-2], shape[-2] // 2, shape[-1])
