"""Pack codes of 2 to 8 bits into 32-bit words, as GPTQ and compressed-tensors store them, and back."""

from math import lcm

import torch

WORD_BITS = (2, 3, 4, 5, 6, 7, 8)

# Words that are packed at one time: temporaries of this size stay in the cache.
_CHUNK_WORDS = 2**17


def pack_words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes along the first dimension into words: each column becomes one string of bits, low bits first.

    Code i of a column is bits `bits * i` to `bits * (i + 1) - 1` of its string. With 3 bits, 32 codes fill 3 words, and
    two codes are split between words. GPTQ's qweight [K * bits / 32, N] is `pack_words` of the codes [K, N], its qzeros
    [G, N * bits / 32] that of the zero points transposed, and transposed back (auto-gptq 0.7.1, qlinear_cuda_old.py).
    compressed-tensors' weight_packed [N, K * bits / 32] is that of the codes [K, N], transposed
    (compressed-tensors 0.20, compressors/pack_quantized/helpers.py).

    Args:
        codes: uint8 [n, m], each below 2^bits; n fills whole words, as every multiple of 32 does.
        bits: 2 to 8.

    Returns:
        int32 [n * bits / 32, m].

    Raises:
        ValueError: another type, shape or number of bits, or a code that does not fit.

    Example: 0x87654321 as a signed number.

        >>> pack_words(torch.tensor([[1], [2], [3], [4], [5], [6], [7], [8]], dtype=torch.uint8), 4).tolist()
        [[-2023406815]]
    """
    block, words_in_block = _block(bits)
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise ValueError(f"codes must be a uint8 matrix, got {codes.dtype} of shape {list(codes.shape)}")
    if len(codes) % block:
        raise ValueError(f"{bits}-bit codes fill whole words in multiples of {block}, got {len(codes)} of them")
    # As a Python number: compared as uint8, 256 would be 0.
    if codes.numel() and codes.amax().item() >= 2**bits:
        raise ValueError(f"{bits}-bit codes must be below {2**bits}, got {codes.amax().item()}")
    # [n, m] -> [blocks, codes in a block, m]
    blocks = codes.unflatten(0, (len(codes) // block, block))
    words = torch.zeros(len(blocks), words_in_block, codes.shape[1], dtype=torch.int32, device=codes.device)
    for rows in _chunks(words):
        for index in range(block):
            word, shift = divmod(index * bits, 32)
            code = blocks[rows, index].to(torch.int32)
            words[rows, word] |= code << shift
            if shift + bits > 32:
                words[rows, word + 1] |= code >> 32 - shift
    # [blocks, words in a block, m] -> [n * bits / 32, m]
    return words.flatten(0, 1)


def unpack_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the codes of `pack_words`: int32 [n * bits / 32, m] -> uint8 [n, m].

    Args:
        words: int32 [rows, m]; rows are those of whole codes, with 3 bits a multiple of 3.
        bits: 2 to 8.

    Raises:
        ValueError: another type, shape or number of bits.
    """
    block, words_in_block = _block(bits)
    if words.dtype != torch.int32 or words.ndim != 2 or len(words) % words_in_block:
        raise ValueError(
            f"words must be an int32 matrix with rows in multiples of {words_in_block}, "
            f"got {words.dtype} of shape {list(words.shape)}"
        )
    # [n * bits / 32, m] -> [blocks, words in a block, m]
    blocks = words.unflatten(0, (len(words) // words_in_block, words_in_block))
    codes = torch.empty(len(blocks), block, words.shape[1], dtype=torch.uint8, device=words.device)
    for rows in _chunks(blocks):
        for index in range(block):
            word, shift = divmod(index * bits, 32)
            # The mask removes the sign bits that an arithmetic shift fills in.
            code = (blocks[rows, word] >> shift).bitwise_and_(2 ** min(bits, 32 - shift) - 1)
            if shift + bits > 32:
                code |= (blocks[rows, word + 1] << 32 - shift).bitwise_and_(2**bits - 1)
            codes[rows, index] = code
    # [blocks, codes in a block, m] -> [n, m]
    return codes.flatten(0, 1)


def _block(bits: int) -> tuple[int, int]:
    """Return the smallest number of codes that fills whole words, and the number of those words."""
    if bits not in WORD_BITS:
        raise ValueError(f"bits must be one of {', '.join(map(str, WORD_BITS))}, got {bits}")
    length = lcm(bits, 32)
    return length // bits, length // 32


def _chunks(blocks: torch.Tensor) -> list[slice]:
    """Return slices of the first dimension of [blocks, words in a block, m] to work on one after the other."""
    step = max(1, _CHUNK_WORDS // max(1, blocks.shape[1] * blocks.shape[2]))
    return [slice(start, start + step) for start in range(0, len(blocks), step)]
