"""Collect of which tensors of a checkpoint each tensor of a `.gguf` file is made: one, a half, or all experts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtoolkit.checkpoints.gguf_architectures import Architecture
from qtoolkit.checkpoints.gguf_places import is_transposed, places_of
from qtoolkit.errors import UnsupportedModelError


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


def _shape(shape: Sequence[int], half: int | None, *, transposed: bool) -> tuple[int, ...]:
    """Return the shape of one source as the file has it."""
    if transposed:
        return tuple(reversed(shape))
    return tuple(shape) if half is None else (*shape[:-2], shape[-2] // 2, shape[-1])
