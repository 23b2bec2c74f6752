"""A Triton kernel that multiplies up to some hundred tokens with packed codes in a GPU's tensor cores.

Few tokens wait for the codes, many for their products; between the two, one kernel that expands codes as it multiplies
writes no weight. Imported where CUDA tensors come, and nowhere else: Triton comes with torch's packages for CUDA.
"""

import torch
import triton
import triton.language as tl

# Inputs of one step and outputs of one program; two programs for each multiprocessor of an H100 or H200.
_STEP = 128
_OUTPUTS = 64
_PROGRAMS = 264
# Tokens of the smallest tile that tensor cores multiply.
_TOKENS = 16


def multiply_by_tensor_cores(
    x: torch.Tensor,
    plane: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | int,
    *,
    block: int,
    shift: int,
) -> torch.Tensor:
    """Multiply up to some hundred tokens: x[tokens, in] -> x W^T [tokens, out] in x.dtype, with sums in float32.

    W is the weight that `plane_kernels.expand_planes` writes in x.dtype. Every code is read once for all tokens.

    Args:
        x: bfloat16 or float16 inputs in the order of the codes.
        plane: one plane of 4-bit codes, or of whole bytes, as for `plane_kernels.expand_planes`.
        scale: [groups, out] or [1, 1]; in the tiles of torch's CUDA kernel, for multiples of 32 inputs.
        zero_point: uint8 of the shape of `scale`, or one number for all.
        block: outputs that the layout stores together; 0 for the tiles of torch's CUDA kernel.
        shift: what was added to the codes before they were packed.
    """
    tokens, in_features = x.shape
    outputs = len(plane) if block else 8 * len(plane)
    # int32 [out / 8, in / (16 * tiles), 32, tiles / 2]
    tiles = 0 if block else 2 * plane.shape[3]
    group_size = in_features // len(scale)
    parts = max(1, min(_PROGRAMS * _OUTPUTS // outputs, in_features // (4 * _STEP)))
    each = triton.cdiv(triton.cdiv(in_features, parts), _STEP) * _STEP
    sums = torch.empty(triton.cdiv(in_features, each), tokens, outputs, dtype=torch.float32, device=x.device)
    _multiply_by_tensor_cores[(triton.cdiv(outputs, _OUTPUTS), len(sums))](
        _in_word_order(x, tiles) if tiles else x.contiguous(),
        plane,
        scale.contiguous(),
        plane if isinstance(zero_point, int) else zero_point.contiguous(),
        sums,
        tokens,
        in_features,
        outputs,
        group_size,
        each,
        shift + zero_point if isinstance(zero_point, int) else shift,
        TOKENS=max(_TOKENS, triton.next_power_of_2(tokens)),
        OUTPUTS=_OUTPUTS,
        STEP=_STEP,
        BLOCK=block,
        SIDE_BY_SIDE=block if block and plane.shape[1] == in_features else block // 2,
        TILES=tiles,
        IS_COMMON=scale.numel() == 1,
        IS_CONSTANT=isinstance(zero_point, int),
        IN_ONE_GROUP=group_size % _STEP == 0,
        num_warps=4 if tokens <= 64 else 8,
        enable_fp_fusion=True,
    )
    return sums.sum(0).to(x.dtype)


def _in_word_order(x: torch.Tensor, tiles: int) -> torch.Tensor:
    """Return x[tokens, in] with the inputs in the order in which the words of torch's tiles hold them.

    Of the inputs of `tiles` tiles first those in the lowest half bytes of all words of an output, word by word, then
    those in the next.
    """
    # [tokens, in] -> [tokens, in / .., tiles / 2, eighths of two tiles, pairs of inputs, 2 of a pair]
    parts = x.view(len(x), -1, tiles // 2, 4, 4, 2)
    # -> [tokens, in / .., 2 of a pair, eighths, pairs, tiles / 2] -> [tokens, in]
    return parts.permute(0, 1, 5, 3, 4, 2).reshape(x.shape)


@triton.jit
def _multiply_by_tensor_cores(
    x,
    plane,
    scale,
    zero_point,
    sums,
    tokens,
    in_features,
    out_features,
    group_size,
    each,
    shift,
    TOKENS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE_BY_SIDE: tl.constexpr,
    TILES: tl.constexpr,
    IS_COMMON: tl.constexpr,
    IS_CONSTANT: tl.constexpr,
    IN_ONE_GROUP: tl.constexpr,
):
    o = (tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS))[None, :]
    part = tl.program_id(1)
    token = tl.arange(0, TOKENS)[:, None]
    rows = x + token.to(tl.int64) * in_features
    # A word of tiles holds eight inputs of an output; the order of inputs changes no sum.
    COUNT: tl.constexpr = 8 if TILES > 0 else 1  # noqa: N806
    MASK: tl.constexpr = 255 if TILES == 0 and SIDE_BY_SIDE == BLOCK else 15  # noqa: N806
    place = tl.arange(0, STEP // COUNT)
    total = tl.zeros((TOKENS, OUTPUTS), dtype=tl.float32)
    for start in range(part * each, tl.minimum(part * each + each, in_features), STEP):
        if TILES > 0:
            # As `plane_kernels._expand` finds them: the first input that each word holds, in the order of the words.
            within = place % (2 * TILES)
            first = start + place // (2 * TILES) * (16 * TILES)
            i = (first + within % (TILES // 2) * 32 + within // (TILES // 2) * 2)[:, None]
            of_tiles = (o // 8).to(tl.int64) * (in_features // (16 * TILES)) + (first // (16 * TILES))[:, None]
            places = of_tiles * (16 * TILES) + o % 8 * (2 * TILES) + within[:, None]
            shifts = place[:, None] * 0
        else:
            # An input of a block takes as many bytes as codes lie side by side: all of its outputs, or one half in the
            # low half bytes and the other in the high.
            first = start + place
            within = place * 0
            i = first[:, None]
            places = ((o // BLOCK).to(tl.int64) * in_features + i) * SIDE_BY_SIDE + o % BLOCK % SIDE_BY_SIDE
            shifts = o % BLOCK // SIDE_BY_SIDE * 4
        is_weight = (i < in_features) & (o < out_features)
        words = tl.load(plane + places, mask=is_weight, other=0).to(tl.int32)
        if IS_COMMON:
            of_group = o * 0
        elif IN_ONE_GROUP:
            of_group = start // group_size * out_features + o
        else:
            of_group = i // group_size * out_features + o
        is_group = of_group < in_features // group_size * out_features
        scales = tl.load(scale + of_group, mask=is_group, other=0.0).to(tl.float32)
        zero = shift
        if not IS_CONSTANT:
            zero += tl.load(zero_point + of_group, mask=is_group, other=0).to(tl.int32)
        for number in tl.static_range(COUNT):
            codes = (words >> (shifts + 4 * number)) & MASK
            values = (codes - zero).to(tl.float32) * scales
            inputs = (first + number * (2 * TILES) + within)[None, :]
            part_of_x = tl.load(rows + inputs, mask=(token < tokens) & (inputs < in_features), other=0.0)
            total = tl.dot(part_of_x, values.to(part_of_x.dtype), total)
    rows_of_sums = (part * tokens + token).to(tl.int64) * out_features
    tl.store(sums + rows_of_sums + o, total, mask=(token < tokens) & (o < out_features))
