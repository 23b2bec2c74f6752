"""Triton kernels for packed codes on a GPU: one that dequantizes them, and one that multiplies a few tokens with them.

torch's operations read and write each weight some ten times; the first reads the codes and writes the weight once, the
second reads the codes alone. Imported where CUDA tensors come, and nowhere else: Triton comes with torch's packages for
CUDA.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

# Inputs and outputs of one program: whole tiles of torch's layout, and whole blocks of the plain one.
_INPUTS = 128
_OUTPUTS = 64
# So that a thread's 32 weights stay in registers.
_WARPS = 8
# Inputs that a program multiplies with at one time, all of one group; and programs that keep a card busy, four to each
# multiprocessor of a T4.
_STEP = 32
_PROGRAMS = 160


def expand_planes(
    planes: Sequence[torch.Tensor],
    scale: torch.Tensor,
    zero_point: torch.Tensor | int,
    *,
    block: int,
    in_features: int,
    shift: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Dequantize: return (code - shift - zero_point) * scale in `dtype`, [in, outputs], computed in float32.

    Args:
        planes: one of 4-bit codes in a layout of `tinygemm.Layout.pack`; two of them, the first with the upper halves
            of 8-bit codes; or one of whole bytes, uint8 [outputs, in], each block of outputs stored as [in, block].
        scale: [groups, outputs] or [1, 1], any floating type.
        zero_point: uint8 of the shape of `scale`, or one number for all.
        block: outputs that the layout stores together; 0 for the tiles of torch's CUDA kernel.
        in_features: of the weight.
        shift: what was added to the codes before they were packed.
        dtype: type of the result.
    """
    first, last = planes[0], planes[-1]
    outputs = len(first) if block else 8 * len(first)
    weight = torch.empty(in_features, outputs, dtype=dtype, device=first.device)
    constant = shift + zero_point if isinstance(zero_point, int) else shift
    _expand[(triton.cdiv(in_features, _INPUTS), triton.cdiv(outputs, _OUTPUTS))](
        first,
        last,
        scale.contiguous(),
        first if isinstance(zero_point, int) else zero_point.contiguous(),
        weight,
        in_features,
        outputs,
        in_features // len(scale),
        constant,
        PLANES=len(planes),
        BLOCK=block,
        IS_BYTES=block > 0 and first.shape[1] == in_features,
        # int32 [out / 8, in / (16 * tiles), 32, tiles / 2]
        TILES=0 if block else 2 * first.shape[3],
        IS_COMMON=scale.numel() == 1,
        IS_CONSTANT=isinstance(zero_point, int),
        INPUTS=_INPUTS,
        OUTPUTS=_OUTPUTS,
        num_warps=_WARPS,
        enable_fp_fusion=True,
    )
    return weight


@triton.jit
def _expand(
    first,
    last,
    scale,
    zero_point,
    weight,
    in_features,
    out_features,
    group_size,
    shift,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_BYTES: tl.constexpr,
    TILES: tl.constexpr,
    IS_COMMON: tl.constexpr,
    IS_CONSTANT: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    i = (tl.program_id(0) * INPUTS + tl.arange(0, INPUTS))[:, None]
    o = (tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS))[None, :]
    is_weight = (i < in_features) & (o < out_features)
    if IS_BYTES:
        places = ((o // BLOCK).to(tl.int64) * in_features + i) * BLOCK + o % BLOCK
        codes = tl.load(first + places, mask=is_weight, other=0).to(tl.int32)
    else:
        if BLOCK > 0:
            # An input of a block takes BLOCK / 2 bytes: its first outputs in the low halves, the others in the high.
            within = o % BLOCK
            places = ((o // BLOCK).to(tl.int64) * in_features + i) * (BLOCK // 2) + within % (BLOCK // 2)
            bits = within // (BLOCK // 2) * 4 + i * 0
        else:
            # Thread t of 32 holds output t // 4 of 8, and of a pair of tiles the inputs t % 4 * 2 + (0, 8, 16, 24) in
            # its lower four half bytes, the inputs next to them in its upper four.
            within = i % (16 * TILES)
            row = (o // 8).to(tl.int64) * (in_features // (16 * TILES)) + i // (16 * TILES)
            places = (row * 32 + o % 8 * 4 + i % 8 // 2) * (TILES // 2) + within // 32
            bits = i % 2 * 16 + within % 32 // 8 * 4 + o * 0
        codes = (tl.load(first + places, mask=is_weight, other=0).to(tl.int32) >> bits) & 15
        if PLANES == 2:
            codes = codes * 16 + ((tl.load(last + places, mask=is_weight, other=0).to(tl.int32) >> bits) & 15)
    of_group = i * 0 + o * 0 if IS_COMMON else i // group_size * out_features + o
    codes -= shift
    if not IS_CONSTANT:
        codes -= tl.load(zero_point + of_group, mask=is_weight, other=0).to(tl.int32)
    value = codes.to(tl.float32) * tl.load(scale + of_group, mask=is_weight, other=0.0).to(tl.float32)
    tl.store(weight + i.to(tl.int64) * out_features + o, value.to(weight.dtype.element_ty), mask=is_weight)


def multiply_planes(
    x: torch.Tensor,
    plane: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | int,
    *,
    block: int,
    shift: int,
) -> torch.Tensor:
    """Multiply a few tokens: x[tokens, in] -> x W^T [tokens, out] in x.dtype, with sums in float32.

    Every code is read once for all tokens, and no weight is written: what a GPU whose tensor cores torch's kernels do
    not serve, as a T4's, is fastest with for up to eight tokens.

    Args:
        x: inputs in the order of the codes, a multiple of 32 for each group.
        plane: 4-bit codes in blocks of outputs, or whole bytes in such blocks, as for `expand_planes`.
        scale: [groups, out] or [1, 1].
        zero_point: uint8 of the shape of `scale`, or one number for all.
        block: outputs that the layout stores together.
        shift: what was added to the codes before they were packed.
    """
    tokens, in_features = x.shape
    outputs = len(plane)
    # Enough programs for the card's multiprocessors, each with so many inputs that its sums are worth a launch.
    parts = max(1, min(_PROGRAMS * block // outputs, in_features // (8 * _STEP)))
    each = triton.cdiv(triton.cdiv(in_features, parts), _STEP) * _STEP
    sums = torch.empty(triton.cdiv(in_features, each), tokens, outputs, dtype=torch.float32, device=x.device)
    _multiply[(outputs // block, len(sums))](
        x.contiguous(),
        plane,
        scale.contiguous(),
        plane if isinstance(zero_point, int) else zero_point.contiguous(),
        sums,
        tokens,
        in_features,
        outputs,
        in_features // len(scale),
        each,
        shift + zero_point if isinstance(zero_point, int) else shift,
        TOKENS=triton.next_power_of_2(tokens),
        LANES=block // 2,
        IS_BYTES=plane.shape[1] == in_features,
        IS_COMMON=scale.numel() == 1,
        IS_CONSTANT=isinstance(zero_point, int),
        STEP=_STEP,
        enable_fp_fusion=True,
    )
    return sums.sum(0).to(x.dtype)


@triton.jit
def _multiply(
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
    LANES: tl.constexpr,
    IS_BYTES: tl.constexpr,
    IS_COMMON: tl.constexpr,
    IS_CONSTANT: tl.constexpr,
    STEP: tl.constexpr,
):
    block = tl.program_id(0)
    part = tl.program_id(1)
    lanes = tl.arange(0, LANES)
    token = tl.arange(0, TOKENS)
    first = block * 2 * LANES + lanes
    second = first + LANES
    sum_first = tl.zeros((TOKENS, LANES), dtype=tl.float32)
    sum_second = tl.zeros((TOKENS, LANES), dtype=tl.float32)
    for start in range(part * each, tl.minimum(part * each + each, in_features), STEP):
        i = start + tl.arange(0, STEP)
        # Inputs [tokens, STEP], codes [STEP, LANES].
        values = tl.load(x + token[:, None] * in_features + i[None, :], mask=(token < tokens)[:, None], other=0.0)
        values = values.to(tl.float32)
        if IS_BYTES:
            places = (block.to(tl.int64) * in_features + i[:, None]) * (2 * LANES) + lanes[None, :]
            low = tl.load(plane + places).to(tl.float32)
            high = tl.load(plane + places + LANES).to(tl.float32)
        else:
            halves = tl.load(plane + (block.to(tl.int64) * in_features + i[:, None]) * LANES + lanes[None, :])
            low = (halves & 15).to(tl.float32)
            high = (halves >> 4).to(tl.float32)
        row = 0 if IS_COMMON else start // group_size * out_features
        scale_first = tl.load(scale + row + (lanes * 0 if IS_COMMON else first)).to(tl.float32)
        scale_second = tl.load(scale + row + (lanes * 0 if IS_COMMON else second)).to(tl.float32)
        zero_first = tl.zeros((LANES,), dtype=tl.float32) + shift
        zero_second = tl.zeros((LANES,), dtype=tl.float32) + shift
        if not IS_CONSTANT:
            zero_first += tl.load(zero_point + row + (lanes * 0 if IS_COMMON else first)).to(tl.float32)
            zero_second += tl.load(zero_point + row + (lanes * 0 if IS_COMMON else second)).to(tl.float32)
        # Products have the shape [tokens, STEP, LANES].
        low -= zero_first[None, :]
        high -= zero_second[None, :]
        sum_first += tl.sum(values[:, :, None] * low[None, :, :], axis=1) * scale_first[None, :]
        sum_second += tl.sum(values[:, :, None] * high[None, :, :], axis=1) * scale_second[None, :]
    place = (part * tokens + token[:, None]).to(tl.int64) * out_features
    is_token = (token < tokens)[:, None] & (lanes >= 0)[None, :]
    tl.store(sums + place + first[None, :], sum_first, mask=is_token)
    tl.store(sums + place + second[None, :], sum_second, mask=is_token)
