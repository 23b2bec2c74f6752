"""Know between how many GPUs servers can split the matrices of a model, whose groups and blocks must stay whole.

Source: vLLM 0.33.0, kernels/linear/mixed_precision/marlin.py, `can_implement`, and quantization/utils/fp8_utils.py,
`validate_fp8_block_shape`; SGLang 0.5.23, quantization/marlin_utils.py and fp8_utils.py, the functions of these names.
"""

from collections.abc import Iterator

from qtoolkit.readers.matrices import BLOCK, Matrix, is_outside_tiles
from qtoolkit.readers.stored import Stored

# GPUs that are asked about.
COUNTS = (2, 4, 8)
# By the last part of a name: matrices whose inputs are split (`RowParallelLinear` in vllm/model_executor/models), and
# those whose outputs are. Others are given whole to each GPU, as those of latent attention, or it is not known.
BY_INPUTS = ("o_proj", "out_proj", "down_proj", "w2", "fc2", "dense_4h_to_h", "c_proj")
BY_OUTPUTS = ("qkv_proj", "gate_up_proj", "up_proj", "fc1", "dense_h_to_4h", "c_fc")
_HEADS = "qkv_proj"


def note_on_split(stored: Stored, kept_whole: tuple[str, ...]) -> str:
    """Return in words on how many GPUs a server cannot split a model; empty where it can on all, or it is not known.

    Only counts that the heads of the model allow are told of: the others are refused in full precision too.

    Args:
        stored: how the model is stored.
        kept_whole: what a split must leave whole: "groups", "blocks", and "tiles" of the kernel Marlin.

    Example: 8960 inputs are 70 groups of 128.

        >>> matrix = Matrix("mlp.down_proj", (1536,), 8960)
        >>> stored = Stored(format="gptq", group_sizes=(128,), heads=(16, 8), matrices=(matrix,))
        >>> note_on_split(stored, ("groups",))
        'with tensor parallelism not on 4 or 8 GPUs, which would cut groups of 128 in mlp.down_proj of 8960 inputs'
    """
    counts = [count for count in COUNTS if stored.heads and _splits_heads(stored.heads, count)]
    cuts = {count: next(_cuts(stored, kept_whole, count), "") for count in counts}
    refused = [count for count in counts if cuts[count]]
    if not refused:
        return ""
    return f"with tensor parallelism not on {' or '.join(map(str, refused))} GPUs, {cuts[refused[0]]}"


def _splits_heads(heads: tuple[int, ...], count: int) -> bool:
    """Return whether servers split the heads of queries, and split or repeat those of keys and values."""
    queries, keys = heads
    return queries % count == 0 and (keys % count == 0 or count % keys == 0)


def _cuts(stored: Stored, kept_whole: tuple[str, ...], count: int) -> Iterator[str]:
    """Yield what a split between this many GPUs does not leave whole, a clause for each matrix."""
    sizes = [size for size in stored.group_sizes if size > 0]
    for matrix in stored.matrices:
        part = _part(matrix, stored.heads, count)
        if part is None:
            continue
        by_inputs = part.inputs != matrix.inputs
        # Of several sizes it is not known which are this matrix's.
        if "groups" in kept_whole and by_inputs and sizes and all(part.inputs % size for size in sizes):
            yield f"which would cut groups of {sizes[0]} in {matrix.name} of {matrix.inputs} inputs"
        elif "blocks" in kept_whole and BLOCK in sizes and by_inputs and part.inputs % BLOCK:
            yield f"which would cut blocks of {BLOCK} x {BLOCK} in {matrix.name} of {matrix.inputs} inputs"
        elif "blocks" in kept_whole and BLOCK in sizes and not by_inputs and any(one % BLOCK for one in part.outputs):
            outputs = " + ".join(map(str, matrix.outputs))
            yield f"which would cut blocks of {BLOCK} x {BLOCK} in {matrix.name} of {outputs} outputs"
        elif "tiles" in kept_whole and is_outside_tiles(part):
            yield f"whose parts of {matrix.name}, {sum(part.outputs)} x {part.inputs}, its kernel does not take"


def _part(matrix: Matrix, heads: tuple[int, ...], count: int) -> Matrix | None:
    """Return what one of several GPUs has of a matrix; None where that is not known."""
    last = matrix.name.rpartition(".")[2]
    if last in BY_INPUTS:
        return Matrix(matrix.name, matrix.outputs, matrix.inputs // count)
    if last not in BY_OUTPUTS:
        return None
    # Heads of keys and values that are fewer than the GPUs are repeated.
    split = [count, *(min(count, heads[1]),) * 2] if last == _HEADS else [count] * len(matrix.outputs)
    return Matrix(matrix.name, tuple(one // by for one, by in zip(matrix.outputs, split, strict=False)), matrix.inputs)
