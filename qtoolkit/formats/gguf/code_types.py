"""Choose the block type that holds the codes of a quantized checkpoint, or say what none holds."""

from collections.abc import Iterator, Sequence

import torch

from qtoolkit.formats.file_of_codes import Unheld
from qtoolkit.formats.grouped import OUT_OF_ORDER
from qtoolkit.formats.layer_codes import LayerCodes
from qtoolkit.tensor.block_codes import BLOCK_SIZE, CENTERED, WITH_MINIMUM, BlockCodes
from qtoolkit.tensor.block_types import BLOCK_TYPES

# Codes of fewer bits would take more than twice their room.
_LEAST_BITS = 3
_LARGEST = torch.finfo(torch.float16).max


def type_of_codes(layers: Sequence[LayerCodes], *, lossy: bool, wider: bool) -> BlockCodes | Unheld:
    """Return the type of the blocks that hold codes unchanged: of the same bits, or of the fewest that do.

    Args:
        layers: of one tensor in the file: one layer, or all experts of a stack.
        lossy: whether zero points may become rounded minima, and scales be rounded to float16.
        wider: whether codes may be stored in larger ones.
    """
    refused = next(_refusals(layers, lossy=lossy), None)
    if refused is not None:
        return refused
    bits = {layer.bits for layer in layers}
    fitting = [type_ for type_ in CENTERED if _is_within(layers, type_)]
    with_minima = [type_ for type_ in WITH_MINIMUM if max(bits) <= type_.bits and _minima_fit(layers)]
    allowed: list[BlockCodes] = [*fitting, *(with_minima if lossy else ())]
    chosen = next((type_ for type_ in allowed if wider or {type_.bits} == bits), None)
    if chosen is not None:
        return chosen
    ways = []
    if with_minima and {with_minima[0].bits} == bits:
        ways.append("lossy=True (minima of groups are rounded)")
    if fitting:
        ways.append(f"wider=True (as {fitting[0].name}, {bits_per_weight(fitting[0]):g} bits per weight)")
    sizes = " and ".join(map(str, sorted(bits)))
    kind = "" if all(map(is_centered, layers)) else "asymmetric "
    stack = " in one stack of experts" if len(bits) > 1 else ""
    return Unheld(f"{kind}codes of {sizes} bits{stack} ({layers[0].name})", tuple(ways))


def bits_per_weight(type_: BlockCodes) -> float:
    """Return the bits that a weight takes in the blocks of a type, scale and minimum included."""
    block = BLOCK_TYPES[type_.name]
    return 8 * block.block_bytes / block.block_size


def is_centered(layer: LayerCodes) -> bool:
    """Check whether all zero points of a layer lie in the middle of its codes, whatever others of the model do."""
    return layer.least_zero == layer.largest_zero == 1 << (layer.bits - 1)


def has_exact_scales(layer: LayerCodes) -> bool:
    """Check whether float16, the type of the scales of blocks, holds those of a layer as they are."""
    return torch.float16 in layer.scale_dtypes


def _refusals(layers: Sequence[LayerCodes], *, lossy: bool) -> Iterator[Unheld]:
    """Yield what no type holds of some layer, whatever the bits of its codes."""
    for layer in layers:
        if not layer.in_order:
            yield Unheld(f"{OUT_OF_ORDER} ({layer.name})")
        if layer.inputs_per_scale % BLOCK_SIZE:
            yield Unheld(f"groups of {layer.inputs_per_scale} inputs ({layer.name})")
        if layer.bits < _LEAST_BITS:
            yield Unheld(
                f"codes of {layer.bits} bits ({layer.name})", ("the full-precision model to qt.quantize, as Q2_K,",)
            )
        if layer.largest_scale > _LARGEST:
            yield Unheld(f"scales beyond float16 ({layer.name})")
        if not (lossy or has_exact_scales(layer)):
            yield Unheld(f"scales that float16 rounds ({layer.name})", ("lossy=True (scales are rounded)",))


def _is_within(layers: Sequence[LayerCodes], type_: BlockCodes) -> bool:
    """Check whether a type has all numbers that codes can be, less their zero points."""
    return all(
        -layer.largest_zero in type_.levels and 2**layer.bits - 1 - layer.least_zero in type_.levels for layer in layers
    )


def _minima_fit(layers: Sequence[LayerCodes]) -> bool:
    """Check whether no minimum would become infinite in float16."""
    return all(layer.largest_minimum <= _LARGEST for layer in layers)
