"""The tensors of a GPTQ checkpoint that stand for one weight: their shapes, and what they mean."""

import torch

from qtoolkit.tensor import WORD_BITS, unpack_words

CHECKPOINT_FORMATS = ("gptq", "gptq_v2")


def buffer_shapes(
    out_features: int, in_features: int, bits: int, group_size: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of each tensor that stands for a weight W[out_features, in_features].

    Args:
        out_features: rows of the weight.
        in_features: columns of the weight.
        bits: 2, 3, 4 or 8.
        group_size: inputs that share a scale, -1 for all of them; the last group may be smaller.

    Raises:
        ValueError: bits that there are not, or sizes that do not fill words; the message says which.
    """
    if bits not in WORD_BITS:
        raise ValueError(f"bits must be one of {', '.join(map(str, WORD_BITS))}, got {bits}")
    if in_features * bits % 32 or out_features * bits % 32:
        raise ValueError(
            f"codes of {bits} bits must fill words of 32, got {in_features} inputs and {out_features} outputs"
        )
    if group_size != -1 and group_size < 1:
        raise ValueError(f"group_size must be -1 or at least 1, got {group_size}")
    groups = 1 if group_size == -1 else -(-in_features // group_size)
    return {
        "qweight": ((in_features * bits // 32, out_features), torch.int32),
        "qzeros": ((groups, out_features * bits // 32), torch.int32),
        "scales": ((groups, out_features), torch.float16),
        "g_idx": ((in_features,), torch.int32),
    }


def zero_offset(checkpoint_format: str) -> int:
    """What is added to a stored zero point: "gptq" holds it less one, "gptq_v2" as it is."""
    return 1 if checkpoint_format == "gptq" else 0


def unpack_zero_points(qzeros: torch.Tensor, bits: int, checkpoint_format: str) -> torch.Tensor:
    """The zero points uint8 [groups, out] of qzeros int32 [groups, out * bits / 32].

    Format "gptq_v2" stores them as they are, "gptq" stores them less one. What this makes of the largest number, whose
    zero point does not fit any more, is read as auto-gptq's torch layer reads it (0.7.1, qlinear_cuda_old.py:301, 330):
    as 0, but as 8 with 3 bits.
    """
    # [groups, out * bits / 32] -> [out, groups] -> [groups, out]
    stored = unpack_words(qzeros.T, bits).T.contiguous()
    if checkpoint_format == "gptq_v2":
        return stored
    return stored + 1 if bits == 3 else (stored + 1).bitwise_and_(2**bits - 1)


def expand(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | int,
    groups: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(codes - zero_point) * scale in `dtype`, exact in float32: a float16 scale has 11 bits, a difference at most 9.

    Args:
        codes: uint8 [in, outputs].
        scale: [groups, outputs], any floating type.
        zero_point: uint8 [groups, outputs], or one for all.
        groups: the group of each input [in]; None where equal groups stand in their order.
        dtype: of the result.
    """
    # [in, outputs] -> [groups, group_size, outputs], or [in, 1, outputs] where each input has its own group.
    levels = codes.view(len(scale) if groups is None else len(codes), -1, codes.shape[1])
    zero = zero_point if isinstance(zero_point, int) else _spread(zero_point, groups)
    if codes.is_cuda:
        weight = torch.empty(levels.shape, dtype=dtype, device=codes.device)
        # One kernel that rounds once, and no copy in float32.
        torch.mul(levels.to(torch.int16).sub_(zero), _spread(scale, groups).float(), out=weight)
    else:
        zero = zero if isinstance(zero, int) else zero.float()
        weight = levels.float().sub_(zero).mul_(_spread(scale, groups).float()).to(dtype)
    return weight.view(codes.shape)


def _spread(values: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
    """[groups, outputs] -> [groups, 1, outputs], or [in, 1, outputs] where each input has its own group."""
    return (values if groups is None else values[groups])[:, None]


def in_order(g_idx: torch.Tensor, group_size: int) -> bool:
    """Whether the inputs stand in the order of their groups, and all but the last group have this size."""
    return torch.equal(g_idx, torch.arange(len(g_idx), device=g_idx.device, dtype=g_idx.dtype) // group_size)
