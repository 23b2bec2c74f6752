"""View a weight W[out_features, in_features] as the groups [num_groups, group_size] that share one scale each."""

import torch

GRANULARITIES = ("tensor", "channel", "group")


def scale_shape(out_features: int, in_features: int, granularity: str, group_size: int = -1) -> tuple[int, int]:
    """Return the shape of the scales of a weight W[out_features, in_features].

    Args:
        out_features: rows of the weight.
        in_features: columns of the weight.
        granularity: which weights share one scale:
            "tensor": all of them, scales [1, 1];
            "channel": those of one output row, scales [out_features, 1];
            "group": each `group_size` neighbours in a row, scales [out_features, in_features / group_size].
        group_size: weights per scale; -1 unless granularity is "group".

    Raises:
        ValueError: an unknown granularity, or a group size that does not divide in_features.

    Example:
        >>> scale_shape(576, 1536, "group", 64)
        (576, 24)
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be one of {', '.join(map(repr, GRANULARITIES))}, got {granularity!r}")
    if granularity != "group":
        if group_size != -1:
            raise ValueError(f"group_size must be -1 with granularity {granularity!r}, got {group_size}")
        return (1, 1) if granularity == "tensor" else (out_features, 1)
    if group_size < 1 or in_features % group_size:
        raise ValueError(f"group_size must divide the {in_features} input features, got {group_size}")
    return out_features, in_features // group_size


def to_groups(weight: torch.Tensor, granularity: str, group_size: int = -1) -> torch.Tensor:
    """Return a weight as the groups that share one scale each.

    Args:
        weight: W[out_features, in_features]. The groups are a view of it if its strides allow that.
        granularity: "tensor", "channel" or "group", see `scale_shape`.
        group_size: weights per scale; -1 unless granularity is "group".

    Returns:
        [num_groups, weights per group], in the order of the scales: their shape is `scale_shape`, row by row.

    Raises:
        ValueError: a weight that is no matrix, or anything that `scale_shape` refuses.
    """
    if weight.ndim != 2:
        raise ValueError(f"weight must be a matrix [out_features, in_features], got shape {list(weight.shape)}")
    rows, columns = scale_shape(weight.shape[0], weight.shape[1], granularity, group_size)
    # [out_features, in_features] -> [num_groups, weights per group]
    return weight.reshape(rows * columns, -1)
