"""Know the matrices that servers multiply with, a quantized layer or several that they join, and what sizes they need.

All sizes are those on one GPU; `tensor_parallel.py` divides them between several.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from qtoolkit.readers.fused_layers import FUSED, fused_unit

# Outputs and inputs of which Marlin takes multiples, either pair: sglang/kernels/jit/csrc/gemm/marlin/gptq_marlin.cuh,
# `small_batch_thread_configs` and `large_batch_thread_configs`; vllm/.../utils/marlin_utils.py, `marlin_padded_nk`.
TILES = ((128, 64), (64, 128))
# Outputs, and inputs, of the blocks of weights that share a scale.
BLOCK = 128
# That of a layer among those that it is joined with.
PLACES = {part: place for parts in FUSED for place, part in enumerate(parts)}
# Matrices that a sentence names one by one.
_MOST_NAMED = 3


class Matrix(NamedTuple):
    """A matrix that servers multiply with.

    Attributes:
        name: within its block, "self_attn.qkv_proj".
        outputs: those of each of its layers, in the order in which they are joined.
        inputs: of all of them.
    """

    name: str
    outputs: tuple[int, ...]
    inputs: int


def matrices_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Matrix, ...]:
    """Return the matrices that servers make of layers, each name and size once, sorted; experts aside.

    Args:
        shapes: [outputs, inputs] of quantized layers in blocks, by their full names.

    Example: keys have fewer heads than queries.

        >>> matrices_of({"h.0.attn.k_proj": (64, 256), "h.0.attn.q_proj": (256, 256)})
        (Matrix(name='attn.qkv_proj', outputs=(256, 64), inputs=256),)
    """
    units: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        # Experts are multiplied by kernels of their own.
        if len(shape) == 2 and sum(part.isdigit() for part in name.split(".")) == 1:
            units.setdefault(fused_unit(name), []).append(name)
    found = set()
    for unit, members in units.items():
        members.sort(key=lambda name: PLACES.get(name.rpartition(".")[2], 0))
        named = unit if members[1:] else members[0]
        outputs = tuple(shapes[name][0] for name in members)
        found.add(Matrix(within_block(named), outputs, shapes[members[0]][1]))
    return tuple(sorted(found))


def outside_tiles(matrices: Iterable[Matrix]) -> tuple[str, ...]:
    """Return the matrices whose sizes are no multiples of one of `TILES`, in words: "mlp.down_proj of 576 x 1500"."""
    return named(
        f"{matrix.name} of {sum(matrix.outputs)} x {matrix.inputs}" for matrix in matrices if is_outside_tiles(matrix)
    )


def is_outside_tiles(matrix: Matrix) -> bool:
    """Return whether the sizes of a matrix are no multiples of one of `TILES`."""
    return not any(sum(matrix.outputs) % rows == 0 and matrix.inputs % columns == 0 for rows, columns in TILES)


def cut_blocks(matrices: Iterable[Matrix]) -> tuple[str, ...]:
    """Return the matrices in which a block of weights lies across two layers, in words.

    Args:
        matrices: with a scale for each block of 128 x 128 weights.

    Example:
        >>> cut_blocks([Matrix("attn.qkv_proj", (576, 192, 192), 576)])
        ('attn.qkv_proj of 576 + 192 + 192 outputs',)
    """
    return named(
        f"{matrix.name} of {' + '.join(map(str, matrix.outputs))} outputs"
        for matrix in matrices
        if any(one % BLOCK for one in matrix.outputs[:-1])
    )


def within_block(name: str) -> str:
    """Return the name of a layer without that of its block: what follows its number."""
    parts = name.split(".")
    number = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[number + 1 :])


def named(every: Iterable[str]) -> tuple[str, ...]:
    """Return some words, the last ones counted where they are many."""
    words = list(dict.fromkeys(every))
    if len(words) <= _MOST_NAMED:
        return tuple(words)
    return (*words[: _MOST_NAMED - 1], f"{len(words) - _MOST_NAMED + 1} others")
