"""Round a weight to integer codes, absmax or zero-point, with one scale for the tensor, each output or each group."""

import torch

from qtoolkit.tensor.grouping import to_groups
from qtoolkit.tensor.integer_codes import absmax_quantize, code_range, zero_point_quantize


def round_weight(
    weight: torch.Tensor,
    *,
    bits: int,
    granularity: str,
    group_size: int,
    symmetric: bool,
    full_range: bool = False,
    scale_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Choose codes, scales and zero points for a full-precision weight.

    In addition to the weight, results and temporaries take at most 5 bytes per weight and 20 per scale; a transposed
    weight (Conv1D) is copied first, unless granularity is "channel".

    Args:
        weight: W[out_features, in_features], any floating type, finite.
        bits: 8 or 4.
        granularity: which weights share one scale: "tensor", "channel" (one output row) or "group".
        group_size: weights per scale; -1 unless granularity is "group".
        symmetric: absmax codes if true, zero-point codes otherwise.
        full_range: whether absmax codes use the smallest code too, with scales of either sign.
        scale_dtype: float32, float16 or bfloat16.

    Returns:
        codes int8 [out_features, in_features], scale [num_groups, 1], zero_point int8 [num_groups, 1] or None.

    Raises:
        ValueError: integers, NaN or infinity in the weight, or impossible options.
    """
    if not weight.is_floating_point():
        raise ValueError(f"weight must have a floating type, got {weight.dtype}: it was cast or quantized already")
    groups = to_groups(weight, granularity, group_size)
    if symmetric:
        codes, scale = absmax_quantize(groups, bits, full_range=full_range, scale_dtype=scale_dtype)
        return codes.reshape(weight.shape).contiguous(), scale, None
    q_min, q_max = code_range(bits, symmetric)
    codes, scale, zero_point = zero_point_quantize(groups, q_min, q_max, scale_dtype=scale_dtype)
    return codes.reshape(weight.shape).contiguous(), scale, zero_point
