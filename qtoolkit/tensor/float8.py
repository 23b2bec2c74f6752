"""Round weights to float8 e4m3fn with scales, and back: 1 sign, 4 exponent and 3 mantissa bits, from -448 to 448.

W[o, i] = code[o, i] * scale, with one scale for the weight, each output, or each block of outputs and inputs. The type
has no infinity; 0x7F and 0xFF are NaN (Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433, table 1).
"""

import torch

from qtoolkit.tensor.integer_codes import extremes, rounded_up, within

CODES = torch.float8_e4m3fn
LARGEST = 448.0
BLOCK = (128, 128)

# float16 has one exponent bit more, with a bias greater by 8: the bits of a code in its place are code / 256.
_IN_FLOAT16 = 256.0


def scale_shape(out_features: int, in_features: int, block: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the shape of the scales of a weight W[out_features, in_features]: those of outputs, or of blocks.

    Args:
        out_features, in_features: of the weight.
        block: outputs and inputs that share a scale; None for one scale an output.

    Example:
        >>> scale_shape(576, 1536), scale_shape(576, 1536, (128, 128))
        ((576, 1), (5, 12))
    """
    rows, columns = block or (1, in_features)
    return -(-out_features // rows), -(-in_features // columns)


def float8_quantize(
    weight: torch.Tensor, *, block: tuple[int, int] | None = None, scale_dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight: scale = max|w| / 448, code = w / scale rounded to the nearest float8, halves to even.

    Computed in float32, with scales that are rounded upwards to their stored type first, so that no code exceeds 448;
    downwards where 448 would else stand for infinity in the type of the weight.
    The last blocks may be smaller. A row or block of zeros has scale 1.

    Args:
        weight: W[out, in], any floating type of 16 bits or more, finite.
        block: outputs and inputs that share a scale; None for one scale an output.
        scale_dtype: float32, float16 or bfloat16.

    Returns:
        codes float8_e4m3fn [out, in], and positive scales of the shape `scale_shape`.

    Raises:
        ValueError: NaN or infinity in the weight, another type, or a scale too large for `scale_dtype`.

    Example: the largest weight is 4.48, so the scale is 0.01; 1.01 / 0.01 = 101 lies between the codes 96 and 104.

        >>> codes, scale = float8_quantize(torch.tensor([[-4.48, 1.01, 0.0]]))
        >>> codes.float().tolist(), round(scale.item(), 6)
        ([[-448.0, 104.0, 0.0]], 0.01)
    """
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise ValueError(f"weight must have a floating type of 16 bits or more, got {weight.dtype}")
    if weight.ndim != 2:
        raise ValueError(f"weight must be a matrix [out_features, in_features], got shape {list(weight.shape)}")
    scale = within(rounded_up(_largest(weight, block) / LARGEST, scale_dtype), LARGEST, weight.dtype)
    if block is None:
        return _encode(weight, scale), scale
    codes = torch.empty(weight.shape, dtype=CODES, device=weight.device)
    rows, columns = block
    for index, of_blocks in enumerate(scale):
        part = slice(index * rows, (index + 1) * rows)
        codes[part] = _encode(weight[part], of_blocks.repeat_interleave(columns)[: weight.shape[1]])
    return codes, scale


def float8_dequantize(
    codes: torch.Tensor,
    scale: torch.Tensor,
    *,
    block: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return the weight of codes and scales, [out, in] in `dtype`, computed in float32 and rounded once.

    Args:
        codes: float8_e4m3fn [out, in], without NaN (`has_nan`).
        scale: one number in any shape, one an output [out] or [out, 1], or with `block` the shape of `scale_shape`.
        block: outputs and inputs that share a scale; None for one scale, or one an output.
        dtype: type of the result.

    Raises:
        ValueError: codes of another type, or as many scales as none of these have.

    Example: two blocks of two inputs.

        >>> codes = torch.tensor([[1.0, 2.0, 1.0, 2.0]]).to(torch.float8_e4m3fn)
        >>> float8_dequantize(codes, torch.tensor([[0.5, 3.0]]), block=(1, 2)).tolist()
        [[0.5, 1.0, 3.0, 6.0]]
    """
    if codes.dtype != CODES or codes.ndim != 2:
        raise ValueError(f"codes must be a matrix of {CODES}, got {codes.dtype} of shape {list(codes.shape)}")
    out_features, in_features = codes.shape
    expected = scale_shape(out_features, in_features, block)
    single = block is None and scale.numel() == 1
    if not single and scale.shape != expected and not (block is None and scale.shape == expected[:1]):
        raise ValueError(f"scales must have shape {list(expected)}, got {list(scale.shape)}")
    if block is None:
        return _decode(codes, scale.reshape(-1, 1), dtype)
    weight = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    rows, columns = block
    for index, of_blocks in enumerate(scale):
        part = slice(index * rows, (index + 1) * rows)
        weight[part] = _decode(codes[part], of_blocks.repeat_interleave(columns)[:in_features], dtype)
    return weight


def float8_values(codes: torch.Tensor) -> torch.Tensor:
    """Return codes float8_e4m3fn without NaN as float32, exactly; on a CPU four times faster than by torch."""
    return _float16(codes).float().mul_(_IN_FLOAT16) if codes.device.type == "cpu" else codes.float()


def has_nan(codes: torch.Tensor) -> bool:
    """Check whether codes float8_e4m3fn hold NaN, which no quantized weight does."""
    return bool(((codes.view(torch.uint8) & 0x7F) == 0x7F).any())


def _largest(weight: torch.Tensor, block: tuple[int, int] | None) -> torch.Tensor:
    """Return the largest magnitude of each row [out, 1], or of each block: float64, of the shape `scale_shape`."""
    if block is None:
        low, high = extremes(weight)
        return torch.maximum(-low, high)
    rows, columns = block
    out_features, in_features = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -in_features % columns))
    # [out, in] -> [out, blocks, columns] -> [out, blocks, 1]
    low, high = extremes(padded.view(out_features, -1, columns))
    largest = torch.nn.functional.pad(torch.maximum(-low, high)[..., 0], (0, 0, 0, -out_features % rows))
    # [out, blocks] -> [blocks of outputs, rows, blocks] -> [blocks of outputs, blocks]
    return largest.view(-1, rows, largest.shape[1]).amax(1)


def _encode(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return weight / scale as codes; `scale` is [rows, 1] or [in]."""
    return weight.to(torch.float32, copy=True).div_(scale.float()).to(CODES)


def _decode(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return codes * scale in `dtype`; `scale` is [1, 1], [rows, 1] or [in]."""
    return float8_values(codes).mul_(scale.float()).to(dtype)


def _float16(codes: torch.Tensor) -> torch.Tensor:
    """Return codes / 256 as float16: sign, exponent and mantissa move to their places, with the highest exponent 0."""
    # int8 -> int16 repeats the sign bit; the shift leaves it in bits 14 and 15, of which 14 becomes 0.
    return codes.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16)
