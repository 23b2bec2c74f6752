"""What this machine's processor computes fast."""

from functools import cache

import torch


@cache
def bfloat16_is_fast() -> bool:
    """Whether products of bfloat16 are no slower than float32's.

    On a CPU of AVX2 alone they are 44 to 499 times slower (pytorch issue 146508).
    """
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-any-return]  # noqa: SLF001


@cache
def bfloat16_is_native() -> bool:
    """Whether there are instructions for it, AVX512-BF16 or AMX, which make its products faster than float32's."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001
