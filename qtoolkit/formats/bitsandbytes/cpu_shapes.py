"""Tell which shapes of 4-bit layers bitsandbytes runs on a CPU, and runs right.

With AVX512, bitsandbytes 0.50.2 gives rows that end within a block of weights that share a scale another row's scales
(`cdequantize_blockwise_cpu`), without a word: in blocks of 64, the error of rows of 32, 80 or 96 inputs is two to four
times that of the codes. With AVX512-BF16 it packs layers, 32 outputs at one time, and raises where these are fewer
(`functional._convert_weight_packed_for_cpu`).
"""

from collections.abc import Mapping, Sequence

# Weights that share a scale: what transformers makes.
BLOCK_SIZE = 64
_OUTPUTS = 32


def rows_hold_blocks(in_features: int, block_size: int = BLOCK_SIZE) -> bool:
    """Check whether no block of weights that share a scale goes on in another row."""
    return in_features % block_size == 0


def packs_on_cpu(out_features: int, in_features: int, block_size: int = BLOCK_SIZE) -> bool:
    """Check whether bitsandbytes alone runs a layer of this shape on any CPU, and runs it right."""
    return out_features % _OUTPUTS == 0 and rows_hold_blocks(in_features, block_size)


def note_on_cpu(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a line on the layers that bitsandbytes alone does not run right on every CPU; empty without any.

    Args:
        shapes: [outputs, inputs] of the 4-bit layers of a model, by name.
    """
    others = {name: list(shape) for name, shape in shapes.items() if not packs_on_cpu(*shape)}
    if not others:
        return ""
    name, shape = next(iter(others.items()))
    what = f"{len(others)} of {len(shapes)} layers, such as {name} {shape}"
    where = f"on a CPU bitsandbytes alone is right where outputs % {_OUTPUTS} = 0 and inputs % {BLOCK_SIZE} = 0"
    return f"{what}: {where}, and elsewhere wrong or an error; qt.load is right in all, as a GPU is"
