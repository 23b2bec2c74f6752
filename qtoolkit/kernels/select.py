"""Which kernel multiplies with which codes: the one place that chooses."""

from math import prod

import torch

from qtoolkit.kernels.blockwise import output_blocks
from qtoolkit.kernels.codes import Codes, StoredTensors
from qtoolkit.kernels.int8_rows import Int8Rows
from qtoolkit.kernels.packed_int4 import PackedInt4, packed_bytes
from qtoolkit.kernels.tinygemm import Layout, layout_for


def pack(codes: Codes) -> Codes | None:
    """The same weight in the form in which it is multiplied with fastest on its device; None where that is its own."""
    if codes.device.type == "meta":
        return None
    scale = codes.scale(slice(0, codes.out_features))
    if codes.rows is not None and len(scale) == 1:
        return Int8Rows(codes)
    layout = _layout_of(codes, codes.group_size, codes.device)
    in_order = None if layout is None or not scale.isfinite().all() else codes.sorted()
    return None if layout is None or in_order is None else PackedInt4(in_order, output_blocks(codes), layout)


def memory_bytes(stored: StoredTensors, *, device: str, reordered: bool = False) -> int:
    """Bytes in memory of a weight once it is packed for a device; nothing is allocated.

    2 and 3 bits take the room of 4 where a 4-bit kernel serves them.

    Args:
        stored: how a file stores it.
        device: where it lives.
        reordered: whether inputs of a group do not stand side by side.

    Raises:
        ValueError: no such weight can be stored; the message says why.
    """
    sizes = {name: prod(shape) * dtype.itemsize for name, (shape, dtype) in stored.tensors().items()}
    layout = _layout_of(stored, stored.inputs_per_scale, torch.device(device))
    if layout is None:
        return sum(sizes.values())
    kept = sum(size for name, size in sizes.items() if name not in stored.packed_names)
    return kept + packed_bytes(stored, layout) + 4 * stored.in_features * reordered


def _layout_of(weight: Codes | StoredTensors, group_size: int, device: torch.device) -> Layout | None:
    """The layout of its planes on a device; None where it is best left as it is stored."""
    if weight.bits == 8 and weight.expands_fast:
        # Two planes would win little, and take the room of more scales.
        return None
    layout = layout_for(weight.in_features, weight.out_features, group_size, device)
    # Without a kernel to win by it, 2 and 3 bits shall not take the room of 4.
    stays = weight.bits < 4 or weight.expands_fast
    return None if layout is not None and layout.group_size is None and stays else layout
